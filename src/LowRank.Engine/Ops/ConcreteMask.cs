namespace LowRank;

/// <summary>A mask drawn from the binary Concrete distribution with logits x, over its own mean: m = clamp(σ((log(u/(1-u)) + x)/Temperature), tiny, 1-ε),
/// s = m/mean(m), so that mean(s) = 1 (arXiv 2312.06173; the sampler as torch's RelaxedBernoulli). x of any shape; u of the same, or absent: Philox(Seed,
/// Stream, index); both in parameter precision → s like x; saves mean(m) [1]. u is clamped to [ε, 1-ε] and x to ±log((1-ε)/ε) first, ε the distance from 1
/// to the next number. dx = (ds - mean(ds ⊙ s))·s·(1-m)/Temperature, the second term through the mean; 0 where x or m lies on a clamp.</summary>
public sealed record ConcreteMask(double Temperature, ulong Seed = 0, ulong Stream = 0) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        Tensor x = inputs[0];
        if (x.DType is not (DType.F32 or DType.F64) || x.Shape.Count == 0)
        {
            throw Bad("x", x, "F32 or F64, at least one element");
        }
        RequireRowMajor("x", x);
        Require("u", inputs.Optional(1), x.Shape);
        RequireParameter("u", inputs.Optional(1), x.DType);
        return Temperature > 0 && double.IsFinite(Temperature) ? [x.Shape, [1]] : throw Bad("Temperature", Temperature, "more than 0 and finite");
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        Tensor x = inputs[0];
        if (inputs.Optional(1) is null)
        {
            x.Device.RequireNotRecording($"{this}, whose replays would all draw the same mask,");
        }
        x.Device.Launch(Kernels.ConcreteMaskForward, new ConcreteMaskArgs
        {
            X = x.Data,
            U = inputs.Optional(1)?.Data ?? 0,
            S = outputs[0].Data,
            Mean = outputs[1].Data,
            Count = x.Shape.Count,
            Seed = Seed,
            Stream = Stream,
            Temperature = Temperature,
            DType = x.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0];
        Grads.Place dx = grads[0];
        x.Device.Launch(Kernels.ConcreteMaskBackward, new ConcreteMaskGradArgs
        {
            X = x.Data,
            S = outputs[0].Data,
            Mean = outputs[1].Data,
            Ds = dy.Data,
            Dx = dx.Data,
            Count = x.Shape.Count,
            Temperature = Temperature,
            DType = x.DType,
            Add = Grads.Place.Mask(dx),
        });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(40 * inputs[0].Shape.Count, (inputs.Optional(1) is null ? 4 : 5) * inputs[0].Shape.Count * inputs[0].DType.Size());
}
