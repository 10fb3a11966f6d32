namespace LowRank;

/// <summary>Base of y = f(x, z) where z repeats: x [..., p], z of p elements that match the last dimensions of x → y like x.</summary>
public abstract record Binary : Op
{
    private protected abstract Kernel<BinaryArgs> Forward { get; }

    private protected abstract Kernel<BinaryGradArgs> Gradient { get; }

    private protected virtual double Factor => 1;

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, z) = inputs;
        if (z.Shape.Count == 0 ? x.Shape.Count != 0 : x.Shape.Count % z.Shape.Count != 0 || !EndsWith(x.Shape, z.Shape))
        {
            throw Bad("z", z.Shape, $"the last dimensions of {x.Shape}");
        }
        if (z.DType != x.DType)
        {
            RequireParameter("z", z, x.DType);
        }
        return [x.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, z) = inputs;
        x.Device.Launch(Forward, new BinaryArgs { X = x.Data, Z = z.Data, Y = outputs[0].Data, Count = x.Shape.Count, Period = Math.Max(1, z.Shape.Count), Alpha = Factor, DType = x.DType, ZType = z.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, z) = inputs;
        var (dx, dz) = (grads[0], grads[1]);
        x.Device.Launch(Gradient, new BinaryGradArgs
        {
            X = x.Data,
            Z = z.Data,
            Dy = dy.Data,
            Dx = dx.Data,
            Dz = dz.Data,
            Count = x.Shape.Count,
            Period = Math.Max(1, z.Shape.Count),
            Alpha = Factor,
            DType = x.DType,
            ZType = z.DType,
            Add = Grads.Place.Mask(dx, dz),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, z) = inputs;
        return new(2 * x.Shape.Count, (2 * x.Shape.Count * x.DType.Size()) + (z.Shape.Count * z.DType.Size()));
    }

    /// <summary>True if z, leading ones dropped, are the last dimensions of x.</summary>
    private static bool EndsWith(Shape x, Shape z)
    {
        int lead = 0;
        while (lead < z.Rank && z[lead] == 1)
        {
            lead++;
        }
        int rest = z.Rank - lead;
        for (int i = 1; i <= rest; i++)
        {
            if (i > x.Rank || x[x.Rank - i] != z[z.Rank - i])
            {
                return false;
            }
        }
        return true;
    }
}
