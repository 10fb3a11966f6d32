using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Many askers, one owner of the device.</summary>
public sealed class AdapterServerTests : IDisposable
{
    private const int Count = 8, Width = 48;
    private static readonly LoraConfig Config = new() { Targets = ["layers.0", "layers.1"], Rank = 4, Alpha = 8 };
    private readonly Device device = Devices.Open("cpu");
    private readonly TemporaryFolder folder = new();
    private readonly List<int> batches = [];
    private readonly ManualResetEventSlim gate = new();
    private Mlp model = null!;
    private NamedAdapters adapters = null!;

    public static TheoryData<DType> Types => [DType.F32, DType.BF16, DType.F64];

    private static CancellationToken Test => TestContext.Current.CancellationToken;

    [Theory, MemberData(nameof(Types))]
    public async Task Eight_at_once_get_the_bits_of_one_after_another(DType type)
    {
        using AdapterServer<double[], double[]> server = Start(type);
        string?[] names = [.. Enumerable.Range(0, Count).Select(Name), null, "dora", "head"];
        double[][] inputs = [.. names.Select((_, i) => Input(i, rows: 1 + (i % 2)))], plain = new double[names.Length][], want = new double[names.Length][];
        for (int i = 0; i < names.Length; i++)
        {
            plain[i] = await server.RunAsync(NamedAdapters.None, inputs[i], Test);
            want[i] = await server.RunAsync(names[i], inputs[i], Test);
        }
        Assert.All(batches, b => Assert.Equal(1, b));
        Assert.All(names.Index(), n => Assert.Equal(n.Item is null, plain[n.Index].SequenceEqual(want[n.Index])));
        for (int round = 0; round < 5; round++)
        {
            batches.Clear();
            Task held = Hold(server);
            var asked = new Task<double[]>[names.Length];
            Parallel.For(0, names.Length, new ParallelOptions { MaxDegreeOfParallelism = names.Length }, i => asked[i] = server.RunAsync(names[i], inputs[i], Test));
            gate.Set();
            await held;
            Assert.Equal(want, await Task.WhenAll(asked));
            Assert.Equal([names.Length / 2, (names.Length + 1) / 2], batches.Order());      // texts of one row, and of two
        }
    }

