using System.Collections.Concurrent;

namespace LowRank;

/// <summary>The part of a result that a block of the Hopper products makes, in rows and columns.</summary>
internal readonly record struct HopperTile(int Rows, int Cols)
{
    private const int Depth = 64, MostStages = 6, SharedBytes = 232448, BarrierBytes = 256;

    // What a tile costs on one multiprocessor, in cycles a step of 16: its matrix instructions, and for narrow tiles what reading shared memory adds.
    private static readonly (HopperTile Tile, int Cycles)[] Costs = [(new(128, 256), 256), (new(128, 128), 140), (new(64, 128), 80)];

    /// <summary>Every tile that the kernels have.</summary>
    public static IEnumerable<HopperTile> All => Costs.Select(c => c.Tile);

    /// <summary>Threads of a block: a producer group of 128, and as many for each 64 rows.</summary>
    public int Threads => 128 + (2 * Rows);

    /// <summary>Whole waves of tiles times the cost of one; the larger tile where two are equal. A function of shape and device.</summary>
    public static HopperTile For(int m, int n, int multiprocessors)
    {
        (HopperTile best, long least) = (default, long.MaxValue);
        foreach ((HopperTile tile, int cycles) in Costs)
        {
            long cost = ((((long)tile.RowTiles(m) * tile.ColTiles(n)) + multiprocessors - 1) / multiprocessors) * cycles;
            (best, least) = cost < least ? (tile, cost) : (best, least);
        }
        return best;
    }

    public int RowTiles(int m) => (m + Rows - 1) / Rows;

    public int ColTiles(int n) => (n + Cols - 1) / Cols;

    /// <summary>Dynamic shared memory of a block whose kernel makes a rank of its own, padded to <paramref name="rank"/> (0: none): as many stages as fit.</summary>
    public int Shared(int rank)
    {
        int stage = 2 * Depth * (Rows + Cols + rank);
        return (Math.Min(MostStages, (SharedBytes - BarrierBytes) / stage) * stage) + BarrierBytes;
    }

    public override string ToString() => $"{Rows}x{Cols}";
}

/// <summary>Plans on the wgmma products of mainloop_sm90.cuh, which want 16-bit operands of one type, each a whole matrix whose lines start on 16 bytes.
/// False, before anything was launched, where they are not, or where less than a tile's worth of work would waste the machine.</summary>
internal static class CudaHopperPlans
{
    // Kept, because a launch allocates nothing.
    private static readonly ConcurrentDictionary<(string Role, HopperTile Tile, int Rank), (string File, string Name)> Names = new();

    private const int Line = 16, Depth = 64, Least = 64, MostRank = 128, RowsOfGroup = 2048;

    /// <summary>The LoRA forward in one persistent launch, t made by its first column. Dropout on the adapter's input (Xa) and ranks above 128 take
    /// the way of two products instead.</summary>
    public static bool TryForward(CudaStream on, in LoraArgs a) => TryForward(on, in a, HopperTile.For(a.Tokens, a.N, Math.Max(1, on.Multiprocessors)));

    /// <summary>The same with a tile as given.</summary>
    internal static bool TryForward(CudaStream on, in LoraArgs a, HopperTile tile)
    {
        int flags = 2 + (tile.RowTiles(a.Tokens) * tile.Rows / 64);
        if (!Takes(on, a.DType, a.Tokens, a.N, a.K) || a.WType != a.DType || a.WLayout != Layout.Rows || a.R is < 1 or > MostRank || a.Xa != 0 || a.K % 8 != 0
            || a.X % Line != 0 || a.W % Line != 0 || a.Y % Line != 0 || a.Y0 % Line != 0 || flags > CudaStream.CounterCount)
        {
            return false;
        }
        int rank = a.R <= 16 ? 16 : a.R <= 32 ? 32 : a.R <= 64 ? 64 : 128;
        long aBytes = Round(2L * rank * a.K), bBytes = Round(2L * a.N * rank), tBytes = Round(2L * a.Tokens * rank);
        on.Reserve(aBytes + bBytes + tBytes);
        nint a16 = on.Workspace(aBytes), b16 = on.Workspace(bBytes), t16 = on.Workspace(tBytes);
        Pad(on, a.DType, a.A, a.R, a.K, a16, rank, a.K);
        Pad(on, a.DType, a.B, a.N, a.R, b16, a.N, rank);
        return Run(on, "lora", a.DType, tile, rank, new Sm90Args
        {
            X = on.Map(a.X, a.DType, a.Tokens, a.K, tile.Rows, Depth),
            W = on.Map(a.W, a.DType, a.N, a.K, tile.Cols, Depth),
            Down = on.Map(a16, a.DType, rank, a.K, rank, Depth),
            Tail = on.Map(b16, a.DType, a.N, rank, tile.Cols, Depth),
            C = a.C,
            Bias = a.Bias,
            Y = a.Y,
            Y0 = a.Y0,
            T32 = a.T,
            T16 = t16,
            M = a.Tokens,
            N = a.N,
            K = a.K,
            R = a.R,
            YType = a.DType,
            Scale = (float)a.Scale,
        });
    }

