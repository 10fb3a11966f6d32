using LowRank.Adapters;

namespace LowRank.Testing;

/// <summary>A method on one layer: the contract of every adapter runs over it on every device.</summary>
/// <param name="Config">The settings; they adapt <c>layer</c>.</param>
/// <param name="Kind">What the layer computes.</param>
/// <param name="Weight">[out,in], [out,in,kh,kw], [vocabulary,width], or [d] of a norm.</param>
/// <param name="Count">Trainable elements, counted by hand.</param>
public sealed record AdapterRow(AdapterConfig Config, SiteKind Kind, Shape Weight, long Count)
{
    /// <summary>Whether the layer has a bias of its own.</summary>
    public bool Bias { get; init; } = true;

    /// <summary>Geometry of a convolution.</summary>
    public Convolution Convolution { get; init; } = new() { Padding = 1 };

    /// <summary>False where the start is meant to differ from W.</summary>
    public bool StartsAtBase { get; init; } = true;

    /// <summary>True where W_eff is W to the bit at the start; false where W is taken apart and put together again, or scaled by its own norms.</summary>
    public bool StartsExactly => StartsAtBase && Config is not (SaltConfig or LoraConfig { Dora: true }) && (Config is not LoraConfig lora || lora.Init == LoraInit.Default || lora.Init == LoraInit.Gaussian);

    /// <summary>False where the start follows from W alone, whatever the seed.</summary>
    public bool StartIsDrawn { get; init; } = true;

    /// <summary>For DoRA: the settings without its rescaling. The length of a row counts as a constant in gradients, so a difference must hold it still.</summary>
    public AdapterConfig? Unscaled { get; init; }

    /// <summary>True where the gradient takes a part of W_eff for a constant, so that a difference of the output is not its measure.</summary>
    public bool IsDetached { get; init; }

    /// <summary>Element types that the layer is tried in.</summary>
    public IEnumerable<DType> Types => Kind == SiteKind.Linear ? [DType.F32, DType.F64, DType.BF16] : [DType.F32, DType.F64];

    /// <summary>Shape of an input.</summary>
    public Shape Input => Kind switch
    {
        SiteKind.Linear => [2, 3, Weight[1]],
        SiteKind.Conv1d => [2, Weight[1], 9],
        SiteKind.Conv2d => [2, Weight[1], 7, 6],
        SiteKind.Conv3d => [2, Weight[1], 3, 5, 4],
        SiteKind.Norm => [2, 3, Weight[0]],
        _ => [2, 5],
    };

    /// <summary>The layer with weights drawn from a seed.</summary>
    public OneLayer Model(Device device, DType type, bool pack = true, ulong seed = 3)
    {
        var rng = new Rng(seed);
        return new OneLayer(device, type, Kind, Weight, Draw(rng.Fork("w"), Weight.Count), Bias && Kind != SiteKind.Embedding ? Draw(rng.Fork("bias"), Weight[0]) : null, Convolution, pack);
    }

    /// <summary>An input: ids, or numbers of which bfloat16 holds every one.</summary>
    public double[] Values(ulong seed = 5) => Kind == SiteKind.Embedding
        ? [.. Draw(new Rng(seed), Input.Count).Select(v => Math.Floor((v + 1) / 2 * Weight[0]))]
        : [.. Draw(new Rng(seed), Input.Count).Select(v => Math.Round(v * 64) / 64)];

    /// <summary>That input as a tensor.</summary>
    public Tensor Tensor(Scope scope, DType type, double[] values) =>
        Kind == SiteKind.Embedding ? scope.Of(Input, Array.ConvertAll(values, v => (int)v)) : scope.Of(Input, values, type);

    /// <summary>Uniform numbers on ±1.</summary>
    public static double[] Draw(Rng rng, long count)
    {
        var values = new double[count];
        rng.FillUniform(values, -1, 1);
        return values;
    }

    /// <summary>Name in test output.</summary>
    public override string ToString() => $"{Config.Method} {Kind} {Weight}{(Config is LoraConfig c ? Settings(c) : "")}";

    private static string Settings(LoraConfig c) =>
        $" r {c.Rank} init {c.Init}{(c.RankStabilized ? " rsLoRA" : "")}{(c.Dora ? " DoRA" : "")}{(c.LoraBias ? " bias" : "")}{(c.RankPattern.Count + c.AlphaPattern.Count > 0 ? " patterns" : "")}";
}

/// <summary>The table of adapter rows; a method adds its own.</summary>
public static class AdapterRows
{
    private static readonly LoraConfig Lora = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private static readonly LoraConfig Patterned = Lora with
    {
        RankPattern = new Dictionary<string, double> { ["l.*r"] = 5, ["layer"] = 7 },
        AlphaPattern = new Dictionary<string, double> { ["other"] = 1, ["layer"] = 4 },
    };

