using LowRank.Adapters;
using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>One golden training case on a device in one type, step by step against the stored run.</summary>
internal sealed class TrainingCase : IDisposable
{
    private const string Prefix = "base_model.model.", Out64 = "out64.", Final64 = "final64.param.";
    private readonly GoldenCase golden;
    private readonly TrainingSetup setup;
    private readonly DType type;
    private readonly bool wide;
    private readonly Device device = Devices.Open("cpu");
    private readonly AdaptedModel? adapted;
    private readonly Optimizer optimizer;
    private readonly Dictionary<string, Parameter> trained;
    private readonly HashSet<string> noisy;

    public TrainingCase(GoldenCase golden, DType type)
    {
        (this.golden, this.type, wide) = (golden, type, type == DType.F64);
        setup = new TrainingSetup(golden);
        Model = setup.Load(device, type);
        setup.CheckStart(Model);
        adapted = setup.HasAdapter ? Model.AttachPeft(golden.PathOf("adapter_init")) : null;
        setup.PutBase(Model);
        optimizer = setup.Build(Model, adapted);
        trained = optimizer.Pack.Parameters.ToDictionary(KeyOf, StringComparer.Ordinal);
        noisy = [.. golden.Tolerance.Raw.GetProperty("f32_noisy_keys").EnumerateObject().Select(p => p.Name)];
    }

    /// <summary>The network, trained after <see cref="Run"/>.</summary>
    public Model Model { get; }

    /// <summary>The adapter, or null where the model itself is trained.</summary>
    public AdaptedModel? Adapted => adapted;

    /// <summary>Takes every step and compares all that is stored.</summary>
    public void Run()
    {
        Assert.Equal(golden.Config.GetProperty("trainable_keys").EnumerateArray().Select(k => k.GetString()!).Order(StringComparer.Ordinal), trained.Keys.Order(StringComparer.Ordinal));
        Assert.Equal(golden.Config.GetProperty("trainable_count").GetInt64(), (adapted?.Parameters ?? optimizer.Pack.Parameters).Sum(p => p.Value.Shape.Count));      // with LoRA-FA's A
        var losses = new List<double>();
        var norms = new List<double>();
        double[][] rates = [.. Enumerable.Range(0, setup.Steps).Select(Rates)];
        Check("out.logits_first", Logits(0, 0), "f32_logits");
        for (int k = 0; k < setup.Steps; k++)
        {
            optimizer.LearningRate = setup.LearningRate * setup.Schedule.At(k, setup.Steps);
            double rate = optimizer.LearningRate;
            Assert.Contains(rates[k], stored => Math.Abs(stored - rate) <= Close.Bound(DType.F64) * setup.LearningRate);
            losses.Add(Backward(k));
            if (k == 0)
            {
                CheckGradients();
            }
            Step();
            norms.Add(optimizer.GradientNorm);
            CheckParameters($"step{k + 1}.param.", p => p.Value.ToDoubles());
        }
        Check(wide ? Out64 + "loss" : "out.loss", [.. losses], "f32_loss");
        if (wide || !trained.Keys.All(IsNoisy))
        {
            Check(wide ? Out64 + "grad_norm" : "out.grad_norm", [.. norms], "f32_params");
        }
        CheckParameters(wide ? Final64 : "final.param.", p => p.Value.ToDoubles());
        Check(wide ? Out64 + "logits_final" : "out.logits_final", Logits(setup.Steps - 1, setup.Accumulation - 1), "f32_logits");
    }

    /// <summary>Fails unless values lie as close to a stored tensor as the case says for one of its kind.</summary>
    public void Check(string name, double[] got, string figure, double floor = 0)
    {
        double bound = golden.Tolerance.Of(name.StartsWith(Out64, StringComparison.Ordinal) || name.StartsWith(Final64, StringComparison.Ordinal) ? "f64" : figure);
        Close.CheckMax(got, golden.Doubles(name), bound, floor, $"{golden} in {type}: {name}");
    }

    /// <summary>Fails unless a tensor of the written file is that of the stored one within the case's figure.</summary>
    public void CheckSaved(string name, double[] got, double[] want) => Close.CheckMax(got, want, golden.Tolerance.Of("f32_params"), 0, $"{golden}: saved {name}");

    /// <summary>True where values of the float32 run cannot be compared: the gradient is rounding noise.</summary>
    public bool IsNoisy(string key) => noisy.Contains(key);

    public void Dispose()
    {
        optimizer.Dispose();
        adapted?.Dispose();
        Model.Dispose();
        device.Dispose();
    }

    private void Step()
    {
        if (adapted is not null)
        {
            adapted.Step(optimizer);
        }
        else
        {
            optimizer.Step();
        }
    }

    private double Backward(int k)
    {
        double mean = 0, total = setup.MeanOfMeans || setup.Accumulation == 1 ? 0
            : Enumerable.Range(0, setup.Accumulation).Sum(j => (double)setup.Architecture.Counted(new MicroBatch(golden, Inputs(k, j), device.Current!, type)));
        for (int j = 0; j < setup.Accumulation; j++)
        {
            using Tape tape = device.BeginTape();
            var batch = new MicroBatch(golden, Inputs(k, j), tape, type);
            Tensor loss = setup.Architecture.Loss(setup.Architecture.Logits(Model, batch), batch);
            double share = total > 0 ? setup.Architecture.Counted(batch) / total : 1.0 / setup.Accumulation;
            mean += share * loss.Item();
            Tensor upstream = tape.New(loss.Shape, loss.DType);
            upstream.Fill(share);
            tape.Backward(loss, upstream);
        }
        return mean;
    }

    private double[] Logits(int k, int j)
    {
        using Scope scope = device.BeginScope();
        return setup.Architecture.Logits(Model, new MicroBatch(golden, Inputs(k, j), scope, type)).ToDoubles();
    }

    private string Inputs(int k, int j) => setup.Accumulation == 1 ? $"in.step{k}." : $"in.step{k}.micro{j}.";

    /// <summary>The stored learning rates of a step, one a group.</summary>
    private double[] Rates(int k)
    {
        double[] all = golden.Doubles("out.lr");
        int groups = all.Length / setup.Steps;
        return all[(k * groups)..((k + 1) * groups)];
    }

    private void CheckGradients()
    {
        const string prefix = "step1.grad.";
        double largest = golden.Names(prefix).SelectMany(golden.Doubles).Max(Math.Abs);
        CheckParameters(prefix, p => p.Gradient!.ToDoubles(), Close.GradientFloor * largest);
    }

    private void CheckParameters(string prefix, Func<Parameter, double[]> values, double floor = 0)
    {
        IReadOnlyList<string> stored = golden.Names(prefix);
        foreach (string name in stored.Where(n => n.StartsWith(Final64, StringComparison.Ordinal) || !IsNoisy(n[prefix.Length..])))
        {
            Parameter parameter = trained[name[prefix.Length..]];
            Check(name, setup.AsInFile(Model, parameter, values(parameter)), "f32_params", floor);
        }
        Assert.True(stored.Count == 0 || stored.Count == trained.Count, $"{golden}: {prefix} holds {stored.Count} tensors, want {trained.Count}");
    }

    /// <summary>The key of a trained tensor in the case: PEFT's, or the module path where the model itself is trained.</summary>
    private string KeyOf(Parameter parameter)
    {
        string path = Model.ModulePath(parameter.Name);
        bool baseBias = adapted?.Adapters.Any(a => a.Site.Bias == parameter) == true;
        return adapted is null ? path : Prefix + (baseBias ? path[..^".bias".Length] + ".base_layer.bias" : path);
    }
}
