using System.Text.Json;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>The settings of a golden training case: everything comes from its config.</summary>
internal sealed class TrainingSetup(GoldenCase golden)
{
    private const string BaseAfterInit = "buffer.base_after_init.";
    private static readonly string[] Optimizers = ["adamw", "adam", "sgd", "loraplus", "rmsprop", "adafactor", "lorafa", "riemannian"];
    private readonly JsonElement config = golden.Config;

    private JsonElement Optimizer => config.GetProperty("optimizer");

    public int Steps => config.GetProperty("steps").GetInt32();

    public int Accumulation => config.GetProperty("accumulation").GetInt32();

    public bool MeanOfMeans => config.GetProperty("loss").GetString()!.Contains("each micro-batch's own mean", StringComparison.Ordinal);

    public Architecture Architecture => Architecture.All[ModelType];

    public bool HasAdapter => Trainable == "adapter";

    public double LearningRate => Number("lr");

    public Schedule Schedule => Optimizer.GetProperty("sched") is { ValueKind: JsonValueKind.Object } schedule
        ? new Schedule(Enum.Parse<Decay>(schedule.GetProperty("name").GetString()!, ignoreCase: true), schedule.GetProperty("warmup").GetInt64())
        : default;

    private string ModelType => config.GetProperty("model").GetString()!;

    private string Trainable => config.GetProperty("trainable").GetString()!;

    private string Kind => Optimizer.GetProperty("name").GetString()!;

    /// <summary>Why the case cannot run yet, or null.</summary>
    public string? Missing()
    {
        if (!Architecture.All.ContainsKey(ModelType))
        {
            return $"architecture {ModelType} is not built yet";
        }
        if (!Optimizers.Contains(Kind))
        {
            return $"optimiser {Kind} is not built yet";
        }
        if (HasAdapter)
        {
            try
            {
                AdapterCatalog.Read(File.ReadAllBytes(golden.PathOf(Path.Combine("adapter_init", PeftFolder.ConfigFile))));
            }
            catch (ModelFormatException error) when (error.Message.Contains("not built", StringComparison.Ordinal))
            {
                return error.Message;
            }
        }
        return null;
    }

    public Model Load(Device device, DType type) => PretrainedModel.Load(golden.PathOf("base"), device, new LoadOptions { Type = type, Pack = golden.Names(BaseAfterInit).Count == 0 });

    /// <summary>Where the adapter's start changed the base: the weights that PEFT went on with, to the last bit.</summary>
    public void PutBase(Model model)
    {
        foreach (string name in golden.Names(BaseAfterInit))
        {
            Parameter weight = model.Parameters.Values.Single(p => model.ModulePath(p.Name) == name[BaseAfterInit.Length..]);
            double[] values = golden.Doubles(name);
            weight.Value.Set(((PretrainedModel)model).IsTransposedInFile(weight) ? Turned(values, weight.Value.Shape[0], weight.Value.Shape[1]) : values);
        }
    }

    /// <summary>Where the case holds the batches that EVA started from: it finds the same ranks, scales and components, but for signs.</summary>
    public void CheckStart(Model model)
    {
        int count = Enumerable.Range(0, int.MaxValue).First(i => !golden.Has($"in.eva{i}.input_ids"));
        if (count == 0)
        {
            return;
        }
        using PeftFolder saved = PeftFolder.Open(golden.PathOf("adapter_init"));
        var want = (LoraConfig)saved.Config;
        LoraConfig before = want with { RankPattern = new Dictionary<string, double>(), AlphaPattern = new Dictionary<string, double>() };
        MicroBatch Batch(int i) => new(golden, $"in.eva{i}.", model.Device.Current!, model.DType);
        var data = new Calibration(count, i => Architecture.Logits(model, Batch(i)))
        {
            Rows = i => [.. Batch(i).Ints("attention_mask").Zip(Batch(i).Ints("labels")).Index().Where(t => t.Item.First != 0 && t.Item.Second != Losses.Ignored).Select(t => t.Index)],
        };
        using AdaptedModel started = model.Attach(before, data);
        var got = (LoraConfig)started.Config;
        Assert.Equal(want.Targets!.Order(StringComparer.Ordinal), got.Targets!.Order(StringComparer.Ordinal));
        Assert.Equal(want.RankPattern.OrderBy(p => p.Key, StringComparer.Ordinal), got.RankPattern.OrderBy(p => p.Key, StringComparer.Ordinal));
        Assert.Equal(want.AlphaPattern.OrderBy(p => p.Key, StringComparer.Ordinal), got.AlphaPattern.OrderBy(p => p.Key, StringComparer.Ordinal));
        foreach (Parameter a in started.Parameters.Where(p => p.Name.EndsWith(".lora_A.weight", StringComparison.Ordinal)))
        {
            int width = a.Value.Shape[1];
            foreach ((double[] row, double[] stored) in a.Value.ToDoubles().Chunk(width).Zip(saved.Tensors.ReadDouble("base_model.model." + a.Name).Chunk(width)))
            {
                double sign = Math.Sign(row.Zip(stored, (x, y) => x * y).Sum());
                Close.Check([.. row.Select(v => sign * v)], stored, Close.RandomizedStart, $"{golden}: first {a.Name}");
            }
        }
    }

