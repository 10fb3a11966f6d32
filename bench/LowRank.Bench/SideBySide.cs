using BenchmarkDotNet.Attributes;
using BenchmarkDotNet.Configs;
using BenchmarkDotNet.Jobs;
using BenchmarkDotNet.Running;
using BenchmarkDotNet.Toolchains.InProcess.Emit;
using LowRank.Oracle;
using Torch = TorchSharp.torch;

namespace LowRank.Bench;

/// <summary>The rows under BenchmarkDotNet, each a group with the peer as its baseline; in this process, because both sides load large native parts.</summary>
[GroupBenchmarksBy(BenchmarkLogicalGroupRule.ByParams, BenchmarkLogicalGroupRule.ByCategory)]
[CategoriesColumn]
public class SideBySide
{
    private static string[] chosen = [];
    private Device? device;
    private Case? work;
    private Action<int, Results?>? peer;
    private int set;

    /// <summary>Names of the rows to run.</summary>
    public static IEnumerable<string> Names => chosen;

    /// <summary>The row.</summary>
    [ParamsSource(nameof(Names))]
    public string Row { get; set; } = "";

    /// <summary>Runs the rows whose names begin so; false where there is none or no peer.</summary>
    public static bool Run(string beginning)
    {
        chosen = [.. Rows.All.Where(r => r.Name.StartsWith(beginning, StringComparison.OrdinalIgnoreCase) && !r.Busy).Select(r => r.Name)];
        if (chosen.Length == 0 || TorchRuntime.Missing is not null)
        {
            Console.Error.WriteLine(TorchRuntime.Missing ?? $"name is '{beginning}', want the beginning of one that `list` prints");
            return false;
        }
        BenchmarkRunner.Run<SideBySide>(DefaultConfig.Instance.AddJob(Job.Default.WithToolchain(InProcessEmitToolchain.Instance)));
        return true;
    }

    /// <summary>Draws the data.</summary>
    [GlobalSetup]
    public void Make()
    {
        Row row = Rows.All.First(r => r.Name == Row);
        DeviceList.CpuThreads = row.Threads;
        Torch.set_num_threads(row.Threads);
        device = Device.Cpu();
        work = row.Make(device);
        peer = work.Peers.Values.Last();
    }

    /// <summary>Frees it.</summary>
    [GlobalCleanup]
    public void Free()
    {
        work?.Dispose();
        device?.Dispose();
    }

    /// <summary>The engine.</summary>
    [Benchmark, BenchmarkCategory("row")]
    public void Ours()
    {
        int now = set++ % work!.Sets;
        work.Prepare(now);
        work.Ours(now);
    }

    /// <summary>TorchSharp.</summary>
    [Benchmark(Baseline = true), BenchmarkCategory("row")]
    public void Peer() => peer!(set++ % work!.Sets, null);
}