    private static readonly LohaConfig Loha = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private static readonly LokrConfig Lokr = new() { Targets = ["layer"], Rank = 1, Alpha = 3 };
    private static readonly VeraConfig Vera = new() { Targets = ["layer"], Rank = 5, Key = 3 };
    private static readonly RandLoraConfig RandLora = new() { Targets = ["layer"], Rank = 4, Alpha = 8, Key = 3 };
    private static readonly SaltConfig Salt = new() { Targets = ["layer"], Rank = 3, LowRank = 2 };
    private static readonly SlTrainConfig SlTrain = new() { Targets = ["layer"], Rank = 3, Alpha = 6, Density = 0.2 };
    private static readonly SnellConfig Snell = new() { Targets = ["layer"], Rank = 4, Sparsity = 0.5 };
    private static readonly SoraConfig Sora = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private static readonly Ia3Config Ia3 = new() { Targets = ["layer"] };
    private static readonly LnTuningConfig LnTuning = new() { Targets = ["layer"] };
    private static readonly WaraConfig Wara = new() { Targets = ["layer"], Rank = 3, Alpha = 6 };
    private static readonly TrainableTokensConfig Tokens = new() { Targets = ["layer"], Tokens = [7, 0, 3, 10, 5] };

    private static readonly LocaConfig Loca = new() { Targets = ["layer"], Coefficients = 20, CoefficientSteps = 2, LocationSteps = 2, LocationRate = 0.1 };

