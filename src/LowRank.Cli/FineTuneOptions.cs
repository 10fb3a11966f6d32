using System.Globalization;
using System.Text.Json.Serialization;
using LowRank.Adapters;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>A way to adapt a model, as <c>--method</c> names it.</summary>
/// <param name="Name">The word.</param>
/// <param name="LearningRate">Of AdamW, where the user gives none.</param>
/// <param name="Config">The adapter's settings; null where weights of the model itself are trained.</param>
internal sealed record FineTuneMethod(string Name, double LearningRate, Func<FineTuneOptions, AdapterConfig>? Config)
{
    /// <summary>The optimiser where the user names none.</summary>
    public string Optimizer { get; init; } = "adamw";

    /// <summary>Every way there is.</summary>
    public static IReadOnlyList<FineTuneMethod> All { get; } =
    [
        new("lora", 2e-3, Lora),
        new("dora", 2e-3, o => Lora(o) with { Dora = true }),
        new("rslora", 1e-3, o => Lora(o) with { RankStabilized = true }),
        new("pissa", 1e-3, o => Lora(o) with { Init = LoraInit.Pissa }),
        new("olora", 1e-3, o => Lora(o) with { Init = LoraInit.Olora }),
        new("loha", 2e-3, o => new LohaConfig { Rank = o.Rank, Alpha = o.Alpha }),
        new("lokr", 2e-3, o => new LokrConfig { Rank = o.Rank, Alpha = o.Alpha }),
        new("vera", 1e-2, o => new VeraConfig { Rank = o.Rank, Dropout = o.Dropout }),
        new("wara", 2e-3, o => new WaraConfig { Rank = o.Rank, Alpha = o.Alpha, Dropout = o.Dropout, Pad = true }),
        new("randlora", 1e-2, o => new RandLoraConfig { Rank = o.Rank, Alpha = o.Alpha, Dropout = o.Dropout }),
        new("salt", 1e-2, o => new SaltConfig { LowRank = o.Rank }),
        new("sltrain", 3e-3, o => new SlTrainConfig { Rank = o.Rank, Alpha = o.Alpha, Density = 0.1 }),
        new("ia3", 1e-2, _ => new Ia3Config()),
        new("loca", 5e-3, o => new LocaConfig { Coefficients = 32 * o.Rank, Dropout = o.Dropout }),
        new("snell", 1e-2, o => new SnellConfig { Rank = o.Rank, Sparsity = o.Sparsity, Dropout = o.Dropout }),
        new("sora", 2e-3, o => new SoraConfig { Rank = o.Rank, Alpha = o.Alpha, Dropout = o.Dropout, Lambda1 = o.GatePenalty }) { Optimizer = "sora" },
        new("head", 1e-2, null),
        new("full", 5e-4, null),
    ];

    /// <summary>The names, for help and messages.</summary>
    public static string Names => string.Join(", ", All.Select(m => m.Name));

    /// <summary>The way of that name.</summary>
    /// <exception cref="AdapterConfigException">There is none: lists those there are.</exception>
    public static FineTuneMethod Of(string name) => All.FirstOrDefault(m => m.Name == name)
        ?? throw new AdapterConfigException($"FineTuneMethod: method is {name}, want one of {Names}");

    /// <summary>The adapter's settings, or null where weights of the model itself are trained.</summary>
    /// <exception cref="AdapterConfigException">An option is set that the method does not have: names it.</exception>
    public AdapterConfig? Make(FineTuneOptions options)
    {
        AdapterConfig? config = Config?.Invoke(options);
        return options.LoraPlus is not null && config is not LoraConfig ? throw new AdapterConfigException($"FineTuneMethod: LoRA+ is asked for beside method {Name}, want a method with A and B")
            : options.Dropout > 0 && config is not (null or LoraConfig or VeraConfig or RandLoraConfig or LocaConfig or WaraConfig or SnellConfig or SoraConfig) ? throw new AdapterConfigException($"FineTuneMethod: dropout is {options.Dropout} beside method {Name}, want 0: it drops no inputs")
            : config;
    }

    private static LoraConfig Lora(FineTuneOptions options) => new() { Rank = options.Rank, Alpha = options.Alpha, Dropout = options.Dropout };
}

/// <summary>Settings of one adaptation. Two runs with equal settings on equal images end with the same bits.</summary>
internal sealed record FineTuneOptions
{
    /// <summary>One of <see cref="FineTuneMethod.All"/>.</summary>
    public string Method { get; init; } = "lora";

    /// <summary>Rank r of the adapters, or of GaLore's projections.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>Scale of the adapters: Alpha/r, with rsLoRA Alpha/√r.</summary>
    public double Alpha { get; init; } = 16;

    /// <summary>Layers to adapt: <c>all-linear</c>, names after commas, or a regular expression for whole paths.</summary>
    public string Targets { get; init; } = Adapters.Names.AllLinear.Expression;

    /// <summary>Share of the adapters' inputs dropped in training.</summary>
    public double Dropout { get; init; }

