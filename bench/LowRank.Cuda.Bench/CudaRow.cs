using LowRank.Testing;

namespace LowRank.Cuda.Bench;

using Operand = LowRank.Testing.Operand;

/// <summary>What a peer must be beaten by: its time over ours, on an H100 and on an H200.</summary>
internal readonly record struct Target(string Peer, double H100, double H200);

/// <summary>One line of the table: operands, the calls on them, and what the peer knows the work as.</summary>
/// <param name="Stage">The stage that runs it.</param>
/// <param name="Family">What is computed; the peer chooses its own ways by it.</param>
/// <param name="Shape">Sizes, as the table shows them.</param>
/// <param name="Build">Adds the calls to a set of operands.</param>
/// <param name="Operands">Names that both sides use, and what they are.</param>
internal sealed record CudaRow(string Stage, string Family, string Shape, Action<DataSet> Build, params (string Name, Operand Operand)[] Operands)
{
    /// <summary>Type of the activations and frozen weights.</summary>
    public DType Type { get; init; } = DType.BF16;

    /// <summary>Operations and least bytes of each pass over the data that one call needs: the sum of their floors is the row's.</summary>
    public IReadOnlyList<Cost> Passes { get; init; } = [];

    /// <summary>Numbers of the work beside its operands: scale, heads.</summary>
    public IReadOnlyDictionary<string, double> Attributes { get; init; } = new Dictionary<string, double>();

    /// <summary>What is wanted against which peer.</summary>
    public IReadOnlyList<Target> Targets { get; init; } = [];

    /// <summary>Sets of data; 0: three or more, until they lie beyond the cache.</summary>
    public int Sets { get; init; }

    /// <summary>Largest relative difference of a peer's results that still counts as the same work: it rounds at other places.</summary>
    public double Bound { get; init; } = 2 * Close.Bound(DType.BF16);

    /// <summary>Name in lists and messages.</summary>
    public string Name => $"{Family} {Shape}";
}
