namespace LowRank;

/// <summary>A step of a device that was recorded once by <see cref="Device.Capture"/> and can be done again at the cost of one call: the same launches,
/// in their order, at the same addresses.</summary>
public sealed class Graph : IDisposable
{
    private readonly Device device;
    private readonly Dictionary<Scope, int> used = [];
    private readonly List<Action> before = [];
    private Action? replay;
    private Action? release;

    internal Graph(Device device) => this.device = device;

    /// <summary>Blocks that were freed while recording: later steps of the recording may take them, nobody else.</summary>
    internal BlockCache Blocks { get; } = new();

    /// <summary>Starts the step. As with every launch, it may still run when this returns.</summary>
    /// <exception cref="ObjectDisposedException">The graph, or a scope whose tensors it uses, has ended.</exception>
    /// <exception cref="InvalidOperationException">A graph is being recorded.</exception>
    public void Replay()
    {
        Action run = replay ?? throw new ObjectDisposedException(nameof(Graph), "It has been disposed, or was never recorded to its end.");
        device.RequireNotRecording(nameof(Replay));
        foreach ((Scope scope, int generation) in used)
        {
            if (scope.Generation != generation)
            {
                throw new ObjectDisposedException(nameof(Graph), "A scope whose tensors it reads or writes has ended; keep it open as long as the graph.");
            }
        }
        foreach (Action action in before)
        {
            action();
        }
        run();
    }

    /// <summary>Gives back the memory that only the graph uses.</summary>
    public void Dispose()
    {
        if (replay is not null)
        {
            replay = null;
            device.Forget(this);
            release!();
            ReleaseUnlessSealed();
        }
    }

    internal void ReleaseUnlessSealed()
    {
        foreach ((nint block, nuint size) in replay is null ? Blocks.TakeAll() : [])
        {
            device.Return(block, size);
        }
    }

    /// <summary>What is done on the host before each replay: numbers that change are written to device memory.</summary>
    internal void BeforeReplay(Action action) => before.Add(action);

    /// <summary>A tensor of this scope is read or written.</summary>
    internal void Uses(Scope scope)
    {
        if (!scope.IsRecorded)
        {
            used.TryAdd(scope, scope.Generation);
        }
    }

    /// <summary>The recording is whole.</summary>
    internal void Seal(Action replay, Action release) => (this.replay, this.release) = (replay, release);
}
