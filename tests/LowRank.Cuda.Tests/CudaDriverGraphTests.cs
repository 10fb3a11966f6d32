using LowRank.Testing;
using Xunit;

namespace LowRank.Cuda.Tests;

/// <summary>Steps that are recorded once and replayed.</summary>
public class CudaDriverGraphTests
{
    private const int Steps = 6;

    public static TheoryData<string, string> Runs()
    {
        var data = new TheoryData<string, string>();
        foreach (string device in (string[])["cpu", "emulated", "cuda:0"])
        {
            data.Add(device, "adamw");
            data.Add(device, "sgd");
        }
        return data;
    }

    [Theory, MemberData(nameof(Runs))]
    public void Replays_of_a_training_step_have_the_bits_of_eager_steps(string name, string optimizer)
    {
        double[] eager, replayed;
        using (Device device = Devices.Open(name))
        using (var model = new TinyMlp(device, optimizer))
        {
            for (int step = 0; step < Steps; step++)
            {
                model.Prepare(step);
                model.Step();
            }
            eager = model.State();
        }
        using (Device device = Devices.Open(name))
        using (var model = new TinyMlp(device, optimizer))
        {
            model.Prepare(0);
            model.Step();
            using Graph graph = device.Capture(model.Step);
            for (int step = 1; step < Steps; step++)
            {
                model.Prepare(step);
                graph.Replay();
            }
            replayed = model.State();
        }
        Assert.Equal(Steps, replayed[^1]);
        Assert.Equal(eager, replayed);
    }

    [Fact]
    public void Recording_runs_nothing_and_a_replay_is_one_call()
    {
        using Device device = Devices.Open("cuda:0");
        using var model = new TinyMlp(device, "adamw");
        model.Prepare(0);
        model.Step();
        double[] before = model.State();
        StandIn.Set("");
        using Graph graph = device.Capture(model.Step);
        Assert.Equal(0, StandIn.Count("launch"));
        Assert.Equal(0, StandIn.Count("synchronize"));
        Assert.Equal(before, model.State());
        StandIn.Set("");
        graph.Replay();
        Assert.Equal(1, StandIn.Count("graph"));
        Assert.Equal(0, StandIn.Count("synchronize"));
        Assert.NotEqual(before, model.State());
    }

    [Theory, InlineData("emulated"), InlineData("cuda:0")]
    public void Memory_of_a_graph_is_given_to_nobody_else(string name)
    {
        using Device device = Devices.Open(name);
        using Scope store = device.NewStore();
        Tensor x = store.Of([64, 64], new float[64 * 64]), y = store.NewZeros([64, 64], DType.F32);
        x.Fill(0.5);
        using Graph graph = device.Capture(() =>
        {
            using Scope scope = device.BeginScope();
            y.CopyFrom(new MatMul().Apply(new Add().Apply(x, x), x));
        });
        // As much memory as the recording used, written by others: nothing of it may show in the replay, nor the replay in it.
        using Scope other = device.NewStore();
        Tensor[] foreign = [.. Enumerable.Range(0, 8).Select(i => other.NewZeros([1 << 20], DType.F32))];
        new List<Tensor>(foreign).ForEach(t => t.Fill(7));
        using (Scope scope = device.BeginScope())
        {
            for (int i = 0; i < 3; i++)
            {
                _ = new Linear().Apply(scope.NewZeros([300, 64], DType.F32), x);     // outgrows the workspace
            }
        }
        graph.Replay();
        Assert.All(y.ToArray(), value => Assert.Equal(32, value));
        Assert.All(foreign, t => Assert.All(t.ToArray(), value => Assert.Equal(7, value)));
    }

    [Theory, InlineData("emulated"), InlineData("cuda:0")]
    public void What_cannot_be_recorded_says_so_and_leaves_the_device_usable(string name)
    {
        using Device device = Devices.Open(name);
        using Scope store = device.NewStore();
        Tensor x = store.Of([2, 3], [1f, 2, 3, 4, 5, 6]);
        using var fresh = new AdamW([new Parameter("p", store.Of([2], [1f, 2f]))]);
        Scope? left = null;
        (Action Step, string Says)[] cases =
        [
            (() => x.ToArray(), "reading values on the host"),
            (() => x.Set([0f, 0, 0, 0, 0, 0]), "writing values from the host"),
            (device.Synchronize, "Synchronize"),
            (() => device.Capture(() => { }), "Capture"),
            (() => device.Time(() => { }), "Time"),
            (() => fresh.Pack.State("exp_avg"), "new optimiser state"),
            (() => InScope(() => new Dropout(0.5, 1, 2).Apply(x)), "drop the same elements"),
            (() => left = device.BeginScope(), "leaves a scope open"),
        ];
        foreach ((Action step, string says) in cases)
        {
            Assert.Contains(says, Assert.Throws<InvalidOperationException>(() => device.Capture(step)).Message, StringComparison.Ordinal);
            left?.Dispose();
            InScope(() => Assert.Equal([2f, 4, 6, 8, 10, 12], new Add().Apply(x, x).ToArray()));
        }

        void InScope(Action action)
        {
            using Scope scope = device.BeginScope();
            action();
        }
    }

    [Theory, InlineData("emulated"), InlineData("cuda:0")]
    public void A_replay_after_the_end_of_what_it_uses_says_so(string name)
    {
        using Device device = Devices.Open(name);
        Scope store = device.NewStore();
        Tensor x = store.Of([3], [1f, 2, 3]), y = store.NewZeros([3], DType.F32);
        Graph graph = device.Capture(() => y.CopyFrom(x));
        graph.Replay();
        store.Dispose();
        Assert.Contains("A scope whose tensors it reads or writes has ended", Assert.Throws<ObjectDisposedException>(graph.Replay).Message, StringComparison.Ordinal);
        graph.Dispose();
        graph.Dispose();
        Assert.Contains("It has been disposed", Assert.Throws<ObjectDisposedException>(graph.Replay).Message, StringComparison.Ordinal);
    }

    [Theory, InlineData("cpu"), InlineData("emulated"), InlineData("cuda:0")]
    public void Time_runs_the_work_once_and_gives_milliseconds(string name)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        Tensor a = scope.NewZeros([70, 70], DType.F32);
        int runs = 0;
        double milliseconds = device.Time(() =>
        {
            new MatMul().Apply(a, a);
            runs++;
        });
        Assert.Equal(1, runs);
        Assert.True(milliseconds > 0 && double.IsFinite(milliseconds), $"{milliseconds} ms");
    }
}
