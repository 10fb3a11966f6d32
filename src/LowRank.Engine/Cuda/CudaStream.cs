namespace LowRank;

/// <summary>How a kernel row becomes launches on a CUDA device: a pure function of its arguments and the device. False, before anything was launched,
/// where no kernel takes these arguments.</summary>
internal delegate bool CudaPlan<TArgs>(CudaStream on, in TArgs args) where TArgs : unmanaged, IKernelArgs;

/// <summary>What a plan may do: launch functions in order, and use workspace that lives until the plan ends.</summary>
internal sealed class CudaStream(CudaDriver driver)
{
    /// <summary>How many <see cref="Counters"/> there are.</summary>
    public const int CounterCount = 1 << 14;

    private const int MostMaps = 4096;
    private readonly Dictionary<(nint Data, DType Type, long Rows, long Cols, int BoxRows, int BoxCols), TensorMap> maps = [];
    private List<nint>? outgrown;     // of a recording: blocks that its first launches use
    private Room workspace, scratch, workspaceAside, scratchAside;
    private nuint used;

    /// <summary>Compute capability times 10.</summary>
    public int Architecture => driver.Architecture;

    /// <summary>Multiprocessors of the device.</summary>
    public int Multiprocessors => driver.Multiprocessors;

    /// <summary>Integers that are zero at the start of every launch that uses them, and that it leaves at zero: made with the stream, so that launches can be
    /// recorded and replayed as they are. 0 where no kernel of the device wants them.</summary>
    public nint Counters { get; private set; } = driver.Architecture == 90 ? Zeros(driver) : 0;

    /// <summary>Device memory of undefined content, aligned to 256 bytes, until the plan ends. Ask for all of it before the first launch.</summary>
    public nint Workspace(long bytes)
    {
        var rounded = (nuint)((bytes + 255) & ~255L);
        if (used + rounded > workspace.Size)
        {
            if (used > 0)
            {
                throw new InvalidOperationException("CudaStream: a plan asked for more workspace than it reserved; call Reserve with the sum first");
            }
            Reserve((long)rounded);
        }
        nint block = workspace.Block + (nint)used;
        used += rounded;
        return block;
    }

    /// <summary>Makes room for so many bytes of workspace in all.</summary>
    public void Reserve(long bytes)
    {
        if ((nuint)bytes > workspace.Size)
        {
            Grow(ref workspace, (nuint)((bytes + (1 << 20) - 1) & ~((1L << 20) - 1)));
        }
    }

    /// <summary>As <see cref="CudaDriver.Encode"/>, once for each matrix: equal steps see equal addresses.</summary>
    public TensorMap Map(nint data, DType type, long rows, long cols, int boxRows, int boxCols)
    {
        var key = (data, type, rows, cols, boxRows, boxCols);
        if (!maps.TryGetValue(key, out TensorMap map))
        {
            if (maps.Count == MostMaps)
            {
                maps.Clear();
            }
            maps.Add(key, map = driver.Encode(data, type, rows, cols, boxRows, boxCols));
        }
        return map;
    }

    /// <summary>Device memory beside the workspace that all plans share, one holder at a time: a quantised matrix spelled out.</summary>
    public nint Scratch(long bytes)
    {
        if ((nuint)bytes > scratch.Size)
        {
            Grow(ref scratch, (nuint)bytes);
        }
        return scratch.Block;
    }

    /// <summary>Sets device memory to zero.</summary>
    /// <returns>True.</returns>
    public bool Clear(nint block, long bytes)
    {
        driver.Clear(block, (nuint)bytes);
        return true;
    }

    /// <summary>Launches a function; nothing to do where the grid is empty.</summary>
    /// <returns>True, so that a plan of one launch is one expression.</returns>
    public unsafe bool Run<TArgs>(string file, string name, DType type, (long X, long Y, long Z) blocks, int threads, int shared, in TArgs args, bool together = false) where TArgs : unmanaged
    {
        if (blocks.X <= 0 || blocks.Y <= 0 || blocks.Z <= 0)
        {
            return true;
        }
        fixed (TArgs* p = &args)
        {
            driver.Launch(new CudaLaunch(file, name, type, (checked((uint)blocks.X), checked((uint)blocks.Y), checked((uint)blocks.Z)), threads, shared) { Together = together }, p, sizeof(TArgs));
        }
        return true;
    }

    /// <summary>The plan has ended.</summary>
    public void End() => used = 0;

    /// <summary>From here on workspace belongs to a recording: what its launches use is given to nobody else.</summary>
    public void BeginRecording()
    {
        outgrown = [];
        (workspaceAside, scratchAside, workspace, scratch) = (workspace, scratch, default, default);
    }

    /// <summary>Back to the workspace of before.</summary>
    /// <returns>Blocks that the recording needs while it lives.</returns>
    public IReadOnlyList<nint> EndRecording()
    {
        Outgrow(ref workspace);
        Outgrow(ref scratch);
        IReadOnlyList<nint> kept = outgrown!;
        (workspace, scratch, outgrown) = (workspaceAside, scratchAside, null);
        return kept;
    }

    /// <summary>Gives the workspace back.</summary>
    public void Free()
    {
        Outgrow(ref workspace);
        Outgrow(ref scratch);
        maps.Clear();
        if (Counters != 0)
        {
            driver.Release(Counters);
            Counters = 0;
        }
    }

    private static nint Zeros(CudaDriver driver)
    {
        nint block = driver.Allocate(CounterCount * sizeof(int));
        driver.Clear(block, CounterCount * sizeof(int));
        return block;
    }

    private void Grow(ref Room room, nuint bytes)
    {
        Outgrow(ref room);
        room = new(driver.Allocate(bytes), bytes);
    }

    private void Outgrow(ref Room room)
    {
        if (room.Block != 0)
        {
            if (outgrown is null)
            {
                driver.Release(room.Block);
            }
            else
            {
                outgrown.Add(room.Block);
            }
        }
        room = default;
    }

    private readonly record struct Room(nint Block, nuint Size);
}
