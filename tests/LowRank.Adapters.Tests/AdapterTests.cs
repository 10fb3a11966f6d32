using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>The mathematics of every adapter, over the table of rows and every device present.</summary>
public class AdapterTests
{
    private const int Row = 7;      // forks of the seeds that rows are drawn from

    public static TheoryData<string, int, string> Rows() => Where(_ => true);

    public static TheoryData<string, int, string> Linear() => Where(row => row.Kind == SiteKind.Linear);

    [Theory, MemberData(nameof(Rows))]
    public void The_start_is_the_base_layer(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer model = row.Model(device, type);
            using Scope scope = device.BeginScope();
            double[] w = model.Site.Weight.Value.ToDoubles(), y = model.Site.Forward(row.Tensor(scope, type, row.Values())).ToDoubles();
            using AdaptedModel adapted = model.Attach(row.Config, seed: 1);
            if (row.StartsExactly)
            {
                // In F64 the references of a layer and of a layer with factors add in another order, and on a GPU the two may take other tiles.
                double[] start = model.Site.Forward(row.Tensor(scope, type, row.Values())).ToDoubles();
                Close.Check(start, y, type == DType.F64 || deviceName.StartsWith("cuda", StringComparison.Ordinal) ? Close.Bound(type) : 0, $"y of {name} in {type} at the start");
            }
            double error = Close.Error(adapted.Adapters[0].EffectiveWeight().ToDoubles(), w);
            double bound = row.StartsExactly ? 0 : adapted.Adapters[0].ChangesBase ? Close.Bound(type) : Close.Bound(type.ForParameters());
            Assert.True(row.StartsAtBase ? error <= bound : error > bound, $"{name} in {type}: W_eff differs from W by {error:E2}");
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Forward_is_the_layer_with_the_effective_weight(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer model = row.Model(device, type);
            using AdaptedModel adapted = model.Attach(row.Config);
            Adapter adapter = adapted.Adapters[0];
            Move(adapter);
            double[] w, y, bias;
            using (device.BeginScope())
            {
                w = adapter.EffectiveWeight().ToDoubles();
                bias = (adapter.EffectiveBias() ?? model.Site.Bias?.Value)?.ToDoubles() ?? [];
                y = model.Site.Forward(row.Tensor(device.Current!, type, row.Values())).ToDoubles();
            }
            using Device reference = Devices.Open(deviceName, DType.F64);
            using var plain = new OneLayer(reference, DType.F64, row.Kind, row.Weight, w, bias.Length > 0 ? bias : null, row.Convolution);
            using Scope scope = reference.BeginScope();
            double[] want = plain.Site.Forward(row.Tensor(scope, DType.F64, row.Values())).ToDoubles();
            Close.Check(y, want, type == DType.F32 ? Close.Layer : Close.Bound(type), $"{name} in {type}");
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Gradients_match_central_differences(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName), reference = Devices.Open(deviceName, DType.F64);
        Dictionary<string, double[]> wide = Gradients(row, reference, DType.F64);
        foreach ((string tensor, double[] gradient) in wide)
        {
            if (row.IsDetached)
            {
                continue;
            }
            double[] v = AdapterRow.Draw(new Rng(Row).Fork(tensor), gradient.Length);
            double want = (Loss(row, reference, tensor, v, Close.Step) - Loss(row, reference, tensor, v, -Close.Step)) / (2 * Close.Step);
            double got = gradient.Zip(v, (a, b) => a * b).Sum();
            double scale = Math.Sqrt(gradient.Sum(g => g * g) * v.Sum(x => x * x));
            Assert.True(Math.Abs(got - want) <= Close.Difference * scale, $"{name}: d{tensor} gives {got:R}, difference {want:R}");
            Assert.True(scale > 0, $"{name}: d{tensor} is zero");
        }
        foreach ((string tensor, double[] gradient) in Gradients(row, device, DType.F32))
        {
            Close.Check(gradient, wide[tensor], Close.Layer, $"{name}: d{tensor} in F32");
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Parameters_are_counted(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        using OneLayer model = row.Model(device, DType.F32);
        using AdaptedModel adapted = model.Attach(row.Config);
        Assert.True(row.Count == adapted.ParameterCount, $"{name}: {adapted.ParameterCount} parameters, want {row.Count}");
        long stated = row.Config.ParameterCount(model.Site);
        Assert.True(row.Count == stated, $"{name}: the config says {stated}, want {row.Count}");
    }

    [Theory, MemberData(nameof(Rows))]
    public void The_same_seed_starts_the_same(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        byte[] Start(ulong seed)
        {
            using OneLayer model = row.Model(device, DType.F32);
            using AdaptedModel adapted = model.Attach(row.Config, seed);
            return [.. adapted.Parameters.SelectMany(p => p.Value.ToBytes())];
        }
        byte[] first = Start(11);
        Assert.Equal(first, Start(11));
        Assert.True(row.StartIsDrawn != first.AsSpan().SequenceEqual(Start(12)), $"{name}: seeds 11 and 12");
    }

    [Theory, MemberData(nameof(Linear))]
    public void No_tokens_give_no_outputs_and_zero_gradients(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        using OneLayer model = row.Model(device, DType.F32);
        using AdaptedModel adapted = model.Attach(row.Config);
        Move(adapted.Adapters[0]);
        using Tape tape = device.BeginTape();
        Tensor x = tape.New([0, row.Weight[1]], DType.F32);
        x.NeedsGradient = true;
        Tensor y = model.Site.Forward(x);
        Assert.Equal([0, row.Weight[0]], y.Shape);
        tape.Backward(y, tape.New(y.Shape, DType.F32));
        Assert.All(adapted.Parameters.Where(p => !p.Frozen), p => Assert.True(p.Gradient!.ToDoubles().All(g => g == 0), $"{name}: d{p.Name}"));
    }

    private static TheoryData<string, int, string> Where(Func<AdapterRow, bool> taken)
    {
        var data = new TheoryData<string, int, string>();
        foreach (string device in Devices.Present)
        {
            for (int i = 0; i < AdapterRows.All.Count; i++)
            {
                if (taken(AdapterRows.All[i]))
                {
                    data.Add(device, i, AdapterRows.All[i].ToString());
                }
            }
        }
        return data;
    }

    /// <summary>Moves every parameter away from its start, the same way each time.</summary>
    internal static void Move(Adapter adapter) => Move(adapter, Row);

    internal static void Move(Adapter adapter, int seed)
    {
        foreach (Parameter p in adapter.Parameters)
        {
            double[] by = AdapterRow.Draw(new Rng((ulong)seed).Fork(adapter.Suffix(p)), p.Value.Shape.Count);
            p.Value.Set([.. p.Value.ToDoubles().Zip(by, (a, b) => (float)(a + (0.3 * b)))]);     // F32 and F64 get the same numbers
        }
    }

    private static double[] Upstream(long count) => AdapterRow.Draw(new Rng(Row).Fork("dy"), count);

    private static Dictionary<string, double[]> Gradients(AdapterRow row, Device device, DType type)
    {
        using OneLayer model = row.Model(device, type);
        using AdaptedModel adapted = Moved(row, row.Config, model);
        using Tape tape = device.BeginTape();
        Tensor x = row.Tensor(tape, type, row.Values());
        x.NeedsGradient = row.Kind != SiteKind.Embedding;
        Tensor y = model.Site.Forward(x);
        tape.Backward(y, tape.Of(y.Shape, Upstream(y.Shape.Count), type));
        Dictionary<string, double[]> gradients = adapted.Parameters.Where(p => !p.Frozen).ToDictionary(adapted.Adapters[0].Suffix, p => p.Gradient!.ToDoubles());
        if (x.NeedsGradient)
        {
            gradients.Add("x", x.Gradient!.ToDoubles());
        }
        if (row.Kind == SiteKind.Linear)
        {
            Tensor w = adapted.Adapters[0].EffectiveWeight(), dy = tape.Of([6, row.Weight[0]], Upstream(y.Shape.Count), w.DType);
            Close.Check(gradients["x"], new MatMul().Apply(dy, w).ToDoubles(), type == DType.F64 ? Close.Golden64 : Close.Layer, $"{row}: dx beside dY·W_eff in {type}");
        }
        return gradients;
    }

    /// <summary>An adapter off its start, with F32 weights under it whatever the type is, so that types can be compared.</summary>
    private static AdaptedModel Moved(AdapterRow row, AdapterConfig config, OneLayer model)
    {
        Tensor w = model.Site.Weight.Value;
        if (w.DType == DType.F64)
        {
            w.Set([.. w.ToDoubles().Select(v => (double)(float)v)]);
            model.Site.Bias?.Value.Set([.. model.Site.Bias.Value.ToDoubles().Select(v => (double)(float)v)]);
        }
        AdaptedModel adapted = model.Attach(config);
        using OneLayer twin = row.Model(model.Device, DType.F32);
        using AdaptedModel start = twin.Attach(config);
        foreach ((Parameter to, Parameter from) in adapted.Parameters.Zip(start.Parameters))
        {
            to.Value.Set(from.Value.ToDoubles());
        }
        Move(adapted.Adapters[0]);
        return adapted;
    }

    /// <summary>Σ y ⊙ dy in float64 with one tensor moved by eps·v.</summary>
    private static double Loss(AdapterRow row, Device device, string tensor, double[] v, double eps)
    {
        using OneLayer model = row.Model(device, DType.F64);
        using AdaptedModel adapted = Moved(row, row.Config, model);
        double[] x = row.Values();
        if (tensor == "x")
        {
            x = [.. x.Zip(v, (a, b) => a + (eps * b))];
        }
        else
        {
            Parameter moved = adapted.Parameters.Single(p => adapted.Adapters[0].Suffix(p) == tensor);
            double[] before = row.Unscaled is null ? [] : Lengths(row, device, tensor, v, 0), after = row.Unscaled is null ? [] : Lengths(row, device, tensor, v, eps);
            moved.Value.Set([.. moved.Value.ToDoubles().Zip(v, (a, b) => a + (eps * b))]);
            if (before.Length > 0)
            {
                Tensor m = adapted.Parameters[^1].Value;
                m.Set([.. m.ToDoubles().Select((value, i) => value * after[i] / before[i])]);     // c = m/‖row‖ stays what it was
            }
        }
        using Scope scope = device.BeginScope();
        double[] y = model.Site.Forward(row.Tensor(scope, DType.F64, x)).ToDoubles();
        return y.Zip(Upstream(y.Length), (a, b) => a * b).Sum();
    }

    /// <summary>‖row‖ of W + s·B·A with one of A and B moved; of an embedding's columns.</summary>
    private static double[] Lengths(AdapterRow row, Device device, string tensor, double[] v, double eps)
    {
        using OneLayer model = row.Model(device, DType.F64);
        using AdaptedModel adapted = Moved(row, row.Unscaled!, model);
        if (adapted.Parameters.SingleOrDefault(p => adapted.Adapters[0].Suffix(p) == tensor) is { } moved)
        {
            moved.Value.Set([.. moved.Value.ToDoubles().Zip(v, (a, b) => a + (eps * b))]);
        }
        using Scope scope = device.BeginScope();
        double[] w = adapted.Adapters[0].EffectiveWeight().ToDoubles();
        int rows = row.Weight[0], cols = w.Length / rows;
        return row.Kind == SiteKind.Embedding
            ? [.. Enumerable.Range(0, cols).Select(j => Math.Sqrt(Enumerable.Range(0, rows).Sum(i => w[(i * cols) + j] * w[(i * cols) + j])))]
            : [.. Enumerable.Range(0, rows).Select(i => Math.Sqrt(w.AsSpan(i * cols, cols).ToArray().Sum(value => value * value)))];
    }
}
