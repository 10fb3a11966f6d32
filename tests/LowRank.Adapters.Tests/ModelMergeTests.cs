using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What must hold of merges whatever the models are, and what they refuse.</summary>
public class ModelMergeTests
{
    private const int Size = 1000;
    private static readonly string[] Places = ["cpu", "emulated"];

    [Fact]
    public void Ties_keeps_one_more_than_its_share_of_distinct_magnitudes()
    {
        double[] values = [.. Draw("ties", Size)];
        TensorSource zero = Vector("zero", new double[Size]), expert = Vector("expert", values);
        double[] kept = ModelMerge.Ties(zero, [expert], new TiesOptions(20, Lambda: 1)).ReadDouble("w");
        Assert.Equal(201, kept.Count(v => v != 0));
        Assert.Equal(values.OrderByDescending(Math.Abs).Take(201).Order(), kept.Where(v => v != 0).Order());
        Assert.Equal(values, ModelMerge.Ties(zero, [expert], new TiesOptions(100, Lambda: 1)).ReadDouble("w"));
        Assert.Equal(values, ModelMerge.Ties(zero, [expert], new TiesOptions(1, Lambda: 1)).ReadDouble("w"));
    }

    [Fact]
    public void Ties_sums_or_averages_those_that_agree()
    {
        TensorSource zero = Vector("zero", [0, 0]);
        TensorSource[] experts = [Vector("a", [3, -1]), Vector("b", [-2, -1])];
        double[] Merged(TiesFunction function) => ModelMerge.Ties(zero, experts, new TiesOptions(100, function, 1)).ReadDouble("w");
        Assert.Equal([3, -2], Merged(TiesFunction.Sum));
        Assert.Equal([3, -1], Merged(TiesFunction.Mean));
        Assert.Equal([3, -1], Merged(TiesFunction.Max));
    }

    [Fact]
    public void Dare_keeps_its_share_and_the_mean()
    {
        const int many = 100_000;
        const double drop = 0.3;
        TensorSource zero = Vector("zero", new double[many]), ones = Vector("ones", [.. Enumerable.Repeat(1.0, many)]);
        double[] kept = ModelMerge.Dare(zero, [ones], new DareOptions(drop, Lambda: 1, Seed: 3)).ReadDouble("w");
        double deviation = Math.Sqrt(drop * (1 - drop) / many);
        Assert.InRange(kept.Count(v => v != 0) / (double)many, 1 - drop - (Close.Deviations * deviation), 1 - drop + (Close.Deviations * deviation));
        Assert.All(kept, v => Assert.True(v is 0 or 1 / (1 - drop)));
        Assert.Equal(Enumerable.Repeat(1.0, many), ModelMerge.Dare(zero, [ones], new DareOptions(0, Lambda: 1) { Draws = (_, _) => [.. Enumerable.Repeat(0.5, many)] }).ReadDouble("w"));
        Assert.Equal(Enumerable.Repeat(1.0, many), ModelMerge.Dare(zero, [ones], new DareOptions(drop, Lambda: 1) { Only = _ => false }).ReadDouble("w"));
    }

    [Fact]
    public void No_lambda_is_the_base_bit_for_bit_and_the_order_of_tasks_does_not_count()
    {
        double[] start = Draw("start", Size);
        TensorSource theta = Vector("start", start), a = Vector("a", Draw("a", Size)), b = Vector("b", Draw("b", Size));
        Assert.Equal(start, ModelMerge.TaskArithmetic(theta, [a, b], 0).ReadDouble("w"));
        Close.Check(ModelMerge.TaskArithmetic(theta, [b, a]).ReadDouble("w"), ModelMerge.TaskArithmetic(theta, [a, b]).ReadDouble("w"), Close.Bound(DType.F64), "tasks in another order");
        Close.Check(ModelMerge.TaskArithmetic(theta, [a], 1).ReadDouble("w"), a.ReadDouble("w"), Close.Bound(DType.F64), "one task alone");
    }

