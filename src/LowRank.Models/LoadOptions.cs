namespace LowRank.Models;

/// <summary>How a model is loaded.</summary>
public sealed record LoadOptions
{
    /// <summary>Type of the activations: F32, BF16 or F64. Matrices of linear layers take it too; all other weights are F32, or F64 with F64.</summary>
    public DType Type { get; init; } = DType.F32;

    /// <summary>Names of the classes of a new, random output layer in place of the file's; null keeps the file's.</summary>
    public IReadOnlyList<string>? Classes { get; init; }

    /// <summary>Seed of that output layer.</summary>
    public ulong Seed { get; init; }

    /// <summary>Pack the frozen matrices for the device's matrix kernels: faster while they stay frozen. Thawing unpacks.</summary>
    public bool Pack { get; init; } = true;
}
