namespace LowRank;

/// <summary>s[k·n + b, i] = lambda[k,b]·a[k,i]·gamma[b,i]; a [r, at least d] frozen, of which the leading d columns count, lambda [r,n], gamma [n,d] → s [r·n, d].
/// The n scaled copies of a random basis as rows of one matrix (RandLoRA, arXiv 2502.00987): all in parameter precision.</summary>
public sealed record ScaleBases : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (a, lambda, gamma) = inputs;
        (int r, int pitch) = RequireMatrix("a", a);
        (int n, int d) = RequireMatrix("gamma", gamma);
        Require("lambda", lambda, [r, n]);
        if (d > pitch)
        {
            throw Bad("a", a.Shape, $"[r, at least {d}]");
        }
        foreach ((string name, Tensor operand) in (ReadOnlySpan<(string, Tensor)>)[("a", a), ("lambda", lambda), ("gamma", gamma)])
        {
            RequireParameter(name, operand, a.DType);
            RequireRowMajor(name, operand);
        }
        return [[checked(r * n), d]];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (a, lambda, gamma) = inputs;
        a.Device.Launch(Kernels.ScaleBasesForward, new ScaleBasesArgs { A = a.Data, Lambda = lambda.Data, Gamma = gamma.Data, S = outputs[0].Data, R = a.Shape[0], N = gamma.Shape[0], D = gamma.Shape[1], Pitch = a.Shape[1], DType = a.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (a, lambda, gamma) = inputs;
        if (a.NeedsGradient)
        {
            throw new InvalidOperationException($"{this}: a is trainable, want the bases frozen");
        }
        var (dlambda, dgamma) = (grads[1], grads[2]);
        a.Device.Launch(Kernels.ScaleBasesBackward, new ScaleBasesGradArgs
        {
            A = a.Data,
            Lambda = lambda.Data,
            Gamma = gamma.Data,
            Ds = dy.Data,
            Dlambda = dlambda.Data,
            Dgamma = dgamma.Data,
            R = a.Shape[0],
            N = gamma.Shape[0],
            D = gamma.Shape[1],
            Pitch = a.Shape[1],
            DType = a.DType,
            Add = Grads.Place.Mask(dlambda, dgamma),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (a, lambda, gamma) = inputs;
        long size = a.DType.Size(), count = lambda.Shape.Count * gamma.Shape[1];
        return new(2 * count, size * (count + (a.Shape[0] * gamma.Shape[1]) + lambda.Shape.Count + gamma.Shape.Count));
    }
}
