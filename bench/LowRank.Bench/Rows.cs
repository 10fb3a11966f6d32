using LowRank.Adapters;
using LowRank.Bench.Cases;

namespace LowRank.Bench;

/// <summary>The table: one factor varied at a time around 512 tokens x 1024x1024, rank 16, float32, two threads.</summary>
public static class Rows
{
    private static readonly LayerRow Linear = new("linear", Method.Linear);
    private static readonly LayerRow Forward = new("lora forward", Method.Lora);
    private static readonly LayerRow Both = new("lora forward+backward", Method.Lora) { Backward = true };
    private static readonly LayerRow Dora = new("dora forward", Method.Dora);
    private static readonly LayerRow DoraBoth = new("dora forward+backward", Method.Dora) { Backward = true };
    private static readonly QuantizedRow Bytes = new("quantised W", Quantization.Int8Rows), Nibbles = Bytes with { Kind = Quantization.NF4 };
    private static readonly WordLossRow WordLoss = new(512, 1024, 32000), WholeLoss = WordLoss with { Group = "loss of words, logits whole", Whole = true };
    private static readonly GatedRow Gated = new(512, 2816, 1024);
    private static readonly VisionRow Step = new("vit step");

    /// <summary>Every row.</summary>
    public static IReadOnlyList<Row> All { get; } =
    [
        Linear, Linear with { Tokens = 64 }, Linear with { Tokens = 2048 }, Linear with { Threads = 1 }, Linear with { Type = DType.BF16 },
        Linear with { Outputs = 768, Inputs = 768 }, Linear with { Outputs = 3072, Inputs = 768 }, Linear with { Outputs = 4096, Inputs = 4096 },
        Linear with { Tokens = 2048, Outputs = 4096, Inputs = 4096 }, Linear with { Tokens = 2048, Outputs = 4096, Inputs = 4096, Threads = 1 },
        Linear with { Tokens = 2048, Outputs = 4096, Inputs = 4096, Type = DType.BF16 },

        Forward, Forward with { Tokens = 64 }, Forward with { Tokens = 2048 }, Forward with { Threads = 1 }, Forward with { Type = DType.BF16 },
        Forward with { AdapterRank = 8 }, Forward with { AdapterRank = 64 },
        Forward with { Outputs = 768, Inputs = 768 }, Forward with { Outputs = 3072, Inputs = 768 }, Forward with { Outputs = 4096, Inputs = 4096 },
        Forward with { Tokens = 2048, Outputs = 4096, Inputs = 4096 },

        new MultiLoraRow(64, 1), new MultiLoraRow(64, 1) { Type = DType.BF16 }, new MultiLoraRow(16, 32), new MultiLoraRow(16, 32) { Type = DType.BF16 },

        .. new[] { Serving.InTurn, Serving.MergedInTurn }.SelectMany(s => new[] { new ServingRow(s), new ServingRow(s) { Type = DType.BF16 } }),

        Both, Both with { Tokens = 64 }, Both with { Tokens = 2048 }, Both with { Threads = 1 }, Both with { Tokens = 2048, Threads = 1 }, Both with { Type = DType.BF16 },
        Both with { Tokens = 2048, Type = DType.BF16 }, Both with { AdapterRank = 8 }, Both with { AdapterRank = 64 },
        Both with { Outputs = 768, Inputs = 768 }, Both with { Outputs = 3072, Inputs = 768 }, Both with { Outputs = 4096, Inputs = 4096 },

        Dora, Dora with { Tokens = 2048 }, Dora with { Type = DType.BF16 }, DoraBoth, DoraBoth with { Tokens = 2048 },

        new SnellRow(512, 1024, 1024), new SnellRow(2048, 1024, 1024), new SnellRow(2048, 1024, 1024) { Type = DType.BF16 },

        .. new[] { Bytes, Nibbles }.SelectMany(q => new[] { q, q with { Type = DType.BF16 }, q with { Tokens = 4 }, q with { Tokens = 512 }, q with { Tokens = 512, Type = DType.BF16 } }),
        .. new[] { Bytes, Nibbles }.Select(q => q with { Group = "quantised W on both sides", PeerHasCodes = true })
            .SelectMany(q => new[] { q, q with { Type = DType.BF16 }, q with { Tokens = 512 }, q with { Tokens = 512, Type = DType.BF16 }, q with { Tokens = 512, AdapterRank = 16 } }),

        .. new[] { Gated, Gated with { Tokens = 1 }, Gated with { Type = DType.BF16 }, Gated with { AdapterRank = 16 }, Gated with { Group = "gated feed-forward+backward", AdapterRank = 16, Backward = true } }
            .SelectMany(g => new[] { g, g with { Group = $"{g.Group}, layers apart", Apart = true } }),

        new AdapterLayerRow("randlora forward+backward", new RandLoraConfig { Targets = ["layer"], Rank = 16, Alpha = 320 }),
        new AdapterLayerRow("salt forward+backward", new SaltConfig { Targets = ["layer"], LowRank = 16 }),
        new AdapterLayerRow("sltrain forward+backward", new SlTrainConfig { Targets = ["layer"], Rank = 16, Density = 0.03 }),

        new AdamWRow(1_000_000), new AdamWRow(10_000_000), new AdamWRow(10_000_000) { Threads = 1 },

        .. new[] { new AdamWRow(10_000_000), new AdamWRow(10_000_000) { Threads = 1 } }.Select(r => r with { Group = "adamw, 8-bit moments", Coded = true }),

        new ProjectorRow(512, 1024, 128), new ProjectorRow(512, 1024, 128) { Randomised = true },

        new CrossEntropyRow(512, 1000), new CrossEntropyRow(512, 32000), new CrossEntropyRow(512, 32000) { Type = DType.BF16 },

        WordLoss, WordLoss with { Count = 2048 }, WordLoss with { Type = DType.BF16 }, WholeLoss, WholeLoss with { Count = 2048 }, WholeLoss with { Type = DType.BF16 },

        new AttentionRow(32, 17, 4, 32), new AttentionRow(8, 197, 12, 64), new AttentionRow(1, 1024, 16, 64) { Causal = true }, new AttentionRow(8, 197, 12, 64) { Type = DType.BF16 },

        Step, Step with { Threads = 1 }, Step with { Type = DType.BF16 }, Step with { Trained = Trained.Dora }, Step with { Trained = Trained.Full },
        Step with { Group = "vit step, a core busy", Busy = true },

        new DctRow("inverse cosine transform", DctWork.Inverse, 4096, 4096), new DctRow("inverse cosine transform", DctWork.Inverse, 768, 3072),
        new DctRow("W + coefficients", DctWork.Merge, 4096, 4096, 5000), new DctRow("W + coefficients", DctWork.Merge, 768, 3072, 1000),
        new DctRow("loca forward+backward", DctWork.Layer, 1024, 1024, 1000) { Tokens = 2048 },

        .. new TextRow[] { new(TextWork.Embed, 64, 32), new(TextWork.Step, 16, 64), new(TextWork.Layer, 1, 512) }.SelectMany(t => new[] { t, t with { Type = DType.BF16 } }),

        .. Enum.GetValues<MergeWork>().SelectMany(w => new[] { new MergeRow(w, 4096, 4), new MergeRow(w, 4096, 4) { Type = DType.BF16 } }),
        .. CompletionRow.All,
        .. new[] { "haar", "db4", "bior4.4" }.SelectMany(w => new[] { new WaveletRow(w, 4096, Inverse: false), new WaveletRow(w, 4096, Inverse: true) }),
        new WaraRow(2048), new WaraRow(512),

        .. new DctRow[] { new("inverse cosine transform, against SciPy", DctWork.Inverse, 4096, 4096), new("inverse cosine transform, against SciPy", DctWork.Inverse, 768, 3072), new("W + coefficients, against SciPy", DctWork.Merge, 4096, 4096, 5000), new("W + coefficients, against SciPy", DctWork.Merge, 768, 3072, 1000) }.Select(r => r with { SciPy = true }),
        .. new[] { false, true }.SelectMany(inverse => new[] { "haar", "db4", "bior4.4" }.Select(w => new WaveletRow(w, 4096, inverse, PyWavelets: true))),
    ];
}
