namespace LowRank;

/// <summary>y = x, and + v[j] at row-major place idx[j]; x any shape, v [nnz] in parameter precision, idx [nnz] I32 of sorted, distinct places in x → y like x.</summary>
public sealed record AddSparse : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, v, idx) = inputs;
        RequireRowMajor("x", x);
        RequireParameter("v", v, x.DType);
        if (v.Shape.Rank != 1 || v.Shape[0] == 0)
        {
            throw Bad("v", v.Shape, "[nnz] with nnz of at least 1");
        }
        RequirePlaces("idx", idx, v.Shape[0], x.Shape.Count);
        return [x.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, v, idx) = inputs;
        x.Device.Launch(Kernels.AddSparse, new AddSparseArgs { X = x.Data, V = v.Data, Idx = idx.Data, Y = outputs[0].Data, Count = x.Shape.Count, Nnz = v.Shape[0], DType = x.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, v, idx) = inputs;
        var (dx, dv) = (grads[0], grads[1]);
        if (dx.Wanted)
        {
            dx.Accumulate(dy);
        }
        if (dv.Wanted)
        {
            x.Device.Launch(Kernels.TakeSparse, new TakeSparseArgs { X = dy.Data, Idx = idx.Data, V = dv.Data, Nnz = v.Shape[0], DType = dy.DType, Add = Grads.Place.Mask(dv) });
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(inputs[1].Shape.Count, (2 * inputs[0].Shape.Count * inputs[0].DType.Size()) + (8 * inputs[1].Shape.Count));
}
