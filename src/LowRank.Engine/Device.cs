using System.Diagnostics;

namespace LowRank;

/// <summary>Memory and launches: what a processor offers. It knows kernels, never ops. One owner thread at a time.</summary>
public abstract class Device : IDisposable
{
    private readonly BlockCache spare = new();
    private readonly Dictionary<string, long> fallbacks = [];
    private readonly List<Scope> stores = [];
    private readonly List<Graph> graphs = [];
    private bool disposed;

    /// <summary>Short name: <c>cpu</c>, <c>cuda:0</c>, <c>emulated</c>.</summary>
    public abstract string Name { get; }

    /// <summary>The innermost open scope or tape, where new tensors live; null outside of any.</summary>
    public Scope? Current { get; internal set; }

    /// <summary>Fill fresh memory with NaN and guard every tensor; a write outside of a tensor then fails when its scope ends. For tests.</summary>
    public bool CheckMemory { get; set; }

    /// <summary>Look at every op's result and throw where it is not finite, naming the op. Costs a pass over each result.</summary>
    public bool CheckFinite { get; set; }

    /// <summary>Wait after every launch on a GPU, so that the error of a kernel names that kernel. Without it the error comes with a later call.</summary>
    public virtual bool CheckLaunches { get; set; }

    /// <summary>Bytes of all tensors that scopes, tapes and stores hold now, padding included.</summary>
    public long Bytes { get; private set; }

    /// <summary>The most that <see cref="Bytes"/> has been since <see cref="ResetPeak"/>.</summary>
    public long PeakBytes { get; private set; }

    /// <summary>Launches that ran a kernel's float64 reference because no native kernel took them, by kernel name. F64 tensors are not counted: the reference is their kernel.</summary>
    public IReadOnlyDictionary<string, long> Fallbacks => fallbacks;

    /// <summary>True where the bits of a row never depend on the rows that an op is given with it, their number included.</summary>
    public virtual bool RowsAreIndependent => false;

    /// <summary>True where frozen matrices are packed once into panels.</summary>
    internal virtual bool PacksWeights => false;

    internal abstract nint Allocate(nuint bytes);

    internal abstract void Release(nint block);

    internal abstract void Upload(ReadOnlySpan<byte> from, nint to);

    internal abstract void Download(nint from, Span<byte> to);

    internal abstract void Copy(nint from, nint to, nuint bytes);

    /// <summary>Memory that no kernel may touch, or may again, where something can watch it.</summary>
    internal virtual void Guard(nint memory, nuint bytes, bool on)
    {
    }

    internal abstract void Launch<TArgs>(Kernel<TArgs> kernel, in TArgs args) where TArgs : unmanaged, IKernelArgs;

    /// <summary>Waits until every launch has finished.</summary>
    public abstract void Synchronize();

    /// <summary>The graph that is being recorded; null outside of <see cref="Capture"/>.</summary>
    internal Graph? Recording { get; private set; }

    /// <summary>Milliseconds that the device takes for what <paramref name="work"/> launches, waiting included: by events on a GPU.</summary>
    public virtual double Time(Action work)
    {
        Synchronize();
        long began = Stopwatch.GetTimestamp();
        work();
        Synchronize();
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }

    /// <summary>Records what <paramref name="step"/> launches, without doing it, so that <see cref="Graph.Replay"/> does all of it at the cost of one call.
    /// Shapes and addresses are those of the recording: what changes is written, before a replay, into tensors that were made before (inputs by
    /// <see cref="Tensor.Set(ReadOnlySpan{float})"/>), and results are copied by <see cref="Tensor.CopyFrom"/> into such tensors. An optimiser's step and
    /// <see cref="Optimizer.LearningRate"/> go on with each replay; its other settings stay as recorded, and ids and labels are not checked. Run one step
    /// before recording, so that optimiser state is there. Tensors that the step uses and does not make must stay alive as long as the graph.
    /// On the CPU, where a launch costs next to nothing, a replay runs the step itself.</summary>
    /// <exception cref="InvalidOperationException">The step reads or writes values on the host, waits for the device, drops out elements, leaves a scope
    /// open, or records a graph itself.</exception>
    public Graph Capture(Action step)
    {
        RequireNotRecording(nameof(Capture));
        Scope? open = Current;
        var graph = new Graph(this);
        Recording = Records ? graph : null;
        try
        {
            (Action replay, Action release) = Record(() =>
            {
                step();
                if (Current != open)
                {
                    throw new InvalidOperationException("Capture: the step leaves a scope open; end in it what it begins");
                }
            });
            graph.Seal(replay, release);
            graphs.Add(graph);
        }
        finally
        {
            Recording = null;
            graph.ReleaseUnlessSealed();
        }
        return graph;
    }

