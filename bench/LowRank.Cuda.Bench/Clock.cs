namespace LowRank.Cuda.Bench;

/// <summary>Times work on the device: recorded as one graph where the device can, between two events.</summary>
internal sealed class Clock(Device device) : IDisposable
{
    private Graph? graph;

    /// <summary>How the last recording is run: <c>graph</c>, or <c>launches</c> and why.</summary>
    public string How { get; private set; } = "launches";

    /// <summary>The calls as one action; they have run once before.</summary>
    public Action Record(Action calls)
    {
        try
        {
            graph = device.Capture(calls);
            How = "graph";
            return graph.Replay;
        }
        catch (InvalidOperationException error)
        {
            How = $"launches: {error.Message}";
            return calls;
        }
    }

    /// <summary>Microseconds that the device takes for what is launched.</summary>
    public double Time(Action work) => 1e3 * device.Time(work);

    /// <summary>Gives the recording back.</summary>
    public void Dispose() => graph?.Dispose();
}