    /// <summary>Values of a parameter as files hold them, where they hold it transposed.</summary>
    public double[] AsInFile(Model model, Parameter parameter, double[] values) =>
        !HasAdapter && ((PretrainedModel)model).IsTransposedInFile(parameter) ? Turned(values, parameter.Value.Shape[1], parameter.Value.Shape[0]) : values;

    private static double[] Turned(double[] values, int rows, int cols) => [.. from r in Enumerable.Range(0, rows) from c in Enumerable.Range(0, cols) select values[(c * rows) + r]];

    /// <summary>What is trained, without an adapter: everything, or the modules whose weights the case names.</summary>
    private IReadOnlyList<Parameter> Train(Model model) => Trainable switch
    {
        "full" => model.TrainAll(),
        "head" => model.TrainHead([.. config.GetProperty("trainable_keys").EnumerateArray().Select(k => k.GetString()!).Select(k => k[..k.LastIndexOf('.')]).Distinct()]),
        _ => throw new InvalidOperationException($"{golden}: trainable is {Trainable}, want adapter, full or head"),
    };

    /// <summary>The optimiser with every constant of the case.</summary>
    public Optimizer Build(Model model, AdaptedModel? adapted)
    {
        double decay = Number("weight_decay"), beta1 = Optimizer.GetProperty("betas")[0].GetDouble(), beta2 = Optimizer.GetProperty("betas")[1].GetDouble();
        IReadOnlyList<Parameter> parameters = adapted?.Parameters ?? Train(model);
        Optimizer built = Kind switch
        {
            "sgd" => new Sgd(parameters) { Momentum = Number("momentum", 0), Dampening = Number("dampening", 0), Nesterov = Flag("nesterov") },
            "rmsprop" => new RmsProp(parameters) { Alpha = Number("alpha"), Epsilon = Number("eps"), Momentum = Number("momentum", 0), Centered = Flag("centered") },
            "adafactor" => new Adafactor(parameters)
            {
                MomentDecay = -Number("beta2_decay"),
                Epsilon = Optimizer.GetProperty("eps2")[0].GetDouble(),
                LeastSize = Optimizer.GetProperty("eps2")[1].GetDouble(),
                Threshold = Number("d"),
            },
            "lorafa" => new LoraFa(adapted!) { Beta1 = beta1, Beta2 = beta2, Epsilon = Number("eps") },
            "riemannian" => new RiemannianAdamW(adapted!) { Beta1 = beta1, Beta2 = beta2, Epsilon = Number("eps"), Regularization = Number("reg") },
            _ => new AdamW(parameters) { Beta1 = beta1, Beta2 = beta2, Epsilon = Number("eps"), Coupled = Kind == "adam" },
        };
        built.WeightDecay = decay;
        built.MaxGradientNorm = config.GetProperty("clip_norm") is { ValueKind: JsonValueKind.Number } clip ? clip.GetDouble() : 0;
        foreach (Parameter p in parameters.Where(p => p.Value.Shape.Rank < 2 && Optimizer.GetProperty("decay_rule").GetString() == "matrices"))
        {
            p.WeightDecay = 0;
        }
        if (Kind == "loraplus")
        {
            LoraPlus.Apply(parameters, LearningRate, Number("loraplus_lr_ratio"), Number("loraplus_lr_embedding", 1e-6), decay);
        }
        return built;
    }

    private double Number(string name) => Optimizer.GetProperty(name).GetDouble();

    private double Number(string name, double otherwise) => Optimizer.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.Number ? value.GetDouble() : otherwise;

    private bool Flag(string name) => Optimizer.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.True;
}
