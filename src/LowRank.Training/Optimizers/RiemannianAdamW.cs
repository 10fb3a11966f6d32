using LowRank.Adapters;

namespace LowRank.Training;

/// <summary>AdamW on gradients that are scaled to the geometry of B·A (arXiv 2402.02347, as PEFT's example computes it): dA becomes (Bᵀ·B + δI)⁺·dA and dB
/// becomes dB·(A·Aᵀ + δI)⁺, after clipping.</summary>
public sealed class RiemannianAdamW : AdamW
{
    private readonly IReadOnlyList<LoraPair> pairs;

    /// <summary>Packs what the adapters train.</summary>
    /// <exception cref="AdapterConfigException">The adapters have no A and B.</exception>
    public RiemannianAdamW(AdaptedModel adapted)
        : base(adapted.Parameters)
    {
        pairs = LoraPair.Of(adapted);
        if (pairs.Count == 0)
        {
            Dispose();
            throw new AdapterConfigException($"RiemannianAdamW: the adapters are {adapted.Config.GetType().Name}, want LoRA, whose A and B scale each other");
        }
    }

    /// <summary>δ.</summary>
    public double Regularization { get; init; } = 1e-6;

    /// <inheritdoc/>
    protected override string? WhyNotPerLayer => "the step of A reads B as it was before its own";

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        using (Scope scope = Pack.Values.Device.BeginScope())
        {
            foreach (LoraPair pair in pairs)
            {
                if (pair.A.Gradient is { } da)
                {
                    da.CopyFrom(new MatMul().Apply(InverseGram.Of(InverseGram.Matrix(pair.B.Value), columns: true, Regularization, scope), InverseGram.Matrix(da)));
                }
                if (pair.B.Gradient is { } db)
                {
                    db.CopyFrom(new MatMul().Apply(InverseGram.Matrix(db), InverseGram.Of(pair.A.Value, columns: false, Regularization, scope)));
                }
            }
        }
        base.Update(step);
    }
}
