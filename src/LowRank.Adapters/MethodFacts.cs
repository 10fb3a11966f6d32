namespace LowRank.Adapters;

/// <summary>What a row of the status table is about.</summary>
public enum MethodKind
{
    /// <summary>Trained beside frozen weights.</summary>
    Adapter,
    /// <summary>Weights of the model itself are trained.</summary>
    Mode,
    /// <summary>Moves parameters.</summary>
    Optimizer,
    /// <summary>Fits data of its own, without a model.</summary>
    Solver,
    /// <summary>Makes up for what a compression loses.</summary>
    Compression,
    /// <summary>Makes one model of many.</summary>
    Merging,
}

/// <summary>What is true of a method today. The README's status table and <c>lowrank methods</c> are made of it.</summary>
/// <param name="Name">As its paper spells it.</param>
/// <param name="Kind">What it works on.</param>
/// <param name="Sheet">The sheet with its mathematics, which golden folders are named after too.</param>
/// <param name="Golden">Folders of golden data that hold cases of it, in tests/golden or under a root of LOWRANK_GOLDEN.</param>
/// <param name="Gradient">What its gradients are held to: central differences of float64 references, goldens; null where it has none of its own.</param>
public sealed record MethodFacts(string Name, MethodKind Kind, string Sheet, IReadOnlyList<string> Golden, string? Gradient)
{
    /// <summary>What the CPU runs it with.</summary>
    public string Cpu { get; init; } = "native";

    /// <summary>What the emulated CUDA device runs it with.</summary>
    public string Emulated { get; init; } = "kernels";

    /// <summary>What a CUDA device runs it with.</summary>
    public string Cuda { get; init; } = "GPU-pending";

    /// <summary>Whether it can be merged into the weights and taken out again; null where there is nothing to merge.</summary>
    public bool? Merge { get; init; }

    /// <summary>What of PEFT's files is read and written; null where PEFT has no file for it.</summary>
    public string? Peft { get; init; }
}
