using LowRank.Formats;
using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Full fine-tuning in bfloat16: activations of 16 bits, weights, gradients and moments of 32.</summary>
public sealed class Bf16TrainingTests : IDisposable
{
    private const int Rows = 4, Steps = 6, Tokens = 9;
    private static readonly TrainerOptions Options = new() { Epochs = Steps / 2, BatchSize = Rows / 2, LearningRate = 2e-3, Seed = 3, CheckpointSteps = 1 };
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-bf16-").FullName;

    /// <summary>A golden model of each family.</summary>
    public static TheoryData<string> Families => [.. new[] { "bert_mlm", "clip", "gemma2", "gpt2_lm", "opt", "qwen3", "vit_1ch", "t5_encoder", "dinov2_interp_swiglu", "deberta_v2_c2p_conv", "electra_seqcls", "deit_teacher" }];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Families))]
    public void Losses_follow_those_of_float32_and_weights_stay_of_32_bits(string family)
    {
        double[] want = Run(family, DType.F32, null, Steps, out _);
        double[] got = Run(family, DType.BF16, null, Steps, out _);
        Close.Check(got, want, Close.ModelBFloat16, $"{family}: losses");
        Assert.NotEqual(want[0], want[^1]);
    }

    [Theory, MemberData(nameof(Families))]
    public void A_resumed_run_has_the_bits_of_one_that_never_stopped(string family)
    {
        double[] losses = Run(family, DType.BF16, null, Steps, out byte[][] want);
        string path = Path.Combine(folder, "run");
        double[] first = Run(family, DType.BF16, path, Steps / 2, out _), rest = Run(family, DType.BF16, path, Steps, out byte[][] got);
        Assert.Equal(losses, first.Concat(rest));
        Assert.Equal(want, got);
    }

    /// <summary>Losses of the steps up to <paramref name="stop"/>, from the checkpoint of <paramref name="path"/> where there is one, and the bytes of the weights.</summary>
    private double[] Run(string family, DType type, string? path, int stop, out byte[][] weights)
    {
        using Device device = Devices.Open("cpu");
        using var model = PretrainedModel.Load(Golden.Need($"models/{family}"), device, new LoadOptions { Type = type });
        using var optimizer = new AdamW(model.TrainAll());
        Assert.All(model.Parameters.Values, p => Assert.Equal(DType.F32, p.Value.DType));
        List<double> losses = [];
        using var stopped = new CancellationTokenSource();
        Tensor Loss(TrainingBatch batch) => LossOf(model, batch.Indices.ToArray());
        var trainer = new Trainer(optimizer, Rows, Loss, Options with { CheckpointFolder = path });
        if (trainer.CheckpointPath is { } file && File.Exists(file))
        {
            trainer.Resume(file);
        }
        var progress = new Reports(report =>
        {
            losses.Add(report.Loss);
            if (report.Step == stop)
            {
                stopped.Cancel();
            }
        });
        try
        {
            trainer.Run(progress, stopped.Token);
        }
        catch (OperationCanceledException) when (stop < Steps)
        {
        }
        weights = [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
        if (type == DType.BF16)
        {
            CheckSaved(model);
        }
        return [.. losses];
    }

    // On disk the weights are of the type asked for, by themselves as they are trained.
    private void CheckSaved(PretrainedModel model)
    {
        foreach ((DType? asked, SafeTensorsType want) in (ReadOnlySpan<(DType?, SafeTensorsType)>)[(null, SafeTensorsType.F32), (DType.BF16, SafeTensorsType.BF16)])
        {
            string saved = Path.Combine(folder, $"{want}");
            model.Save(saved, asked);
            using TensorSource source = TensorSource.Open(saved);
            Assert.All(source.Entries, e => Assert.Equal(want, e.Type));
        }
    }

    /// <summary>A loss of any architecture on rows that are a function of their numbers.</summary>
    private static Tensor LossOf(PretrainedModel model, int[] rows)
    {
        Scope scope = model.Device.Current!;
        int[] Ids(int vocabulary) => [.. rows.SelectMany(row => Enumerable.Range(0, Tokens).Select(t => 3 + ((row * 31) + (t * 7)) % (vocabulary - 3)))];
        int[] classes = [.. rows.Select(row => row % 2)];
        Tensor Pixels(int channels, int size)
        {
            var values = new float[rows.Length * channels * size * size];
            for (int i = 0; i < rows.Length; i++)
            {
                new Rng(5).Fork($"{rows[i]}").FillUniform(values.AsSpan(i * channels * size * size, channels * size * size), -1, 1);
            }
            return scope.Of([rows.Length, channels, size, size], values);
        }
        switch (model)
        {
            case TextModel { Head: TextHead.CausalLanguage } decoder:
                int[] ids = Ids(decoder.Vocabulary);
                return decoder.NextWordLoss(new TextBatch(rows.Length, ids), Losses.Shifted(ids, Tokens));
            case TextModel { Head: TextHead.MaskedLanguage } masked:
                int[] words = Ids(masked.Vocabulary);
                return Losses.CrossEntropy(masked.Forward(new TextBatch(rows.Length, words)).Logits!, words);
            case TextModel text:
                return Losses.CrossEntropy(text.Forward(new TextBatch(rows.Length, Ids(text.Vocabulary))).Logits!, classes);
            case T5 t5:
                return Losses.SquaredError(t5.Encode(new TextBatch(rows.Length, Ids(t5.Vocabulary))).Last, new float[rows.Length * Tokens * t5.Config.Count("d_model")]);
            case Clip clip:
                ModelConfig vision = clip.Config.Part("vision_config");
                Tensor texts = clip.Unit(clip.Texts(new TextBatch(rows.Length, Ids(clip.Config.Part("text_config").Count("vocab_size")))).Projected!);
                return clip.Loss(clip.Similarity(texts, clip.Unit(clip.Images(Pixels(vision.Count("num_channels", 3), vision.Count("image_size", 224))).Projected!)));
            case VisionTransformer vit:
                return Losses.CrossEntropy(vit.Forward(Pixels(vit.Config.Channels, vit.Config.ImageSize)), classes);
            default:
                ModelConfig config = ((PatchModel)model).Config;
                return Losses.CrossEntropy(model.Forward(Pixels(config.Count("num_channels", 3), config.Count("image_size", 224))), classes);
        }
    }

    private sealed class Reports(Action<TrainingProgress> report) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value) => report(value);
    }
}