    /// <summary>The best device present. Today that is the CPU: no GPU has run the CUDA kernels yet, so a GPU is only taken by name.</summary>
    public static Device Best() => Cpu();

    /// <summary>An NVIDIA GPU in its primary context.</summary>
    /// <exception cref="DeviceException">There is no driver, it is too old, or no such GPU: the message says what is missing and how to get it.</exception>
    public static Device Cuda(int ordinal = 0) => new CudaDevice(new NvidiaDriver(ordinal));

    /// <summary>A GPU in a context that the application made with ManagedCuda, ILGPU, TorchSharp or the driver itself. Context and stream must outlive
    /// the device, which destroys neither.</summary>
    /// <param name="context">CUcontext.</param>
    /// <param name="stream">CUstream; 0: the device makes one of its own.</param>
    /// <exception cref="DeviceException">The driver refuses the context.</exception>
    public static Device CudaFrom(nint context, nint stream = 0) => new CudaDevice(new NvidiaDriver(context, stream));

    /// <summary>The CPU through the native AVX library.</summary>
    /// <exception cref="DeviceException">The native library is missing or of another version.</exception>
    public static Device Cpu() => new CpuDevice();

    /// <summary>The CUDA kernels on the host: every thread of a block emulated, to develop and test without a GPU. Slow; meant for small shapes.</summary>
    /// <exception cref="DeviceException">The emulator's library is missing.</exception>
    public static Device Emulated() => new CudaDevice(new EmulatedDriver());

    /// <summary>Starts <see cref="PeakBytes"/> anew.</summary>
    public void ResetPeak() => PeakBytes = Bytes;

    /// <summary>Opens a scope: tensors made until its end die with it.</summary>
    public Scope BeginScope() => new(this, current: true);

    /// <summary>Opens a tape: a scope that records ops for <see cref="Tape.Backward(Tensor)"/>.</summary>
    public Tape BeginTape() => new(this);

    /// <summary>Memory that lives until it is disposed, or the device is: weights, optimiser state.</summary>
    public Scope NewStore() => new(this, current: false);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (!disposed)
        {
            disposed = true;
            foreach (Graph graph in graphs.ToArray())
            {
                graph.Dispose();
            }
            foreach (Scope store in stores.ToArray())
            {
                store.Dispose();
            }
            ReleaseSpare();
            Dispose(true);
        }
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees what the device itself owns.</summary>
    protected virtual void Dispose(bool disposing)
    {
    }

    /// <summary>Takes a block of at least <paramref name="bytes"/>, a spare one where there is one, so that equal steps see equal addresses.</summary>
    internal (nint Block, nuint Size) Rent(nuint bytes)
    {
        ObjectDisposedException.ThrowIf(disposed, this);
        (nint Block, nuint Size) found = Recording?.Blocks.Take(bytes) ?? default;
        found = found.Block != 0 ? found : spare.Take(bytes);
        return found.Block != 0 ? found : (Allocate(bytes), bytes);
    }

    // What a recorded step used stays with its graph.
    internal void Return(nint block, nuint size) => (Recording?.Blocks ?? spare).Put(block, size);

    /// <summary>Gives spare memory back to the system.</summary>
    internal void ReleaseSpare()
    {
        foreach ((nint block, _) in spare.TakeAll())
        {
            Release(block);
        }
    }

    internal void Count(long bytes)
    {
        Bytes += bytes;
        PeakBytes = Math.Max(PeakBytes, Bytes);
    }

    internal void CountFallback(string kernel) => fallbacks[kernel] = fallbacks.GetValueOrDefault(kernel) + 1;

    internal void Adopt(Scope store) => stores.Add(store);

    internal void Forget(Scope store) => stores.Remove(store);

    internal void Forget(Graph graph) => graphs.Remove(graph);

    internal void RequireNotRecording(string what)
    {
        if (Recording is not null)
        {
            throw new InvalidOperationException($"{Name}: {what} cannot be part of a graph that is being recorded, want it before Capture or between replays");
        }
    }

    /// <summary>True where launches can be written down.</summary>
    private protected virtual bool Records => false;

    /// <summary>What does the step again, and what frees that.</summary>
    private protected virtual (Action Replay, Action Release) Record(Action step) => (step, () => { });
}
