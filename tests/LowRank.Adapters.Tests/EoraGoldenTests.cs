using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/eora: moments of inputs, factors in all modes and ranks, training on from them, rounding and pruning.</summary>
public sealed class EoraGoldenTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope store;

    public EoraGoldenTests() => store = device.NewStore();

    public static TheoryData<string> Cases => Golden.Cases("eora");

    public void Dispose()
    {
        store.Dispose();
        device.Dispose();
    }

    [Theory, MemberData(nameof(Cases))]
    public void Golden_eora(string name) => Golden.Run("eora", name, golden =>
    {
        using Scope scope = device.BeginScope();
        Action<GoldenCase, Scope> run = golden.Has("in.H") ? Given : golden.Has("out.wanda.c") ? Compressed : golden.Has("in.X") ? Calibrated : (_, _) => Assert.Skip("the case has neither H nor inputs");
        run(golden, scope);
    });

    private static void Given(GoldenCase golden, Scope scope)
    {
        (Tensor w, Tensor wq, Tensor h) = (golden.Load("in.W", scope, DType.F64), golden.Load("in.Wq", scope, DType.F64), golden.Load("in.H", scope, DType.F64));
        EoraFactors factors = Eora.Of(w, wq, h, golden.Config.GetProperty("rank").GetInt32(), scope);
        golden.Check("out.S", [.. factors.SingularValues]);
        golden.Check("out.delta", Delta(factors));
        Check(golden, factors);
        double[] used = golden.Doubles("buffer.L");
        Assert.Equal(used.Count(l => l == used.Min()) - 1, factors.Replaced);
    }

    private void Calibrated(GoldenCase golden, Scope scope)
    {
        JsonElement config = golden.Config;
        int[] ranks = [.. config.GetProperty("ranks").EnumerateArray().Select(r => r.GetInt32())];
        bool official = config.GetProperty("accumulation").GetString() == "official";
        (Tensor w, Tensor wq) = (golden.Load("in.W", scope, DType.F64), golden.Load("in.Wq", scope, DType.F64));
        InputMoments decayed = Moments(golden, scope, MomentAverage.Official), mean = Moments(golden, scope, MomentAverage.Mean);
        golden.Check("out.H_official", decayed.Second);
        golden.Check("out.H_mean", mean.Second);
        golden.Check("out.act_scale", mean.Magnitudes);
        Tensor h = scope.Of([w.Shape[1], w.Shape[1]], official ? decayed.Second : mean.Second);
        EoraFactors all = Eora.Of(w, wq, h, ranks.Max(), scope);
        golden.Check("out.S", [.. all.SingularValues]);
        Check(golden, all);
        golden.Check("out.merged", new AddMatMul(1).Apply(wq, all.B, all.A).ToDoubles());
        foreach (int rank in ranks)
        {
            foreach ((string mode, string suffix, EoraFactors factors) in new[]
            {
                ("eora", "", all.Take(rank, scope)),
                ("svd", "_svd", Eora.Plain(w, wq, rank, scope)),
                ("act", "_act", Eora.Scaled(w, wq, mean.Magnitudes, rank, scope)),
            })
            {
                golden.Check($"out.delta{suffix}.r{rank}", Delta(factors));
                golden.Check($"out.err.{mode}.r{rank}", [Eora.Error(w, wq, factors, h)]);
            }
        }
        Trained(golden, wq, all);
    }

    private static InputMoments Moments(GoldenCase golden, Scope scope, MomentAverage average)
    {
        Shape shape = golden.Shape("in.X");     // [samples, tokens, in]
        double[] x = golden.Doubles("in.X");
        var moments = new InputMoments(shape[2], shape[0], average);
        foreach (double[] sample in x.Chunk(shape[1] * shape[2]))
        {
            moments.Add(scope.Of([shape[1], shape[2]], sample));
        }
        return moments;
    }

    /// <summary>A and B as the start of LoRA with scale 1.</summary>
    private void Trained(GoldenCase golden, Tensor wq, EoraFactors factors)
    {
        double[] signs = Signs(golden, factors);
        int rank = signs.Length;
        Parameter x = new("x", golden.Load("in.x", store, DType.F64)), a = new("A", store.Of(factors.A.Shape, Turned(factors.A, i => signs[i / factors.A.Shape[1]]))), b = new("B", store.Of(factors.B.Shape, Turned(factors.B, i => signs[i % rank])));
        Tensor Output() => new LoraLinear(1).Apply(x.Value, wq, a, b);
        using (Tape tape = device.BeginTape())
        {
            Tensor y = Output();
            golden.Check("out.y", y.ToDoubles());
            tape.Backward(y, golden.Load("in.gy", tape, DType.F64));
            golden.Check("grad.A", a.Gradient!.ToDoubles());
            golden.Check("grad.B", b.Gradient!.ToDoubles());
            golden.Check("grad.x", x.Gradient!.ToDoubles());
        }
        if (!golden.Has("in.target"))
        {
            return;
        }
        JsonElement config = golden.Config;
        x.Frozen = true;
        using var optimizer = new AdamW([a, b])
        {
            LearningRate = config.GetProperty("lr").GetDouble(),
            Beta1 = config.GetProperty("betas")[0].GetDouble(),
            Beta2 = config.GetProperty("betas")[1].GetDouble(),
            Epsilon = config.GetProperty("eps").GetDouble(),
            WeightDecay = config.GetProperty("weight_decay").GetDouble(),
        };
        optimizer.ClearGradients();
        int last = config.GetProperty("steps_saved").EnumerateArray().Max(s => s.GetInt32());
        for (int k = 1; k <= last; k++)
        {
            using Tape tape = device.BeginTape();
            Tensor loss = new SquaredError(0.5).Apply(Output(), golden.Load("in.target", tape, DType.F64));
            double before = loss.Item();
            tape.Backward(loss);
            optimizer.Step();
            if (golden.Has($"step{k}.A"))
            {
                golden.Check($"step{k}.loss", [before]);
                golden.Check($"step{k}.A", a.Value.ToDoubles());
                golden.Check($"step{k}.B", b.Value.ToDoubles());
            }
        }
    }

    private static void Compressed(GoldenCase golden, Scope scope)
    {
        double[] w = golden.Doubles("in.W");
        int cols = golden.Shape("in.W")[1];
        foreach (int bits in golden.Config.GetProperty("bits").EnumerateArray().Select(b => b.GetInt32()))
        {
            foreach (bool symmetric in new[] { false, true })
            {
                string at = $"out.{(symmetric ? "sym" : "asym")}{bits}.";
                RoundedRows rounded = new RowGrid(bits, symmetric).Round(w, cols);
                golden.Check(at + "Wq", rounded.Values);
                golden.Check(at + "scale", rounded.Scales);
                golden.Check(at + "zero", rounded.Zeros);
                golden.Check(at + "q", [.. rounded.Codes.Select(c => (double)c)]);
            }
        }
        double[] squares = Moments(golden, scope, MomentAverage.Mean).Squares;
        golden.Check("out.wanda.c", squares);
        double[] pruned = SparsePattern.Parse(golden.Config.GetProperty("sparsity").GetString()!).Prune(w, squares);
        golden.Check("out.wanda24.Wq", pruned);
        // What of a row of zeros is kept is free.
        Assert.All(golden.Doubles("out.wanda24.mask").Index().Where(m => w[m.Index] != 0), m => Assert.Equal(m.Item != 0, pruned[m.Index] != 0));
    }

    private static double[] Delta(EoraFactors factors) => new MatMul().Apply(factors.B, factors.A).ToDoubles();

    private static void Check(GoldenCase golden, EoraFactors factors)
    {
        double[] signs = Signs(golden, factors);
        golden.Check("param.A", Turned(factors.A, i => signs[i / factors.A.Shape[1]]));
        golden.Check("param.B", Turned(factors.B, i => signs[i % signs.Length]));
    }

    private static double[] Turned(Tensor x, Func<int, double> sign) => [.. x.ToDoubles().Select((v, i) => sign(i) * v)];

    /// <summary>The sign of each pair beside the stored one.</summary>
    private static double[] Signs(GoldenCase golden, EoraFactors factors)
    {
        (double[] got, double[] want, int rank) = (factors.B.ToDoubles(), golden.Doubles("param.B"), factors.B.Shape[1]);
        return [.. Enumerable.Range(0, rank).Select(r => Math.Sign(Enumerable.Range(0, got.Length / rank).Sum(i => got[(i * rank) + r] * want[(i * rank) + r])) < 0 ? -1.0 : 1)];
    }
}
