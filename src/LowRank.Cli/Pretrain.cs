using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>The recipe of the shipped base model: a vision transformer of about 1 M parameters trained from nothing on Fashion-MNIST.</summary>
internal sealed record Pretrain : PretrainRecipe
{
    /// <summary>Mean and standard deviation of the training images' pixels, 0..1.</summary>
    public const float Mean = 0.2860f, Deviation = 0.3530f;

    /// <summary>Folder of the four idx files.</summary>
    public override string Data { get; init; } = FashionMnist.DebianFolder;

    /// <summary>Passes over the 60,000 images with all changes of <see cref="Augmentation"/>.</summary>
    public override int Epochs { get; init; } = 12;

    /// <summary>Images of a step.</summary>
    public int BatchSize { get; init; } = 128;

    /// <summary>Highest learning rate of AdamW.</summary>
    public double LearningRate { get; init; } = 1e-3;

    /// <summary>Passes after that over images that are not shifted: clothes on test images stand in the middle.</summary>
    public int FinishEpochs { get; init; } = 6;

    /// <summary>Highest learning rate of those.</summary>
    public double FinishRate { get; init; } = 4e-4;

    /// <summary>Share of the target spread over all classes.</summary>
    public double Smoothing { get; init; } = 0.1;

    /// <summary>Random shifts by up to two pixels, and mirror images: clothes have no left and right.</summary>
    public Augmentation Augmentation { get; init; } = new(Shift: 2, Flip: true, Background: -Mean / Deviation);

    /// <summary>Sizes of the network.</summary>
    public static VisionTransformerConfig Config { get; } = new VisionTransformerConfig
    {
        ImageSize = 28,
        PatchSize = 7,
        Channels = 1,
        HiddenSize = 128,
        Layers = 5,
        Heads = 4,
        IntermediateSize = 512,
    }.WithClasses(FashionMnist.ClassNames);

    /// <summary>How images become its input.</summary>
    public static Preprocessing Preprocessing { get; } = new()
    {
        Channels = 1,
        Height = 28,
        Width = 28,
        Mean = [Mean],
        Deviation = [Deviation],
        Classes = FashionMnist.ClassNames,
        SourceHeight = 28,
        SourceWidth = 28,
    };

    /// <inheritdoc/>
    public override string Samples => "images";

    /// <inheritdoc/>
    public override string Network => $"{Config}";

    /// <inheritdoc/>
    public override PretrainedResult Run(Device device, bool resume, IProgress<TrainingProgress>? progress, CancellationToken cancellation)
    {
        ImageSet train = FashionMnist.Read(Data, train: true).Normalize([Mean], [Deviation]);
        ImageSet test = FashionMnist.Read(Data, train: false);
        var model = new VisionTransformer(Config, device, new Rng(Seed));
        IReadOnlyList<Parameter> parameters = Trained(model);
        long state = 0;
        TrainingResult Stage(int epochs, double rate, ulong seed, Augmentation changes, string? folder)
        {
            using var optimizer = new AdamW(parameters) { WeightDecay = 0.05 };
            long steps = (long)epochs * ((train.Count + BatchSize - 1) / BatchSize);
            var trainer = new Trainer(optimizer, train.Count, batch => Loss(model, train, changes, batch), new TrainerOptions
            {
                Epochs = epochs,
                BatchSize = BatchSize,
                LearningRate = rate,
                Schedule = new Schedule(Decay.Cosine, Warmup: Math.Min(500, steps / 10)),
                MaxGradientNorm = 1,
                Seed = seed,
                CheckpointFolder = folder,
            })
            {
                Evaluate = () => ImageTask.Evaluate(model, test, Preprocessing).Accuracy,
            };
            if (resume && (File.Exists(trainer.CheckpointPath) || folder == CheckpointFolder))
            {
                Resume(trainer);
            }
            TrainingResult result = trainer.Run(progress, cancellation);
            state = optimizer.State().Sum(s => (long)s.Value.Bytes);
            return result;
        }
        string? second = CheckpointFolder is null ? null : Path.Combine(CheckpointFolder, "finish");
        _ = Stage(Epochs, LearningRate, Seed, Augmentation, CheckpointFolder);
        TrainingResult finish = Stage(FinishEpochs, FinishRate, Seed + 1, Augmentation with { Shift = 0 }, second);
        return new(model, null, finish, parameters.Sum(p => p.Value.Shape.Count), state);
    }

    /// <inheritdoc/>
    public override void Complete(string folder) => Preprocessing.Write(folder);

    /// <inheritdoc/>
    public override JsonObject Measure(string folder, Device device, CancellationToken cancellation)
    {
        using var saved = VisionTransformer.Load(folder, device);
        return new JsonObject { ["accuracy"] = ImageTask.Evaluate(saved, FashionMnist.Read(Data, train: false), Preprocessing, cancellation).Accuracy };
    }

    private Tensor Loss(VisionTransformer model, ImageSet images, Augmentation changes, TrainingBatch batch)
    {
        float[] pixels = new float[batch.Indices.Length * images.ImageSize];
        int[] labels = new int[batch.Indices.Length];
        for (int i = 0; i < labels.Length; i++)
        {
            int index = batch.Indices.Span[i];
            changes.Apply(images.Image(index), pixels.AsSpan(i * images.ImageSize, images.ImageSize), images.Channels, images.Height, images.Width, batch.Rng);
            labels[i] = images.Labels[index];
        }
        Tensor input = model.Device.Current!.Of([labels.Length, images.Channels, images.Height, images.Width], pixels);
        return Losses.CrossEntropy(model.Forward(input), labels, Smoothing);
    }
}
