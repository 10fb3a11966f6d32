using System.Diagnostics;
using System.Globalization;

namespace LowRank.Cuda.Bench;

/// <summary>Times a row and every way of its peer in turn, A B A B, on the one GPU.</summary>
internal sealed class Timing(Device device, Machine machine, Peer peer, bool tiny)
{
    private const long Beyond = 160L << 20;     // bytes over all sets: three times the largest cache
    private const int Samples = 50, Replays = 20, MostSets = 64;
    private const double LongReplay = 5000, LongSample = 100_000;      // microseconds: from there on fewer replays make a sample
    private static readonly TimeSpan PerRow = TimeSpan.FromSeconds(30);

    /// <summary>Measures a row.</summary>
    public RowResult Measure(CudaRow row)
    {
        using Scope scope = device.BeginScope();        // for what ops need beside their operands
        List<DataSet> sets = [DataSet.Draw(device, row)];
        var clock = new Clock(device);
        try
        {
            sets[0].Call();
            device.Synchronize();
            int count = tiny ? 2 : row.Sets > 0 ? row.Sets : (int)Math.Clamp((Beyond + sets[0].Bytes - 1) / sets[0].Bytes, 3, MostSets);
            IReadOnlyList<string> ways = peer.Offer(row, sets[0], count);
            while (sets.Count < count)
            {
                sets.Add(sets[0].Copy(row));
                sets[^1].Call();
            }
            List<PeerResult> peers = [.. ways.Select(way => Prepared(row, way))];
            Action work = clock.Record(() => sets.ForEach(set => set.Call()));
            string how = clock.How;
            work();
            double once = clock.Time(work);
            int replays = tiny ? 1 : once < LongReplay ? Replays : Math.Max(1, (int)(LongSample / once)), want = tiny ? 3 : Samples;
            List<double> ours = [];
            var theirs = peers.Where(p => p.Failed is null).ToDictionary(p => p.Name, _ => new List<double>());
            List<string> running = [.. theirs.Keys];
            long began = Stopwatch.GetTimestamp();
            while (ours.Count < want && Stopwatch.GetElapsedTime(began) < PerRow)
            {
                ours.Add(clock.Time(() =>
                {
                    for (int i = 0; i < replays; i++)
                    {
                        work();
                    }
                }) / (replays * (double)count));
                foreach (string way in running.ToArray())
                {
                    if (peer.Sample(way, replays) is { } us)
                    {
                        theirs[way].Add(us);
                    }
                    else
                    {
                        running.Remove(way);     // it failed, or took the peer with it
                    }
                }
            }
            return new RowResult(
                row.Family, row.Shape, $"{row.Type}".ToLowerInvariant(), row.Passes.Sum(machine.Floor), how, count, replays, Spread.Of(ours),
                [.. peers.Select(p => theirs.GetValueOrDefault(p.Name) is { Count: > 0 } samples ? p with { Times = Spread.Of(samples) } : p with { Failed = p.Failed ?? "no samples" })]);
        }
        finally
        {
            peer.End();
            clock.Dispose();
            sets.ForEach(set => set.Dispose());
            device.Synchronize();
        }
    }

    /// <summary>One line for whoever watches.</summary>
    public static string Line(RowResult row)
    {
        string peers = string.Join("; ", row.Peers.Select(p => p.Times is { } t ? string.Create(CultureInfo.InvariantCulture, $"{p.Name} {t.Median:F1} us = {t.Median / row.Ours.Median:F2}x") : $"{p.Name} failed: {p.Failed}"));
        return string.Create(CultureInfo.InvariantCulture, $"{row.Family,-24} {row.Shape,-34} ours {row.Ours.Median,9:F1} us, floor {row.FloorUs,8:F1} ({row.How}); {(peers.Length > 0 ? peers : "no peer")}");
    }

    private PeerResult Prepared(CudaRow row, string way)
    {
        (double? error, string? failed) = peer.Prepare(way);
        if (failed is null && error is { } e && !(e <= row.Bound))
        {
            failed = string.Create(CultureInfo.InvariantCulture, $"its results differ from ours by {e:E1}, want at most {row.Bound:E1}");
        }
        Target? target = row.Targets.Where(t => t.Peer == way).Select(t => (Target?)t).FirstOrDefault();
        return new PeerResult(way, null, error, failed, target is { } t ? machine.IsH200 ? t.H200 : t.H100 : null);
    }
}