    [Fact]
    public async Task A_waiting_request_that_is_cancelled_ends_at_once_and_never_runs()
    {
        using AdapterServer<double[], double[]> server = Start(DType.F32);
        Task held = Hold(server);
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(Test);
        Task<double[]> first = server.RunAsync(Name(0), Input(0), Test), dropped = server.RunAsync(Name(1), Input(1), cancel.Token), last = server.RunAsync(Name(2), Input(2), Test);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => dropped);
        Assert.False(held.IsCompleted);
        gate.Set();
        await Task.WhenAll(held, first, last);
        Assert.Equal([2], batches);
    }

    [Fact]
    public async Task A_fault_in_one_request_is_its_own()
    {
        using AdapterServer<double[], double[]> server = Start(DType.F32);
        double[] want = await server.RunAsync(Name(0), Input(0), Test);
        Task held = Hold(server);
        Task<double[]> good = server.RunAsync(Name(0), Input(0), Test), bad = server.RunAsync(Name(1), [.. Input(1).Select(_ => double.NaN)], Test), unknown = server.RunAsync("nobody", Input(0), Test);
        gate.Set();
        await held;
        Assert.Equal(want, await good);
        Assert.Equal("NaN is no input", (await Assert.ThrowsAsync<ArithmeticException>(() => bad)).Message);
        Assert.Contains("'nobody', want one of", (await Assert.ThrowsAsync<AdapterConfigException>(() => unknown)).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<InvalidDataException>(() => server.InvokeAsync(_ => throw new InvalidDataException(), Test));
        await Assert.ThrowsAsync<ShapeException>(() => server.RunAsync(Name(0), new double[Width - 1], Test));
        Assert.Equal(want, await server.RunAsync(Name(0), Input(0), Test));
    }

    [Fact]
    public async Task Adapters_come_and_go_while_others_are_served()
    {
        using AdapterServer<double[], double[]> server = Start(DType.F32);
        double[] first = await server.RunAsync(Name(0), Input(0), Test), second = await server.RunAsync(Name(1), Input(0), Test);
        Task<double[][]> steady = Task.Run(async () =>
        {
            var results = new double[50][];
            for (int i = 0; i < results.Length; i++)
            {
                results[i] = await server.RunAsync(Name(0), Input(0), Test);
            }
            return results;
        });
        await server.InvokeAsync(a => a[Name(1)].SavePeft(folder.Path), Test);
        await server.InvokeAsync(a => a.Load("late", folder.Path), Test);
        Assert.Equal(second, await server.RunAsync("late", Input(0), Test));
        await server.InvokeAsync(a => a.Swap(Name(2), folder.Path), Test);
        Assert.Equal(second, await server.RunAsync(Name(2), Input(0), Test));
        Task gone = server.InvokeAsync(a => a.Remove("late"), Test);
        await Assert.ThrowsAsync<AdapterConfigException>(() => server.RunAsync("late", Input(0), Test));
        await gone;
        Assert.All(await steady, y => Assert.Equal(first, y));
    }

    [Fact]
    public async Task Who_comes_to_a_full_queue_waits_for_room()
    {
        using AdapterServer<double[], double[]> server = Start(DType.F32, new() { MostWaiting = 2, MostTogether = 2 });
        Task held = Hold(server);
        Task<double[]>[] asked = [.. Enumerable.Range(0, 3).Select(i => server.RunAsync(Name(i), Input(i), Test))];
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(Test);
        Task<double[]> outside = server.RunAsync(Name(3), Input(3), cancel.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => outside);
        gate.Set();
        await Task.WhenAll(asked);
        await held;
        Assert.Equal(3, batches.Sum());
        Assert.All(batches, b => Assert.InRange(b, 1, 2));
        Assert.Throws<AdapterConfigException>(() => Start(DType.F32, new() { MostWaiting = 0 }));
    }

    [Fact]
    public async Task Requests_that_wait_when_the_server_ends_are_told_so()
    {
        AdapterServer<double[], double[]> server = Start(DType.F32);
        var begun = new TaskCompletionSource();
        Task held = server.InvokeAsync(
            _ =>
            {
                begun.SetResult();
                gate.Wait(Test);
            },
            Test);
        await begun.Task;
        Task<double[]> waits = server.RunAsync(Name(0), Input(0), Test);
        Task ending = Task.Run(server.Dispose, Test);
        Task<double[]> late;
        do
        {
            await Task.Delay(1, Test);
            late = server.RunAsync(Name(0), Input(0), Test);
        }
        while (!late.IsFaulted);     // until the queue is closed
        gate.Set();
        await Task.WhenAll(held, ending);
        Assert.Contains("was not run", (await Assert.ThrowsAsync<ObjectDisposedException>(() => waits)).Message, StringComparison.Ordinal);
        await Assert.ThrowsAsync<ObjectDisposedException>(() => server.RunAsync(Name(0), Input(0), Test));
        Assert.Empty(batches);
        adapters.Activate(Name(0));      // ours again
    }

    public void Dispose()
    {
        adapters?.Dispose();
        model?.Dispose();
        device.Dispose();
        folder.Dispose();
        gate.Dispose();
    }

    private static string Name(int i) => $"adapter {i}";

    private static double[] Input(int seed, int rows = 1) => AdapterRow.Draw(new Rng((ulong)seed).Fork("input"), rows * Width);

    /// <summary>Keeps the server busy until the gate opens.</summary>
    private Task Hold(AdapterServer<double[], double[]> server)
    {
        gate.Reset();
        return server.InvokeAsync(_ => gate.Wait(Test), Test);
    }

    private AdapterServer<double[], double[]> Start(DType type, ServerOptions? options = null)
    {
        model ??= new Mlp([Width, 96, 80, 10], device, new Rng(1), type: type);
        if (adapters is null)
        {
            adapters = new NamedAdapters(model);
            IEnumerable<(string, LoraConfig)> all = Enumerable.Range(0, Count).Select(i => (Name(i), Config with { Rank = 4 + i }));
            foreach (((string name, LoraConfig config), int i) in all.Append(("dora", Config with { Dora = true })).Append(("head", Config with { ModulesToSave = ["layers.2"] })).Select((a, i) => (a, i)))
            {
                adapters.Add(name, config).Adapters.ToList().ForEach(a => AdapterTests.Move(a, i));
            }
        }
        return new(adapters, Forward, x => x.Length, options);

        IReadOnlyList<double[]> Forward(IReadOnlyList<double[]> samples)
        {
            batches.Add(samples.Count);
            double[] all = [.. samples.SelectMany(x => x)];
            if (all.Any(double.IsNaN))
            {
                throw new ArithmeticException("NaN is no input");
            }
            Tensor x = device.Current!.Of([samples.Count, all.Length / samples.Count / Width, Width], all, type);
            double[] y = model.Forward(x).ToDoubles();
            return [.. y.Chunk(y.Length / samples.Count)];
        }
    }
}
