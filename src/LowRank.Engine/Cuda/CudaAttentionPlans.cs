namespace LowRank;

/// <summary>Plans of attention: one file a width that heads are filled up to, every tile shape a function of width and type as in attention.cuh.</summary>
internal static class CudaAttentionPlans
{
    private static readonly Heads[] Plain = Widths(""), Shaped = Widths("_shaped");

    /// <summary>y and the log-sum-exp; heads of at most 256 elements and a positive scale.</summary>
    public static bool Forward(CudaStream on, in AttentionArgs a)
    {
        if (For(a.Dim, a.Scale, a.Cap > 0 || a.Bias != 0) is not { } heads)
        {
            return false;
        }
        int queries = heads.Queries(a.DType);
        return on.Run(heads.File, heads.Forward, a.DType, (Tiles(a.Queries, queries), a.Heads, a.Batch), heads.Threads(a.DType), heads.ForwardBytes(a.DType), in a);
    }

    /// <summary>dq, which leaves dy·y of every query in the workspace, then dk and dv. A gradient of the bias is added up by a launch a row of the batch.</summary>
    public static bool Backward(CudaStream on, in AttentionGradArgs a)
    {
        if (For(a.Dim, a.Scale, a.Cap > 0 || a.Bias != 0) is not { } heads)
        {
            return false;
        }
        int threads = heads.Threads(a.DType), own = threads / 2, shared = heads.BackwardBytes(a.DType);
        var planned = new Planned<AttentionGradArgs> { Op = a, Work = on.Workspace((long)a.Batch * a.Heads * a.Queries * sizeof(float)) };
        int together = a.Dbias != 0 ? 1 : a.Batch;
        if (a.Dbias != 0 && ((a.Add >> 3) & 1) == 0)
        {
            on.Clear(a.Dbias, (long)a.Heads * a.Queries * a.Keys * sizeof(float));
        }
        for (; planned.Parts < a.Batch; planned.Parts += together)
        {
            on.Run(heads.File, heads.BackwardQ, a.DType, (Tiles(a.Queries, own), a.Heads, together), threads, shared, in planned);
        }
        planned.Parts = 0;
        (nint K, nint V) want = (a.Dk, a.Dv);
        foreach ((string name, bool k, bool v) in heads.BackwardKv)
        {
            if ((k && want.K != 0) || (v && want.V != 0))
            {
                on.Run(heads.File, name, a.DType, (Tiles(a.Keys, own), a.KvHeads, a.Batch), threads, shared, in planned);
            }
        }
        return true;
    }

    private static Heads[] Widths(string kind) => [new(32, kind), new(64, kind), new(128, kind), new(256, kind)];

    private static Heads? For(int dim, double scale, bool shaped)
    {
        foreach (Heads heads in shaped ? Shaped : Plain)
        {
            if (scale > 0 && dim <= heads.Width)
            {
                return heads;
            }
        }
        return null;
    }

    private static int Tiles(int count, int size) => (count + size - 1) / size;

    /// <summary>The kernels of one width, of plain scores or of shaped ones; sizes in bytes, halves and F32 apart.</summary>
    private sealed class Heads(int width, string kind)
    {
        public int Width => width;

        public string File { get; } = $"attention_{width}{kind}.cu";

        public string Forward { get; } = $"attention_forward_{width}{kind}";

        public string BackwardQ { get; } = $"attention_backward_q_{width}{kind}";

        /// <summary>Which kernels make dk and dv: together, or one each where their sums overflow the registers.</summary>
        public (string Name, bool K, bool V)[] BackwardKv { get; } = width == 256
            ? [($"attention_backward_k_{width}{kind}", true, false), ($"attention_backward_v_{width}{kind}", false, true)]
            : [($"attention_backward_kv_{width}{kind}", true, true)];

        public int Threads(DType type) => type == DType.F32 && width == 256 ? 64 : 128;

        /// <summary>Queries of a forward block.</summary>
        public int Queries(DType type) => Threads(type) / 2 * (type != DType.F32 && width <= 64 ? 2 : 1);

        /// <summary>Two stages of keys and values, and q: beside them, or behind the first where it is held in registers from then on.</summary>
        public int ForwardBytes(DType type)
        {
            bool halves = type != DType.F32;
            int keys = width == 256 ? (halves ? 32 : 16) : width <= 64 || !halves ? 32 : 64, q = Queries(type);
            return (halves && width <= 128 ? (2 * keys) + Math.Max(2 * keys, q) : (4 * keys) + q) * width * type.Size();
        }

        /// <summary>The owner's two tiles, two stages of the other side's two, and two stages of a level and a dot a row.</summary>
        public int BackwardBytes(DType type)
        {
            int rows = (width <= 64 ? 64 : 4096 / width) / (type == DType.F32 ? 2 : 1);
            return ((Threads(type) + (4 * rows)) * width * type.Size()) + (4 * rows * sizeof(float));
        }
    }
}
