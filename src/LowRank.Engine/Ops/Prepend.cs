namespace LowRank;

/// <summary>y[b,0,:] = first, y[b,1+t,:] = x[b,t,:]: a class token before each sequence; x [batch, tokens, d], first [d] → y [batch, tokens+1, d].</summary>
public sealed record Prepend : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, first) = inputs;
        if (x.Shape.Rank != 3)
        {
            throw Bad("x", x.Shape, "[batch, tokens, d]");
        }
        if (first.Shape.Count != x.Shape[2])
        {
            throw Bad("first", first.Shape, $"[{x.Shape[2]}]");
        }
        RequireParameter("first", first, x.DType);
        return [[x.Shape[0], x.Shape[1] + 1, x.Shape[2]]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, first) = inputs;
        x.Device.Launch(Kernels.PrependForward, new PrependArgs { X = x.Data, First = first.Data, Y = outputs[0].Data, Batch = x.Shape[0], Tokens = x.Shape[1], Cols = x.Shape[2], DType = x.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        var (dx, dfirst) = (grads[0], grads[1]);
        x.Device.Launch(Kernels.PrependBackward, new PrependGradArgs { Dy = dy.Data, Dx = dx.Data, Dfirst = dfirst.Data, Batch = x.Shape[0], Tokens = x.Shape[1], Cols = x.Shape[2], DType = x.DType, Add = Grads.Place.Mask(dx, dfirst) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(0, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());
}
