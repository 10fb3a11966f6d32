namespace LowRank.Adapters;

/// <summary>The two factors of one layer's LoRA, W_eff = W + Scale·B·A, for optimisers that look at both.</summary>
/// <param name="A">[r, in].</param>
/// <param name="B">[out, r].</param>
/// <param name="Scale">s.</param>
public sealed record LoraPair(Parameter A, Parameter B, double Scale)
{
    /// <summary>The pairs of a model, in the order of its layers.</summary>
    public static IReadOnlyList<LoraPair> Of(AdaptedModel adapted) => [.. adapted.Adapters.OfType<Lora>().Select(l => l.Pair)];
}
