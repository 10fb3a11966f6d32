using System.Diagnostics;
using Torch = TorchSharp.torch;

namespace LowRank.Bench;

/// <summary>Times both sides of a row in turn, A B A B, in one process on the same data, and gives medians. It is the only loop: a row is data.</summary>
public sealed class Runner(Device device, Machine machine, TimeSpan perRow, CancellationToken stop)
{
    private const int Fewest = 3, Most = 200;
    private static readonly TimeSpan Sample = TimeSpan.FromMilliseconds(5), Rest = TimeSpan.FromMilliseconds(10);     // idle OpenMP threads spin that long and would take a core from us

    /// <summary>Measures a row.</summary>
    /// <exception cref="Cases.PeerMissingException">There is no peer on this machine.</exception>
    /// <exception cref="InvalidDataException">The two sides do not compute the same.</exception>
    /// <exception cref="OperationCanceledException">Stopped before there was a single pair of samples.</exception>
    public RowResult Measure(Row row)
    {
        using BusyCore? busy = row.Busy ? new BusyCore() : null;
        DeviceList.CpuThreads = row.Threads;
        Torch.set_num_threads(row.Threads);
        using Case work = row.Make(device);
        var wanted = new Results();
        work.Prepare(0);
        work.Ours(0, wanted);
        double error = 0;
        string form = "";
        TimeSpan fastest = TimeSpan.MaxValue;
        foreach ((string name, Action<int, Results?> run) in work.Peers)
        {
            var got = new Results();
            run(0, got);
            double difference = wanted.DifferenceFrom(got);
            if (!(difference <= work.Bound))
            {
                throw new InvalidDataException($"{row.Name}: {name} differs from ours by {difference:E1}, want at most {work.Bound:E1}");
            }
            error = Math.Max(error, difference);
            TimeSpan took = Enumerable.Range(0, 3).Select(i => Time(() => run(i % work.Sets, null))).Min();
            if (took < fastest)
            {
                (form, fastest) = (name, took);
            }
        }
        Action<int, Results?> peer = work.Peers[form];
        List<double> ours = [], theirs = [];
        int ourSet = 0, peerSet = 0;
        long began = Stopwatch.GetTimestamp();
        while (ours.Count < Most && (ours.Count < Fewest || Stopwatch.GetElapsedTime(began) < perRow) && !stop.IsCancellationRequested)
        {
            ours.Add(SampleOf(work.Prepare, set => work.Ours(set), work.Sets, ref ourSet));
            theirs.Add(SampleOf(_ => { }, set => peer(set, null), work.Sets, ref peerSet));
        }
        stop.ThrowIfCancellationRequested();
        (double our, double their) = (Median(ours), Median(theirs));
        (double flops, double bytes) = machine.Ceiling(row.Threads);
        double floor = 1e3 * Math.Max(work.Cost.Flops / flops, work.Cost.Bytes / bytes);
        return new RowResult(
            row.Group, row.Shape, row.Rank, $"{row.Type}".ToLowerInvariant(), row.Threads, machine.Cpu, machine.Isa, our, $"{work.Library} {form}".TrimStart(), their, their / our,
            floor / our, ours.Count, Spread(ours), Spread(theirs), error);
    }

    /// <summary>Milliseconds a call, over as many as a sample needs, after a call that is not timed where calls are short.</summary>
    private static double SampleOf(Action<int> prepare, Action<int> run, int sets, ref int set)
    {
        Thread.Sleep(Rest);
        TimeSpan total = TimeSpan.Zero;
        int calls = 0;
        bool warm = false;
        do
        {
            int now = set++ % sets;
            prepare(now);
            TimeSpan took = Time(() => run(now));
            if (!warm && took < Sample)
            {
                warm = true;
                continue;
            }
            total += took;
            calls++;
        }
        while (total < Sample);
        return total.TotalMilliseconds / calls;
    }

    private static TimeSpan Time(Action run)
    {
        long began = Stopwatch.GetTimestamp();
        run();
        return Stopwatch.GetElapsedTime(began);
    }

    private static double Median(List<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        return (sorted[sorted.Length / 2] + sorted[(sorted.Length - 1) / 2]) / 2;
    }

    /// <summary>(p90 - p10) / median.</summary>
    private static double Spread(List<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        return (sorted[(int)(0.9 * (sorted.Length - 1))] - sorted[(int)(0.1 * (sorted.Length - 1))]) / Median(samples);
    }
}
