namespace LowRank.Adapters;

/// <summary>LoRA+ (arXiv 2402.12354): B learns faster than A. Groups as PEFT's create_loraplus_optimizer makes them.</summary>
public static class LoraPlus
{
    /// <summary>Sets learning-rate factors and weight decay: A at the optimiser's rate; B and everything one-dimensional at <paramref name="ratio"/> times it;
    /// adapters of embeddings at <paramref name="embeddingRate"/>. Biases and norms take no decay.</summary>
    /// <param name="parameters">What is trained.</param>
    /// <param name="learningRate">The optimiser's rate, before any schedule.</param>
    /// <param name="ratio">How much faster B learns.</param>
    /// <param name="embeddingRate">Rate of adapters on embeddings.</param>
    /// <param name="weightDecay">Decay of matrices.</param>
    /// <exception cref="AdapterConfigException">A rate or the ratio is not positive, or the decay negative.</exception>
    public static void Apply(IEnumerable<Parameter> parameters, double learningRate, double ratio = 16, double embeddingRate = 1e-6, double weightDecay = 0)
    {
        if (!(learningRate > 0 && ratio > 0 && embeddingRate > 0 && weightDecay >= 0))
        {
            throw new AdapterConfigException($"LoraPlus: learningRate is {learningRate}, ratio {ratio}, embeddingRate {embeddingRate}, weightDecay {weightDecay}, want the first three above 0 and no negative decay");
        }
        foreach (Parameter parameter in parameters)
        {
            bool lookup = parameter.Name.Contains("lora_embedding", StringComparison.Ordinal), flat = parameter.Value.Shape.Rank == 1;
            bool fast = flat || parameter.Name.Contains("lora_B", StringComparison.Ordinal);
            parameter.LearningRateScale = lookup ? embeddingRate / learningRate : fast ? ratio : 1;
            bool biasOrNorm = parameter.Name.Contains("bias", StringComparison.Ordinal) || (flat && parameter.Name.EndsWith(".weight", StringComparison.Ordinal));
            parameter.WeightDecay = biasOrNorm ? 0 : weightDecay;
        }
    }
}
