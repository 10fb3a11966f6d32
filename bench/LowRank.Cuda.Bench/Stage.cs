using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;

namespace LowRank.Cuda.Bench;

/// <summary>Runs one stage on one device and leaves its part of the results. What fails is a line, and the next row is tried.</summary>
internal sealed class Stage(Options options)
{
    private const int Done = 0, Failed = 1;
    private readonly List<string> failures = [];
    private readonly List<RowResult> rows = [];
    private readonly List<Figure> figures = [];
    private Action save = () => { };

    public int Random() => Check("random", $"{options.Count} random shapes against float64", device => Checks.Random(device, options.Count, options.Tiny, options.Seed));

    public int Determinism() => Check("determinism", "ten runs, the same bits", device => Checks.Determinism(device, options.Tiny));

    public int Once() => Check("once", "every op row once", device => Checks.Once(device, options.Tiny));

    public int Compile() => Run(
        "compile",
        (device, _, _) =>
        {
            (int architecture, int multiprocessors) = device is CudaDevice { Driver: NvidiaDriver gpu } ? (gpu.Architecture, gpu.Multiprocessors) : (90, 132);
            figures.AddRange(Compilation.Measure(Path.Combine(options.Work, "compiled"), architecture, multiprocessors));
        },
        withPeer: false);

    public int Time(string name) => Run("time-" + name, (device, machine, peer) => Measure(device, machine, peer, Rows.Of(name, options.Tiny)));

    public int Step() => Run("step", (device, machine, peer) =>
    {
        CudaRow row = new TrainingStep(Path.Combine(options.Work, "step"), options.Tiny).Row;
        Memory(device, peer, row);
        Measure(device, machine, peer, [row]);
    });

    /// <summary>Puts the parts of all stages together, in <paramref name="folder"/> and on the screen.</summary>
    public int Table(string folder)
    {
        Report report = Report.Read(options.Parts ?? throw new FormatException("table: --parts is missing"));
        report.Write(folder);
        Console.Write(report.Table());
        return Done;
    }

    private int Check(string stage, string what, Func<Device, IReadOnlyList<string>> check) => Run(
        stage,
        (device, _, _) =>
        {
            failures.AddRange(check(device));
            figures.Add(new Figure($"{what}: failures", failures.Count, "", 0));
        },
        withPeer: false);

    private int Run(string stage, Action<Device, Machine, Peer> work, bool withPeer = true)
    {
        Directory.CreateDirectory(options.Work);
        using Device device = DeviceList.Open(options.Device);
        var machine = new Machine(device);
        using var peer = new Peer(withPeer ? options.Peer : null, options.Device.StartsWith("cuda", StringComparison.Ordinal) ? "cuda" : "cpu", options.Work);
        if (withPeer && peer.Missing is { } missing)
        {
            Console.WriteLine($"no peer: {missing}");
        }
        string date = DateTimeOffset.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture);
        save = options.Parts is not { } parts ? () => { }
        : () => Report.Write(parts, new StageResult(stage, date, $"{machine.Gpu}, device {device.Name}", machine.State, Machine.Clocks(), peer.Versions, rows, figures, failures));
        work(device, machine, peer);
        foreach (Figure figure in figures)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{figure.Name}: {figure.Value:G5} {figure.Unit}"));
        }
        save();
        return failures.Count == 0 ? Done : Failed;
    }

    private void Measure(Device device, Machine machine, Peer peer, IReadOnlyList<CudaRow> of)
    {
        var timing = new Timing(device, machine, peer, options.Tiny);
        long began = Stopwatch.GetTimestamp();
        foreach (CudaRow row in of)
        {
            if (Stopwatch.GetElapsedTime(began).TotalSeconds > options.Seconds)
            {
                failures.Add($"{row.Name}: not begun, the stage's {options.Seconds} s were over");
                continue;
            }
            try
            {
                rows.Add(timing.Measure(row));
                Console.WriteLine(Timing.Line(rows[^1]));
            }
            catch (Exception error) when (error is DeviceException or KernelException or ShapeException or InvalidOperationException)
            {
                failures.Add($"{row.Name}: {error.Message}");
                Console.WriteLine($"{row.Name} failed: {error.Message}");
            }
            device.ReleaseSpare();
            save();     // a stage that runs out of time keeps the rows it has
        }
    }

    /// <summary>Memory of the GPU that a step takes, as a third party sees it: the peer reads what is free before and after. Its own is what its allocator reached.</summary>
    private void Memory(Device device, Peer peer, CudaRow row)
    {
        if (Ask(peer, "free") is not { } before)
        {
            return;
        }
        using (device.BeginScope())
        using (DataSet set = DataSet.Draw(device, row))
        {
            set.Call();
            set.Call();
            device.Synchronize();
            double ours = before - Ask(peer, "free") ?? double.NaN;
            IReadOnlyList<string> ways = peer.Offer(row, set, 1);
            List<Figure> theirs = [];
            foreach (string way in ways)
            {
                if (peer.Prepare(way, alone: true).Failed is null && Ask(peer, "peak") is { } peak)
                {
                    theirs.Add(new Figure($"peak memory of the step, {way}", peak / 1e6, "MB"));
                }
            }
            figures.Add(new Figure("memory that our step takes of the GPU, kernels and weights included", ours / 1e6, "MB", theirs.Count > 0 ? theirs.Min(f => f.Value) : null));
            figures.AddRange(theirs);
            peer.End();
        }
        device.ReleaseSpare();
    }

    private static double? Ask(Peer peer, string what) => (double?)peer.Ask(new JsonObject { ["do"] = what })?["bytes"];
}
