using LowRank.Adapters;

namespace LowRank.Training;

/// <summary>LoRA-FA (arXiv 2308.03303) as PEFT's create_lorafa_optimizer computes it: A stays as it is; dB becomes dB·(A·Aᵀ + 1e-8·I)⁺/s², the least-squares
/// step of W, and then AdamW in its late form. What has no A beside it takes that form alone.</summary>
public sealed class LoraFa : AdamW
{
    private const double Delta = 1e-8;
    private readonly (LoraPair Pair, Tensor Inverse)[] pairs;

    /// <summary>Freezes A of every layer and packs what is left to train.</summary>
    /// <exception cref="AdapterConfigException">The adapters have no A and B.</exception>
    public LoraFa(AdaptedModel adapted)
        : base(WithoutA(adapted))
    {
        (Late, Epsilon, WeightDecay) = (true, 1e-6, 0);
        using Scope scope = Pack.Values.Device.BeginScope();
        pairs = [.. LoraPair.Of(adapted).Select(p => (p, InverseGram.Of(p.A.Value, columns: false, Delta, scope).CopyTo(Pack.Store)))];
    }

    /// <inheritdoc/>
    protected override void Update(StepData step)
    {
        using (Pack.Values.Device.BeginScope())
        {
            foreach ((LoraPair pair, Tensor inverse) in pairs)
            {
                if (Moves(pair.B) && pair.B.Gradient is { } db)
                {
                    db.CopyFrom(new MatMul(Scale: 1 / (pair.Scale * pair.Scale)).Apply(InverseGram.Matrix(db), inverse));
                }
            }
        }
        base.Update(step);
    }

    private static Parameter[] WithoutA(AdaptedModel adapted)
    {
        IReadOnlyList<LoraPair> pairs = LoraPair.Of(adapted);
        if (pairs.Count == 0)
        {
            throw new AdapterConfigException($"LoraFa: the adapters are {adapted.Config.GetType().Name}, want LoRA, whose B is trained beside a frozen A");
        }
        foreach (LoraPair pair in pairs)
        {
            pair.A.Frozen = true;
        }
        return [.. adapted.Parameters.Where(p => !p.Frozen)];
    }
}
