using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>A golden case of one adapted layer: its output, gradients, merged weight and optimiser steps, float64 to the case's tolerance and float32 to the
/// engine's.</summary>
internal sealed class LayerGolden(GoldenCase golden, AdaptedModel adapted, Adapter adapter, DType type)
{
    /// <summary>What the names of this layer begin with.</summary>
    public string Prefix { get; init; } = "";

    /// <summary>The case's name of a parameter.</summary>
    public Func<string, string> NameOf { get; init; } = suffix => suffix;

    /// <summary>True for parameters that the case holds transposed.</summary>
    public Func<string, bool> IsTurned { get; init; } = _ => false;

    private Device Device => adapted.Model.Device;

    /// <summary>The start is that of the case.</summary>
    public void Started()
    {
        foreach (Parameter p in adapter.Parameters)
        {
            golden.Check(At("param", p), Turned(p, p.Value.ToDoubles()));
        }
    }

    /// <summary>Puts the case's parameters in place.</summary>
    public void Load()
    {
        foreach (Parameter p in adapter.Parameters)
        {
            double[] values = golden.Doubles(At("param", p));
            p.Value.Set(IsTurned(adapter.Suffix(p)) ? Transposed(values, p.Value.Shape[1], p.Value.Shape[0]) : values);
        }
    }

    /// <summary>Output, and gradients of it by every parameter and x.</summary>
    public void Gradients()
    {
        using var own = new Sgd(adapter.Parameters);     // its pack holds the gradients of this pass alone
        using Tape tape = Device.BeginTape();
        Tensor x = golden.Load(Prefix + "in.x", tape, type);
        x.NeedsGradient = true;
        Tensor y = adapter.Site.Forward(x);
        Check("out.y", y.ToDoubles());
        tape.Backward(y, golden.Load(Prefix + "in.gy", tape, type));
        Check("grad.x", x.Gradient!.ToDoubles());
        TakeGradients("grad");
    }

    /// <summary>The penalty, and its gradients.</summary>
    public void Penalty()
    {
        using var own = new Sgd(adapter.Parameters);
        using Tape tape = Device.BeginTape();
        Tensor penalty = adapter.Penalty()!;
        Check("out.reg", penalty.ToDoubles());
        tape.Backward(penalty);
        TakeGradients("grad.reg");
    }

    /// <summary>The merged weight, the output with it, and W again.</summary>
    public void Merged(string name = "out.merged")
    {
        byte[] before = adapter.Site.Weight.Value.ToBytes();
        using (Device.BeginScope())
        {
            Check(name, adapter.EffectiveWeight().ToDoubles());
        }
        adapted.Merge();
        double[] merged = adapter.Site.Weight.Value.ToDoubles();
        Check(name, merged);
        if (type == DType.F64 && golden.Has(Prefix + "out.delta"))
        {
            Check("out.delta", [.. merged.Zip(golden.Doubles(Prefix + "in.W"), (m, w) => m - w)]);
        }
        using (Scope scope = Device.BeginScope())
        {
            Check("out.y", adapter.Site.Forward(golden.Load(Prefix + "in.x", scope, type)).ToDoubles());
        }
        adapted.Unmerge();
        Assert.Equal(before, adapter.Site.Weight.Value.ToBytes());
    }

    /// <summary>Steps that lower factor·mean((y − target)²) + penalty·reg, at a rate for each. Returns the loss before each.</summary>
    public double[] Steps(Optimizer optimizer, int[] saved, double factor, double penalty = 0, Func<int, double>? rate = null)
    {
        optimizer.ClearGradients();
        double[] losses = new double[saved[^1]];
        for (int k = 1; k <= saved[^1]; k++)
        {
            optimizer.LearningRate = rate?.Invoke(k) ?? optimizer.LearningRate;
            using (Tape tape = Device.BeginTape())
            {
                Tensor loss = new SquaredError(factor).Apply(adapter.Site.Forward(golden.Load(Prefix + "in.x", tape, type)), golden.Load(Prefix + "in.target", tape, type));
                loss = penalty == 0 ? loss : new Add(penalty).Apply(loss, adapter.Penalty()!);
                losses[k - 1] = loss.Item();
                if (golden.Has($"{Prefix}step{k}.loss"))
                {
                    Check($"step{k}.loss", loss.ToDoubles(), trajectory: true);
                }
                tape.Backward(loss);
                adapted.Step(optimizer);
            }
            foreach (Parameter p in saved.Contains(k) ? adapted.Parameters : [])
            {
                Check($"step{k}.{NameOf(adapter.Suffix(p))}", Turned(p, p.Value.ToDoubles()), trajectory: true);
            }
        }
        return losses;
    }

    private void TakeGradients(string key)
    {
        foreach (Parameter p in adapter.Parameters)
        {
            Check($"{key}.{NameOf(adapter.Suffix(p))}", Turned(p, p.Gradient!.ToDoubles()));
        }
    }

    private string At(string key, Parameter p) => $"{Prefix}{key}.{NameOf(adapter.Suffix(p))}";

    private void Check(string name, double[] got, bool trajectory = false) => LoraCoreGoldenTests.Check(golden, type, Prefix + name, got, trajectory);

    private double[] Turned(Parameter p, double[] values) => IsTurned(adapter.Suffix(p)) ? Transposed(values, p.Value.Shape[0], p.Value.Shape[1]) : values;

    /// <summary>A row-major matrix the other way round.</summary>
    public static double[] Transposed(double[] values, int rows, int cols) => [.. Enumerable.Range(0, rows * cols).Select(i => values[(i % rows * cols) + (i / rows)])];
}

/// <summary>Fits of a layer's weight to another: Adam on mean((W_eff − target)²), which is least squares on white inputs.</summary>
internal static class WeightFit
{
    /// <summary>‖W_eff − target‖² / ‖target − W‖² at the end; the rate falls along half a cosine.</summary>
    public static double Run(AdaptedModel adapted, double[] target, int steps, double rate)
    {
        Adapter adapter = adapted.Adapters[0];
        Tensor w = adapter.Site.Weight.Value;
        double[] start = w.ToDoubles();
        using Scope store = adapted.Model.Device.NewStore();
        Tensor want = store.Of(w.Shape, target, w.DType);
        using var optimizer = new AdamW(adapted.Parameters) { WeightDecay = 0 };
        double loss = double.NaN;
        for (int k = 0; k < steps; k++)
        {
            optimizer.LearningRate = rate * 0.5 * (1 + Math.Cos(Math.PI * k / steps));
            using Tape tape = adapted.Model.Device.BeginTape();
            Tensor error = new SquaredError(target.Length).Apply(adapter.EffectiveWeight(), want);
            tape.Backward(error);
            adapted.Step(optimizer);
            loss = error.Item();
        }
        return loss / target.Zip(start, (a, b) => (a - b) * (a - b)).Sum();
    }
}

/// <summary>Linear layers that share nothing.</summary>
internal sealed class LinearLayers : Model
{
    public LinearLayers(Device device, DType type, params IEnumerable<(string Path, Shape Shape, double[] W, double[]? Bias)> layers)
        : base(device, type)
    {
        foreach ((string path, Shape shape, double[] w, double[]? bias) in layers)
        {
            Tensor weight = Packing.Pack(Store.Of(shape, w, type), Store);
            Add(new Site(path, SiteKind.Linear, Add($"{path}.weight", weight), bias is null ? null : Add($"{path}.bias", Store.Of([bias.Length], bias, type.ForParameters()))));
        }
    }
}
