namespace LowRank;

/// <summary>Where one adapter's factors stand in the packed A [R,k] and B [R,n] of a layer.</summary>
/// <param name="First">Its first row.</param>
/// <param name="Rank">Its rows, 0 to <see cref="AdapterTable.MostRank"/>; 0: the adapter leaves this layer as it is.</param>
/// <param name="Scale">s of y + s·(x·Aᵀ)·B.</param>
public readonly record struct AdapterRange(int First, int Rank, double Scale);

/// <summary>The adapters of one layer by index.</summary>
public sealed class AdapterTable
{
    /// <summary>The largest rank a kernel takes.</summary>
    public const int MostRank = 128;

    private readonly AdapterRange[] ranges;
    private readonly DeviceTable<LoraRange> table;

    /// <summary>A table of the given ranges; they may overlap (a factor shared by adapters of different scale).</summary>
    /// <exception cref="ShapeException">A range starts before row 0, or its rank is not 0 .. 128.</exception>
    public AdapterTable(params ReadOnlySpan<AdapterRange> ranges)
    {
        this.ranges = ranges.ToArray();
        for (int i = 0; i < ranges.Length; i++)
        {
            if (ranges[i].Rank is < 0 or > MostRank)
            {
                throw new ShapeException($"AdapterTable: rank of adapter {i} is {ranges[i].Rank}, want 0 .. {MostRank}");
            }
            if (ranges[i].First < 0)
            {
                throw new ShapeException($"AdapterTable: first row of adapter {i} is {ranges[i].First}, want 0 or more");
            }
            LargestRank = Math.Max(LargestRank, ranges[i].Rank);
            Rows = Math.Max(Rows, (long)ranges[i].First + ranges[i].Rank);
        }
        table = new([.. this.ranges.Select(r => new LoraRange { Scale = r.Scale, First = r.First, Rank = r.Rank })]);
    }

    /// <summary>Number of adapters.</summary>
    public int Count => ranges.Length;

    /// <summary>Rows of A and B that the ranges reach to.</summary>
    public long Rows { get; }

    /// <summary>The largest rank that occurs.</summary>
    public int LargestRank { get; }

    /// <summary>An adapter's range.</summary>
    public AdapterRange this[int adapter] => ranges[adapter];

    /// <summary>How many adapters of which ranks.</summary>
    public override string ToString() => $"{Count} adapters of rank {string.Join(", ", ranges.Select(r => r.Rank).Distinct().Order())}";

    internal nint On(Scope scope) => table.On(scope);
}