    [Theory, InlineData(7, 0.5), InlineData(1000, 0.001)]
    public void A_mask_has_mean_one_and_its_draws_the_logits_probability(int count, double temperature)
    {
        double[] x = [.. Draw("logits", count).Select(v => 3 * v)], u = [.. Draw("u", count).Select(v => (v + 1) / 2)];
        (double[] scaled, double mean, _) = Mask(x, u, temperature, Draw("ds", count));
        Assert.Equal(1, scaled.Average(), 9);
        Assert.All(scaled, s => Assert.True(s >= 0));
        // m > 1/2 exactly where u > 1 - σ(x), at every temperature
        Assert.Equal(x.Zip(u, (l, d) => d > 1 / (1 + Math.Exp(l))), scaled.Select(s => s * mean > 0.5));
        if (temperature < 0.01)
        {
            Assert.True(scaled.Count(s => s * mean is < 1e-3 or > 1 - 1e-3) > 0.99 * count);
        }
    }

    [Fact]
    public void Draws_exceed_one_half_as_often_as_the_logits_say()
    {
        const int many = 1_000_000;
        foreach ((double x, double temperature) in new[] { (0.0, 0.5), (0.0, 5), (0.8, 0.05) })
        {
            using Device device = Devices.Open("cpu");
            using Scope scope = device.BeginScope();
            Tensor logits = scope.New([many], DType.F32);
            logits.Fill(x);
            Tensor[] mask = new ConcreteMask(temperature, 3).ApplyAll(logits);
            double mean = mask[1].Item(), share = 1 / (1 + Math.Exp(-x)), deviation = Math.Sqrt(share * (1 - share) / many);
            Assert.InRange(mask[0].ToArray().Count(s => s * mean > 0.5) / (double)many, share - (Close.Deviations * deviation), share + (Close.Deviations * deviation));
            if (x == 0)
            {
                Assert.InRange(mean, 0.5 - (Close.Deviations * deviation), 0.5 + (Close.Deviations * deviation));
            }
        }
    }

    [Fact]
    public void A_constant_draw_masks_nothing_and_shifting_logits_changes_nothing()
    {
        (double[] scaled, _, double[] gradient) = Mask([.. Enumerable.Repeat(0.7, Size)], [.. Enumerable.Repeat(0.4, Size)], 0.5, Draw("ds", Size));
        Close.Check(scaled, [.. Enumerable.Repeat(1.0, Size)], Close.Bound(DType.F64), "mask of a constant draw");
        Assert.True(Math.Abs(gradient.Sum()) <= Close.Bound(DType.F64) * Size * gradient.Sum(Math.Abs));
    }

    [Fact]
    public void Even_logits_have_the_entropy_of_their_number_and_no_gradient()
    {
        using Device device = Devices.Open("cpu");
        (double Value, double[] Gradient) Entropy(Shape shape, double[] values, double epsilon)
        {
            using Tape tape = device.BeginTape();
            var logits = new Parameter("logits", tape.Of(shape, values));
            Tensor entropy = new MeanEntropy(epsilon).Apply(logits);
            tape.Backward(entropy);
            return (entropy.Item(), logits.Gradient!.ToDoubles());
        }
        (double value, double[] gradient) = Entropy([2, 7], [.. Enumerable.Repeat(3.0, 14)], 0);
        Assert.Equal(Math.Log(7), value, 12);
        Assert.All(gradient, g => Assert.Equal(0, g, 12));
        Assert.Equal(0, Entropy([1, 7], Draw("z", 7), 1e-8).Gradient.Sum(), 12);
    }

    [Fact]
    public void Entropy_falls_as_a_mask_is_learned()
    {
        const int inputs = 4, classes = 3, rows = 16, tasks = 2;
        using Device device = Devices.Open("cpu");
        TensorSource Layer(string name) => ConcreteGoldenTests.File(name, ("w", [classes, inputs], Draw(name, classes * inputs)));
        double[] x = Draw("x", tasks * rows * inputs);
        var losses = new List<double>();
        using var merge = new ConcreteMerge(device, Layer("start"), [Layer("a"), Layer("b")], new ConcreteOptions { Steps = 200, MaskRate = 1e-2, Seed = 2 });
        merge.Fit((weights, task, _) => new Linear().Apply(device.Current!.Of([rows, inputs], x.AsSpan(task * rows * inputs, rows * inputs), DType.F32), weights["w"]), new Each(p => losses.Add(p.Loss)), TestContext.Current.CancellationToken);
        Assert.Equal(200, losses.Count);
        Assert.True(losses.TakeLast(20).Average() < losses[..20].Average(), $"{losses[..20].Average()} at first, {losses.TakeLast(20).Average()} at last");
    }