    /// <summary>Every row.</summary>
    public static IReadOnlyList<AdapterRow> All { get; } =
    [
        new(Lora, SiteKind.Linear, [9, 14], 3 * (9 + 14)),
        new(Lora with { Rank = 8, Alpha = 16 }, SiteKind.Linear, [70, 50], 8 * (70 + 50)) { Bias = false },
        new(Lora with { Rank = 1 }, SiteKind.Linear, [1, 33], 1 + 33),
        new(Lora with { Rank = 20 }, SiteKind.Linear, [12, 7], 20 * (12 + 7)),
        new(Lora with { RankStabilized = true }, SiteKind.Linear, [33, 18], 3 * (33 + 18)),
        new(Lora with { LoraBias = true }, SiteKind.Linear, [9, 14], (3 * (9 + 14)) + 9),
        new(Lora with { Init = LoraInit.Gaussian }, SiteKind.Linear, [9, 14], 3 * (9 + 14)),
        new(Lora with { Init = LoraInit.None }, SiteKind.Linear, [9, 14], 3 * (9 + 14)) { StartsAtBase = false },
        new(Lora with { Init = LoraInit.Orthogonal, Rank = 4 }, SiteKind.Linear, [9, 14], 4 * (9 + 14)),
        new(Lora with { Init = LoraInit.Pissa }, SiteKind.Linear, [9, 14], 3 * (9 + 14)) { StartIsDrawn = false },
        new(Lora with { Init = LoraInit.Pissa, RankStabilized = true, Rank = 7 }, SiteKind.Linear, [40, 7], 7 * (40 + 7)) { StartIsDrawn = false, Bias = false },
        new(Lora with { Init = LoraInit.Olora }, SiteKind.Linear, [14, 9], 3 * (14 + 9)) { StartIsDrawn = false },
        new(Lora with { Init = LoraInit.Loftq, Loftq = new(4) }, SiteKind.Linear, [14, 20], 3 * (14 + 20)) { StartIsDrawn = false, StartsAtBase = false },
        new(Lora with { Init = LoraInit.Loftq, Loftq = new(8, 2), Rank = 2 }, SiteKind.Linear, [9, 14], 2 * (9 + 14)) { StartIsDrawn = false, StartsAtBase = false, Bias = false },
        new(Patterned, SiteKind.Linear, [10, 16], 5 * (10 + 16)),
        new(Patterned with { RankStabilized = true }, SiteKind.Linear, [10, 16], 5 * (10 + 16)),
        new(Lora with { Dora = true }, SiteKind.Linear, [9, 14], (3 * (9 + 14)) + 9) { Unscaled = Lora },
        new(Lora with { Dora = true, RankStabilized = true }, SiteKind.Linear, [70, 33], (3 * (70 + 33)) + 70) { Bias = false, Unscaled = Lora with { RankStabilized = true } },
        new(Lora, SiteKind.Conv2d, [6, 4, 3, 3], 3 * (6 + (4 * 9))),
        new(Lora with { RankStabilized = true }, SiteKind.Conv2d, [5, 2, 3, 2], 3 * (5 + (2 * 6))) { Convolution = new() { Stride = 2 } },
        new(Lora with { Dora = true }, SiteKind.Conv2d, [6, 4, 3, 3], (3 * (6 + (4 * 9))) + 6) { Unscaled = Lora },
        new(Patterned, SiteKind.Conv2d, [6, 1, 2, 2], 5 * (6 + 4)) { Convolution = new() { Stride = 2 }, Bias = false },
        new(Lora, SiteKind.Conv2d, [3, 2, 2, 3], 3 * (3 + (2 * 6))) { Convolution = new() { Stride = new(1, 2, 1), Padding = new(0, 0, 2) } },
        new(Lora, SiteKind.Conv1d, [6, 4, 3], 3 * (6 + (4 * 3))),
        new(Lora with { Dora = true }, SiteKind.Conv1d, [5, 2, 4], (3 * (5 + (2 * 4))) + 5) { Convolution = new() { Stride = 2 }, Unscaled = Lora },
        new(Lora, SiteKind.Conv3d, [3, 2, 1, 2, 3], 3 * (3 + (2 * 6))) { Convolution = new() { Padding = new(0, 1, 1) } },
        new(Lora with { Dora = true, RankStabilized = true }, SiteKind.Conv3d, [4, 2, 2, 3, 2], (3 * (4 + (2 * 12))) + 4) { Unscaled = Lora with { RankStabilized = true } },
        new(Lora, SiteKind.Embedding, [30, 12], 3 * (30 + 12)),
        new(Lora with { RankStabilized = true }, SiteKind.Embedding, [11, 8], 3 * (11 + 8)),
        new(Lora with { Dora = true }, SiteKind.Embedding, [30, 12], (3 * (30 + 12)) + 12) { Unscaled = Lora },
        new(Loha, SiteKind.Linear, [9, 14], 2 * 3 * (9 + 14)),
        new(Loha with { Rank = 8, RankPattern = new Dictionary<string, double> { ["layer"] = 5 } }, SiteKind.Linear, [70, 50], 2 * 5 * (70 + 50)) { Bias = false },
        new(Loha with { InitWeights = false }, SiteKind.Linear, [9, 14], 2 * 3 * (9 + 14)) { StartsAtBase = false },
        new(Loha, SiteKind.Conv2d, [6, 4, 3, 3], 2 * 3 * (6 + (4 * 9))),
        new(Loha with { EffectiveConvolution = true }, SiteKind.Conv2d, [6, 4, 3, 2], 2 * 3 * (6 + 4 + (3 * 6))) { Convolution = new() { Stride = 2 } },
        new(Loha with { EffectiveConvolution = true }, SiteKind.Conv2d, [6, 4, 1, 1], 2 * 3 * (6 + 4)),
        new(Lokr, SiteKind.Linear, [9, 14], (3 * 2) + (3 + 7)),
        new(Lokr with { Rank = 4 }, SiteKind.Linear, [9, 14], (3 * 2) + (3 * 7)),
        new(Lokr with { Rank = 2, DecomposeBoth = true }, SiteKind.Linear, [70, 50], (2 * (7 + 5)) + (2 * (10 + 10))) { Bias = false },
        new(Lokr with { Rank = 8, DecomposeFactor = 4 }, SiteKind.Linear, [12, 8], (4 * 4) + (3 * 2)),
        new(Lokr with { Init = LokrInit.Lycoris }, SiteKind.Linear, [9, 14], (3 * 2) + (3 + 7)),
        new(Lokr with { Init = LokrInit.None }, SiteKind.Linear, [9, 14], (3 * 2) + (3 + 7)) { StartsAtBase = false },
        new(Lokr, SiteKind.Conv2d, [6, 4, 3, 3], (2 * 2) + (3 + (2 * 9))),
        new(Lokr with { EffectiveConvolution = true }, SiteKind.Conv2d, [6, 4, 3, 2], (2 * 2) + (3 + 2 + 6)) { Convolution = new() { Stride = 2 } },
        new(Lokr with { Rank = 2 }, SiteKind.Conv2d, [6, 4, 3, 3], (2 * 2) + (3 * 2 * 9)) { Bias = false },
        new(Vera, SiteKind.Linear, [9, 14], 9 + 5) { StartIsDrawn = false },
        new(Vera with { Rank = 3, SaveProjection = false }, SiteKind.Linear, [70, 50], 70 + 3) { StartIsDrawn = false, Bias = false },
        new(Vera with { InitWeights = false }, SiteKind.Linear, [9, 14], 9 + 5) { StartsAtBase = false },
        new(RandLora, SiteKind.Linear, [9, 14], 3 * (4 + 9)) { StartIsDrawn = false },
        new(RandLora with { Sparse = true, SaveProjection = false }, SiteKind.Linear, [50, 33], 9 * (4 + 33)) { StartIsDrawn = false, Bias = false },
        new(RandLora with { Rank = 20, InitWeights = false }, SiteKind.Linear, [12, 7], 20 + 7) { StartsAtBase = false },
        new(RandLora with { Variant = RandLoraVariant.Vision, MostTerms = 2 }, SiteKind.Linear, [9, 14], 2 * (4 + 9)) { StartIsDrawn = false },
        new(RandLora with { Variant = RandLoraVariant.Official, VerySparse = true }, SiteKind.Linear, [14, 9], 3 * (4 + 9)) { StartIsDrawn = false },
        new(Salt, SiteKind.Linear, [9, 14], 2 * (3 + (6 * 2))),
        new(Salt with { Variant = SaltVariant.V1 }, SiteKind.Linear, [14, 9], 2 * (3 + (6 * 2))) { StartsAtBase = false, Bias = false },
        new(Salt with { Rank = null, Ratio = 1 }, SiteKind.Linear, [12, 7], 2 * 7) { StartIsDrawn = false },
        new(Salt, SiteKind.Conv2d, [6, 2, 3, 2], 2 * (3 + (3 * 2))) { Convolution = new() { Stride = 2 } },
        new(SlTrain, SiteKind.Linear, [9, 14], (3 * (9 + 14)) + 25 + 9) { StartsAtBase = false },
        new(SlTrain with { TrainsScale = true }, SiteKind.Linear, [50, 33], (3 * (50 + 33)) + 330 + 1) { StartsAtBase = false, Bias = false },
        new(Snell with { Sparsity = 0 }, SiteKind.Linear, [9, 14], 4 * (9 + 14)) { StartsAtBase = false },
        new(Snell with { Sparsity = 0, Rank = 7, Norm = 1 }, SiteKind.Linear, [70, 50], 6 * (70 + 50)) { StartsAtBase = false, Bias = false },
        new(Snell, SiteKind.Linear, [9, 14], 4 * (9 + 14)) { StartsAtBase = false, IsDetached = true },
        new(Snell with { Mode = SnellMode.PaperSoft, Norm = 3 }, SiteKind.Linear, [40, 33], 4 * (40 + 33)) { StartsAtBase = false, IsDetached = true, Bias = false },
        new(Sora, SiteKind.Linear, [9, 14], (3 * (9 + 14)) + 3),
        new(Sora with { Rank = 20 }, SiteKind.Linear, [12, 7], (20 * (12 + 7)) + 20) { Bias = false },
        new(Ia3, SiteKind.Linear, [9, 14], 9) { StartIsDrawn = false },
        new(Ia3, SiteKind.Linear, [70, 50], 70) { StartIsDrawn = false, Bias = false },
        new(Ia3 with { FeedForward = ["layer"] }, SiteKind.Linear, [9, 14], 14) { StartIsDrawn = false },
        new(Ia3 with { InitWeights = false }, SiteKind.Linear, [9, 14], 9) { StartsAtBase = false },
        new(Ia3, SiteKind.Conv2d, [6, 4, 3, 3], 6) { StartIsDrawn = false },
        new(Ia3 with { FeedForward = ["layer"] }, SiteKind.Conv2d, [6, 4, 3, 2], 4) { StartIsDrawn = false, Convolution = new() { Stride = 2 } },
        new(LnTuning, SiteKind.Norm, [12], 2 * 12) { StartIsDrawn = false },
        new(LnTuning, SiteKind.Norm, [33], 33) { StartIsDrawn = false, Bias = false },
        new(Loca, SiteKind.Linear, [9, 14], 20),
        new(Loca with { Mode = "default", Scale = 0.5 }, SiteKind.Linear, [70, 50], 20) { Bias = false },
        new(Loca with { Mode = "sparse", Coefficients = 7 }, SiteKind.Linear, [1, 33], 7),
        new(Tokens, SiteKind.Embedding, [11, 8], 5 * 8) { StartIsDrawn = false },
        new(Tokens with { InitWeights = false }, SiteKind.Embedding, [11, 8], 5 * 8) { StartsAtBase = false },
        new(Wara, SiteKind.Linear, [12, 16], 3 * (6 + 8)),
        new(Wara with { Levels = 2, Wavelet = "db3", PhaseShift = 2, Rank = 5 }, SiteKind.Linear, [72, 52], 5 * (18 + 13)) { Bias = false },
        new(Wara with { Pad = true }, SiteKind.Linear, [9, 14], 3 * (5 + 7)),
        new(Wara with { Mode = "subband", Rank = 2 }, SiteKind.Linear, [16, 12], 4 * 2 * (8 + 6)),
        new(Wara with { Mode = "subband", Rank = 2, Levels = 2, Wavelet = "db2", Ranks = new Dictionary<string, double> { ["LL2"] = 3, ["LH1"] = 1 } }, SiteKind.Linear, [16, 24], (9 * (4 + 6)) + (5 * (8 + 12))),
    ];
}
