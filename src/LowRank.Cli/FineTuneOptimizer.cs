using LowRank.Adapters;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>What moves the parameters, as <c>--optimizer</c> names it.</summary>
/// <param name="Name">The word.</param>
/// <param name="RateFactor">Its learning rate in terms of the method's, which is for AdamW, where the user gives none.</param>
/// <param name="Make">The optimiser of what is trained: those parameters, the adapters they belong to, the settings of the run.</param>
internal sealed record FineTuneOptimizer(string Name, double RateFactor, Func<IReadOnlyList<Parameter>, AdaptedModel?, FineTuneOptions, Optimizer> Make)
{
    /// <summary>Every one there is.</summary>
    public static IReadOnlyList<FineTuneOptimizer> All { get; } =
    [
        new("adamw", 1, (parameters, _, _) => new AdamW(parameters)),
        new("adam", 1, (parameters, _, _) => new AdamW(parameters) { Coupled = true }),
        new("sgd", 20, (parameters, _, _) => new Sgd(parameters) { Momentum = 0.9 }),
        new("rmsprop", 0.5, (parameters, _, _) => new RmsProp(parameters)),
        new("adafactor", 10, (parameters, _, _) => new Adafactor(parameters)),
        new("galore", 5, (parameters, _, options) => new GaLore(parameters) { Rank = options.Rank }),
        new("adamw-8bit", 1, (parameters, _, _) => new AdamW8Bit(parameters)),
        new("galore-8bit", 5, (parameters, _, options) => new GaLore8Bit(parameters) { Rank = options.Rank }),
        new("galore-adafactor", 5, (parameters, _, options) => new GaLoreAdafactor(parameters) { Rank = options.Rank }),
        new("lora-fa", 1, (_, adapted, _) => new LoraFa(Adapters("lora-fa", adapted))),
        new("riemannian", 1, (_, adapted, _) => new RiemannianAdamW(Adapters("riemannian", adapted))),
        new("sora", 1, (parameters, adapted, options) => new GatedAdamW(parameters, SoraGates.Parameters(Adapters("sora", adapted))) { Threshold = options.GateThreshold, Proximal = true }),
    ];

    /// <summary>The names, for help and messages.</summary>
    public static string Names => string.Join(", ", All.Select(o => o.Name));

    /// <summary>The one of that name.</summary>
    /// <exception cref="UsageException">There is none: lists those there are.</exception>
    public static FineTuneOptimizer Of(string name) => All.FirstOrDefault(o => o.Name == name)
        ?? throw new UsageException($"FineTuneOptimizer: optimizer is {name}, want one of {Names}");

    private static AdaptedModel Adapters(string name, AdaptedModel? adapted) => adapted
        ?? throw new UsageException($"FineTuneOptimizer: optimizer is {name}, which is made for A and B, want a method that has them, such as lora");
}