    [Fact]
    public void A_seed_draws_one_mask_on_every_device()
    {
        TensorSource theta = Vector("start", Draw("start", 64)), a = Vector("a", Draw("a", 64));
        double[][] merged = [.. Places.Select(name =>
        {
            using Device device = Devices.Open(name);
            using var merge = new ConcreteMerge(device, theta, [a], new ConcreteOptions { Steps = 0, Seed = 5 });
            merge.Fit((_, _, _) => throw new InvalidOperationException("no step, no logits"));
            return merge.Merged().ReadDouble("w");
        })];
        Close.Check(merged[1], merged[0], Close.Bound(DType.F32), "emulated against cpu");
        Assert.NotEqual(ModelMerge.TaskArithmetic(theta, [a]).ReadDouble("w"), merged[0]);
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using Device device = Devices.Open("cpu");
        TensorSource theta = Vector("start", [1, 2]), a = Vector("a", [2, 3]), wide = Vector("wide", [1, 2, 3]), nan = Vector("broken", [1, double.NaN]);
        TensorSource other = ConcreteGoldenTests.File("other", ("v", [2], [1, 2]));
        void Fails<T>(string message, Action act) where T : Exception => Assert.Contains(message, Assert.Throws<T>(act).Message, StringComparison.Ordinal);
        void Config(string message, Action act) => Fails<AdapterConfigException>(message, act);
        void Concrete(string message, ConcreteOptions options) => Config(message, () => new ConcreteMerge(device, theta, [a], options).Dispose());
        Config("want at least one task vector", () => ModelMerge.TaskArithmetic(theta, []));
        Fails<ModelFormatException>("other lacks 1 tensors of start (w) and has 1 that it has not (v)", () => ModelMerge.TaskArithmetic(theta, [other]));
        Fails<ModelFormatException>("w is F64[2] in start and F64[3] in wide, want one shape", () => ModelMerge.Ties(theta, [wide]));
        Fails<ModelFormatException>("broken: tensor 'w' has NaN at [1]", () => ModelMerge.TaskArithmetic(theta, [nan]).ReadDouble("w"));
        Config("Drop is 1.5, want 0 to 1", () => ModelMerge.Dare(theta, [a], new DareOptions(1.5)));
        Config("with Rescale, a division by 0", () => ModelMerge.Dare(theta, [a], new DareOptions(1)));
        Config("Keep is 0 of 2 entries", () => ModelMerge.Ties(theta, [a], new TiesOptions(0)));
        Config("Keep is 101 of 2 entries", () => ModelMerge.Ties(theta, [a], new TiesOptions(101)));
        Concrete("Temperature is 0, want more than 0", new ConcreteOptions { Temperature = 0 });
        Concrete("the number of Lambdas is 2, want 1, one a task", new ConcreteOptions { Lambdas = [1, 2] });
        Concrete("Order and Type are [v] and F32", new ConcreteOptions { Order = ["v"] });
        using var merge = new ConcreteMerge(device, theta, [a], new ConcreteOptions());
        Fails<ShapeException>("logits is [3], want [rows, classes]", () => merge.Fit((_, _, _) => device.Current!.NewZeros([3], DType.F32)));
    }

    /// <summary>s, mean(m), and the gradient of x.</summary>
    private static (double[] Scaled, double Mean, double[] Gradient) Mask(double[] x, double[] u, double temperature, double[] ds)
    {
        using Device device = Devices.Open("cpu");
        using Tape tape = device.BeginTape();
        var logits = new Parameter("x", tape.Of([x.Length], x));
        Tensor[] mask = new ConcreteMask(temperature).ApplyAll(logits, tape.Of([u.Length], u));
        tape.Backward(mask[0], tape.Of([ds.Length], ds));
        return (mask[0].ToDoubles(), mask[1].Item(), logits.Gradient!.ToDoubles());
    }

    private sealed class Each(Action<ConcreteProgress> act) : IProgress<ConcreteProgress>
    {
        public void Report(ConcreteProgress value) => act(value);
    }

    private static TensorSource Vector(string name, double[] values) => ConcreteGoldenTests.File(name, ("w", [values.Length], values));

    private static double[] Draw(string name, int count)
    {
        var values = new double[count];
        new Rng(1).Fork(name).FillUniform(values, -1, 1);
        return values;
    }
}
