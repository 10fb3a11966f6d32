using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Cuda.Bench;

using Operand = LowRank.Testing.Operand;

/// <summary>One training step of a vision transformer with LoRA on every linear layer of its blocks: forward, cross-entropy, backward, AdamW. Model and
/// adapter go to the peer as the folders that transformers and PEFT read.</summary>
internal sealed class TrainingStep(string folder, bool tiny, int layers = 12)
{
    private const int Rank = 16, Classes = 10;
    private readonly VisionTransformerConfig config = (tiny
        ? new VisionTransformerConfig { HiddenSize = 32, Layers = 2, Heads = 2, IntermediateSize = 64, ImageSize = 8, PatchSize = 4, Channels = 1 }
        : new VisionTransformerConfig { Layers = layers }).WithClasses(Classes);

    /// <summary>The row.</summary>
    public CudaRow Row => new(
        "step", "training step", $"{config.Layers} layers, width {config.HiddenSize}, {Batch} x {config.Tokens} tokens, LoRA r {Rank}", Build,
        ("images", new Operand([Batch, config.Channels, config.ImageSize, config.ImageSize])), ("labels", new Operand([Batch], Role.Ids, Classes)))
    {
        Passes = [new Cost(Flops, 0)],
        Targets = [new("PEFT eager", 1.5, 1.5)],
        Sets = 1,       // weights and activations lie far beyond the cache
        Bound = Close.ModelBFloat16,
    };

    private int Batch => tiny ? 2 : 32;

    /// <summary>Products of the linear layers and of attention, forward and for dx; the adapters' own beside them.</summary>
    private long Flops
    {
        get
        {
            long d = config.HiddenSize, inner = config.IntermediateSize, tokens = (long)Batch * config.Tokens;
            long weights = (4 * d * d) + (2 * d * inner), adapters = Rank * ((8 * d) + (2 * (d + inner)));
            return config.Layers * ((4 * tokens * weights) + (6 * tokens * adapters) + (14 * tokens * config.Tokens * d));
        }
    }

    private void Build(DataSet set)
    {
        Device device = set.Device;
        if (!File.Exists(Path.Combine(folder, PretrainedModel.WeightFile)))
        {
            using Device host = Device.Cpu();
            using var random = new VisionTransformer(config, host, new Rng(1));
            random.Save(folder, DType.BF16);
        }
        VisionTransformer model = set.Own(VisionTransformer.Load(folder, device, new LoadOptions { Type = DType.BF16 }));
        AdaptedModel adapted = set.Own(model.Attach(new LoraConfig { Rank = Rank, Alpha = 2 * Rank, Targets = Names.AllLinear }));
        foreach (Adapter adapter in adapted.Adapters)
        {
            Parameter b = adapter.Parameters[1];
            float[] values = new float[b.Value.Shape.Count];
            new Rng(1).Fork(adapter.Site.Path).FillNormal(values, 0, 0.02f);
            b.Value.Set([.. values.Select(v => Numbers.FromBFloat16(Numbers.ToBFloat16(v)))]);
        }
        adapted.SavePeft(Path.Combine(folder, "adapter"));
        // Rate 0: every step starts from the same weights, and its work is that of any rate.
        AdamW optimizer = set.Own(new AdamW(adapted.Parameters) { LearningRate = 0 });
        Tensor images = set.Operand("images")!, labels = set.Operand("labels")!;
        Tensor keptLoss = set.Store.New([1], DType.F32), keptLogits = set.Store.New([Batch, Classes], DType.BF16);
        set.Add(
            () =>
            {
                using Tape tape = device.BeginTape();
                Tensor logits = model.Forward(images);
                Tensor loss = new CrossEntropy().Apply(logits, labels);
                keptLogits.CopyFrom(logits);
                keptLoss.CopyFrom(loss);
                tape.Backward(loss);
                adapted.Step(optimizer);
            },
            ("loss", keptLoss), ("logits", keptLogits));
    }
}
