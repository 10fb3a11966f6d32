using System.Diagnostics;

namespace LowRank.Cuda.Bench;

/// <summary>Times work on the device.</summary>
internal sealed class Clock(Device device)
{
    /// <summary>How the last recording is run: <c>graph</c> or <c>launches</c>, with the reason.</summary>
    public string How { get; private set; } = "launches";

    /// <summary>The calls as one action.</summary>
    public Action Record(Action calls)
    {
        How = "launches";
        return calls;
    }

    /// <summary>Microseconds from the first launch to the end of the last.</summary>
    public double Time(Action work)
    {
        device.Synchronize();
        long began = Stopwatch.GetTimestamp();
        work();
        device.Synchronize();
        return Stopwatch.GetElapsedTime(began).TotalMicroseconds;
    }
}