    /// <summary>Share of the entries of SNELL's delta that its threshold drops.</summary>
    public double Sparsity { get; init; } = 0.9;

    /// <summary>λ₁ of SoRA: what the mean size of the gates adds to the loss.</summary>
    public double GatePenalty { get; init; } = 1e-3;

    /// <summary>λ₂ of SoRA's optimiser: what a step takes off every gate.</summary>
    public double GateThreshold { get; init; } = 1e-3;

    /// <summary>LoRA+: how much faster B learns than A; null: as fast.</summary>
    public double? LoraPlus { get; init; }

    /// <summary>Layers keep their input alone and are computed once more for the gradient: less memory, more time, the same bits.</summary>
    public bool Recompute { get; init; }

    /// <summary>Passes over the training images.</summary>
    public int Epochs { get; init; } = 30;

    /// <summary>Images of a step.</summary>
    public int BatchSize { get; init; } = 32;

    /// <summary>Parts a step is computed in, to save memory.</summary>
    public int Accumulation { get; init; } = 1;

    /// <summary>One of <see cref="FineTuneOptimizer.All"/>.</summary>
    public string Optimizer { get; init; } = "adamw";

    /// <summary>Highest learning rate; null: that of the method and the optimiser.</summary>
    public double? LearningRate { get; init; }

    /// <summary>How it falls.</summary>
    public Decay Schedule { get; init; } = Decay.Cosine;

    /// <summary>Share of the steps over which it rises first.</summary>
    public double Warmup { get; init; } = 0.1;

    /// <summary>Weight decay of matrices.</summary>
    public double WeightDecay { get; init; } = 0.01;

    /// <summary>Gradients are clipped to this norm; 0: not.</summary>
    public double MaxGradientNorm { get; init; } = 1;

    /// <summary>Each parameter moves as soon as its gradient is complete.</summary>
    public bool PerLayer { get; init; }

    /// <summary>Share of a label that goes to all classes alike.</summary>
    public double LabelSmoothing { get; init; }

    /// <summary>Measurements in a row without a better one after which the run ends; 0: it goes to its last epoch.</summary>
    public int Patience { get; init; }

    /// <summary>What was best on the samples kept to measure with is saved, and not the last; <see cref="Patience"/> asks for it too.</summary>
    public bool KeepBest { get; init; }

    /// <summary>Training images move at random by up to this many pixels of the network's input, both ways; 0: not.</summary>
    public int Shift { get; init; }

    /// <summary>Seed of the new weights, of the order of images and of dropout.</summary>
    public ulong Seed { get; init; }

    /// <summary>Type of the activations and frozen matrices: F32 or BF16.</summary>
    public DType Type { get; init; } = DType.F32;

    /// <summary>Steps between checkpoints beside those at the end of each epoch; 0: none.</summary>
    public int CheckpointSteps { get; init; }

    /// <summary>Epochs between measurements on the test images; 0: about twenty in a run.</summary>
    public int EvaluationEpochs { get; init; }

    /// <summary>Checks what has a range of its own; adapters and images are checked where they are made.</summary>
    /// <exception cref="UsageException">A number is out of range: names it.</exception>
    public void Check()
    {
        static void Require(bool fact, string name, double value, string want)
        {
            if (!fact)
            {
                throw new UsageException(string.Create(CultureInfo.InvariantCulture, $"FineTuneOptions: {name} is {value}, want {want}"));
            }
        }
        Require(Epochs > 0, "epochs", Epochs, "at least 1");
        Require(BatchSize > 0, "batch-size", BatchSize, "at least 1");
        Require(Accumulation > 0 && Accumulation <= BatchSize, "accumulate", Accumulation, $"1 .. batch-size {BatchSize}");
        Require(Rate > 0 && double.IsFinite(Rate), "learning-rate", Rate, "more than 0");
        Require(Warmup is >= 0 and <= 1, "warmup", Warmup, "0 .. 1, a share of the steps");
        Require(WeightDecay >= 0, "weight-decay", WeightDecay, "0 or more");
        Require(MaxGradientNorm >= 0, "max-gradient-norm", MaxGradientNorm, "0 or more");
        Require(!PerLayer || MaxGradientNorm == 0, "max-gradient-norm", MaxGradientNorm, "0 beside per-layer, which cannot know the norm of all gradients");
        Require(!PerLayer || Accumulation == 1, "accumulate", Accumulation, "1 beside per-layer, which does not keep gradients to add to");
        Require(LabelSmoothing is >= 0 and < 1, "label-smoothing", LabelSmoothing, "0 or more, less than 1");
        Require(Patience >= 0, "patience", Patience, "0 or more");
        Require(CheckpointSteps >= 0, "checkpoint-steps", CheckpointSteps, "0 or more");
        Require(EvaluationEpochs >= 0, "evaluation-epochs", EvaluationEpochs, "0 or more");
    }

    /// <summary>The rate in use.</summary>
    [JsonIgnore]
    public double Rate => LearningRate ?? FineTuneMethod.Of(Method).LearningRate * FineTuneOptimizer.Of(Optimizer).RateFactor;
}
