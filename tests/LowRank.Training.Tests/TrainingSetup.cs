using System.Text.Json;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Training.Tests;

/// <summary>The settings of a golden training case: everything comes from its config.</summary>
internal sealed class TrainingSetup(GoldenCase golden)
{
    private const string BaseAfterInit = "buffer.base_after_init.";
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
        if (Kind is not ("adamw" or "adam" or "sgd" or "loraplus"))
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

    private static double[] Turned(double[] values, int rows, int cols) => [.. from r in Enumerable.Range(0, rows) from c in Enumerable.Range(0, cols) select values[(c * rows) + r]];

    /// <summary>What is trained, without an adapter: everything, or the modules whose weights the case names.</summary>
    public IReadOnlyList<Parameter> Train(Model model) => Trainable switch
    {
        "full" => model.TrainAll(),
        "head" => model.TrainHead([.. config.GetProperty("trainable_keys").EnumerateArray().Select(k => k.GetString()!).Select(k => k[..k.LastIndexOf('.')]).Distinct()]),
        _ => throw new InvalidOperationException($"{golden}: trainable is {Trainable}, want adapter, full or head"),
    };

    /// <summary>The optimiser with every constant of the case.</summary>
    public Optimizer Build(IReadOnlyList<Parameter> parameters)
    {
        double decay = Number("weight_decay");
        double[] betas = [.. Optimizer.GetProperty("betas").EnumerateArray().Select(b => b.GetDouble())];
        Optimizer built = Kind == "sgd"
            ? new Sgd(parameters) { Momentum = Number("momentum", 0), Dampening = Number("dampening", 0), Nesterov = Flag("nesterov") }
            : new AdamW(parameters) { Beta1 = betas[0], Beta2 = betas[1], Epsilon = Number("eps"), Coupled = Kind == "adam" };
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