    /// <summary>A product where its operands fit: both along their steps, the right one across, or both across. A factor along the steps does not fit,
    /// nor do c, bias and y0 beside a right operand across, which a gradient has none of.</summary>
    public static bool TryMultiply(CudaStream on, in GemmArgs a) => TryMultiply(on, in a, HopperTile.For(a.M, a.N, Math.Max(1, on.Multiprocessors)));

    /// <summary>The same with a tile as given.</summary>
    internal static bool TryMultiply(CudaStream on, in GemmArgs a, HopperTile tile)
    {
        DType type = a.A.DType;
        bool acrossA = a.A.StepStride != 1, acrossB = a.B.StepStride != 1, wide = acrossA && acrossB && a.YType == DType.F32;
        if (!Takes(on, type, a.M, a.N, a.K) || (acrossA && !acrossB) || !Whole(a.A, type, a.M, a.K) || !Whole(a.B, type, a.N, a.K) || a.W != 0
            || a.YRowStride != a.N || a.YColStride != 1 || a.Y % Line != 0 || a.Y0 % Line != 0 || (a.YType != type && !wide) || (acrossB && (a.C != 0 || a.Bias != 0 || a.Y0 != 0)))
        {
            return false;
        }
        if (a.R > 0 && (acrossA || a.Scale != 1 || a.R % 16 != 0 || !Whole(a.Ta, type, a.M, a.R) || a.Ta.StepStride != 1 || !Whole(a.Tb, type, a.N, a.R) || acrossB != (a.Tb.StepStride != 1)))
        {
            return false;
        }
        return Run(on, acrossA ? "weight" : acrossB ? "input" : "forward", type, tile, 0, new Sm90Args
        {
            X = Map(a.A, a.M, a.K, tile.Rows),
            W = Map(a.B, a.N, a.K, tile.Cols),
            Tail = a.R > 0 ? Map(a.Tb, a.N, a.R, tile.Cols) : default,
            C = a.C,
            Bias = a.Bias,
            Y = a.Y,
            Y0 = a.Y0,
            T16 = a.R > 0 ? a.Ta.Data : 0,
            M = a.M,
            N = a.N,
            K = a.K,
            R = a.R,
            TPitch = a.R,
            YType = a.YType,
            Scale = (float)a.Scale,
            Add = a.Add & 1,
        });

        TensorMap Map(in GemmOperand o, int rows, int steps, int box) =>
            o.StepStride == 1 ? on.Map(o.Data, o.DType, rows, steps, box, Depth) : on.Map(o.Data, o.DType, steps, rows, Depth, Depth);
    }

    // Tickets and flags order the blocks of one grid, which runs as one: at most a block a multiprocessor.
    private static bool Run(CudaStream on, string role, DType type, HopperTile tile, int rank, Sm90Args args)
    {
        (string file, string name) = Names.TryGetValue((role, tile, rank), out (string, string) known) ? known : Names.GetOrAdd((role, tile, rank), static key =>
            key.Rank > 0 ? ($"lora_r{key.Rank}_sm90.cu", $"lora_forward_{key.Tile}_r{key.Rank}") : ($"linear_{key.Role}_sm90.cu", $"linear_{key.Role}_{key.Tile}"));
        args.Counters = on.Counters;
        args.RowTiles = tile.RowTiles(args.M);
        args.ColTiles = tile.ColTiles(args.N);
        args.Group = RowsOfGroup / tile.Rows;
        return on.Run(file, name, type, (Math.Min((long)args.RowTiles * args.ColTiles, on.Multiprocessors), 1, 1), tile.Threads, tile.Shared(rank), in args, together: true);
    }

    private static bool Takes(CudaStream on, DType type, int m, int n, int k) => on.Architecture == 90 && (type is DType.BF16 or DType.F16) && m >= Least && n >= Least && k >= Least;

    // Element (row, step) of a matrix [rows, steps], or of [steps, rows] read across
    private static bool Whole(in GemmOperand o, DType type, int rows, int steps) => o.DType == type && o.Factor == 0 && o.Data % Line == 0
        && (o.StepStride == 1 ? o.RowStride == steps && steps % 8 == 0 : o.RowStride == 1 && o.StepStride == rows && rows % 8 == 0);

    private static void Pad(CudaStream on, DType type, nint from, int fromRows, int fromCols, nint to, int rows, int cols) =>
        on.Run("rows.cu", "pad", type, (Math.Min((((long)rows * cols) + 255) / 256, 32L * on.Multiprocessors), 1, 1), 256, 0, new PadArgs { From = from, To = to, FromRows = fromRows, FromCols = fromCols, Rows = rows, Cols = cols });

    private static long Round(long bytes) => (bytes + 255) & ~255L;
}
