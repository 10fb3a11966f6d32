namespace LowRank.Adapters;

/// <summary>How <see cref="ConcreteMerge"/> learns. Concrete task arithmetic: as it stands. Concrete AdaMerging: <see cref="Adaptive"/>. AdaMerging (arXiv
/// 2310.02575): <see cref="Adaptive"/> without <see cref="Masked"/>.</summary>
public sealed record ConcreteOptions
{
    /// <summary>A mask over the weights is learned, shared by all tasks.</summary>
    public bool Masked { get; init; } = true;

    /// <summary>The λ are learned too.</summary>
    public bool Adaptive { get; init; }

    /// <summary>A λ for each task and tensor; else for each task.</summary>
    public bool LayerWise { get; init; }

    /// <summary>λ at the start of each bi-level step and of adaptation.</summary>
    public double Lambda { get; init; } = 0.3;

    /// <summary>The same for each task, where they differ.</summary>
    public IReadOnlyList<double>? Lambdas { get; init; }

    /// <summary>λ act as clamped to [0, 1].</summary>
    public bool Clamp { get; init; }

    /// <summary>Temperature of the mask's distribution.</summary>
    public double Temperature { get; init; } = 0.5;

    /// <summary>In the entropy, -Σ p·log(p + ε).</summary>
    public double EntropyEpsilon { get; init; } = 1e-8;

    /// <summary>Steps of the mask.</summary>
    public int Steps { get; init; } = 2000;

    /// <summary>Learning rate of the mask's logits.</summary>
    public double MaskRate { get; init; } = 1e-3;

    /// <summary>Learning rate of λ inside a step of the mask.</summary>
    public double InnerRate { get; init; } = 1;

    /// <summary>Steps of λ under the finished mask, or without one; 0: they stay where the last bi-level step left them.</summary>
    public int AdaptationSteps { get; init; } = 1000;

    /// <summary>Learning rate of λ there.</summary>
    public double AdaptationRate { get; init; } = 1e-3;

    /// <summary>A new mask is drawn between the step of λ and that of the mask, as the paper's first code does; else both see one.</summary>
    public bool FreshMasks { get; init; }

    /// <summary>Order of the tensors; null: that of the base's file.</summary>
    public IReadOnlyList<string>? Order { get; init; }

    /// <summary>Of the masks.</summary>
    public ulong Seed { get; init; }

    /// <summary>Type of weights and masks: F32 or F64.</summary>
    public DType Type { get; init; } = DType.F32;

    /// <summary>What stands in for uniform numbers: number of the draw and tensor.</summary>
    internal Func<int, string, double[]>? Draws { get; init; }
}

/// <summary>A step that was made.</summary>
/// <param name="Phase">mask, inner (λ inside a step of the mask) or adaptation.</param>
/// <param name="Step">From 0, in its phase.</param>
/// <param name="Loss">Entropy, summed over tasks, before the step.</param>
public readonly record struct ConcreteProgress(string Phase, int Step, double Loss);
