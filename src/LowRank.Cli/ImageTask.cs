using LowRank.Formats;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>Which labelled images are trained on and which are kept to measure with.</summary>
/// <param name="Source">What <c>--data</c> names: digits, a safetensors file, a folder of idx files or of PNG images.</param>
/// <param name="PerClass">Images a class to train on, chosen at random; null takes all.</param>
/// <param name="Seed">Of the choice.</param>
/// <param name="HoldOut">Share kept to measure with, where the source brings no test images and <paramref name="PerClass"/> leaves none.</param>
internal sealed record ImageChoice(string Source, int? PerClass, ulong Seed, double HoldOut = 0.2)
{
    /// <summary>Reads the images: those to train on, and the source's test images or else what is held out.</summary>
    /// <param name="channels">What PNG images become, 1 or 3.</param>
    /// <exception cref="FileNotFoundException">There is nothing of that name.</exception>
    /// <exception cref="ModelFormatException">What is there is damaged, or the two parts do not fit together.</exception>
    public (ImageSet Train, ImageSet Test) Read(int channels)
    {
        ImageSet all = ReadPart(train: true, channels);
        var rng = new Rng(Seed);
        bool hasTest = ImageSource.HasTest(Source);
        ImageSet train = all, rest;
        if (PerClass is { } few)
        {
            (train, rest) = all.FewShot(few, rng.Fork("few-shot"));
        }
        else
        {
            if (!(HoldOut > 0 && HoldOut < 1))
            {
                throw new ShapeException($"ImageChoice: the share held out is {HoldOut}, want more than 0 and less than 1");
            }
            (rest, train) = hasTest ? (all, all) : all.Split(Math.Clamp((int)Math.Round(all.Count * HoldOut), 1, Math.Max(1, all.Count - 1)), rng.Fork("hold-out"));
        }
        ImageSet test = hasTest ? ReadPart(train: false, channels) : rest;
        if (train.Count == 0 || test.Count == 0)
        {
            throw new ModelFormatException($"{Source}: {train.Count} images are left to train on and {test.Count} to measure with, want some of each: lower --per-class");
        }
        return test.Height == train.Height && test.Width == train.Width && test.Channels == train.Channels ? (train, test)
            : throw new ModelFormatException($"{Source}: test images are [{test.Channels}, {test.Height}, {test.Width}], want [{train.Channels}, {train.Height}, {train.Width}] as the training images");
    }

    /// <summary>All images of one part.</summary>
    public ImageSet ReadPart(bool train, int channels) => ImageSource.Read(Source, train, PngDecoder.Decode, channels);
}

/// <summary>Images, and how they become a model's input.</summary>
/// <param name="Train">To train on, as the source holds them.</param>
/// <param name="Test">To measure with; their labels count in the same classes.</param>
/// <param name="Preprocessing">From images to input.</param>
internal sealed record ImageTask(ImageSet Train, ImageSet Test, Preprocessing Preprocessing) : FineTuneTask
{
    private const int EvaluationBatch = 256;

    /// <inheritdoc/>
    public override IReadOnlyList<string> Classes => Preprocessing.Classes;

    /// <inheritdoc/>
    public override int TrainCount => Train.Count;

    /// <inheritdoc/>
    public override int TestCount => Test.Count;

    /// <inheritdoc/>
    public override string Samples => "images";

    /// <summary>Reads the images for a model: channels and size are the model's; mean and deviation are the model's where its folder says them, else those of the training images.</summary>
    /// <exception cref="FileNotFoundException">There are no such images.</exception>
    /// <exception cref="ModelFormatException">A file is damaged, or the model is none for images.</exception>
    public static ImageTask Read(string modelFolder, ImageChoice choice)
    {
        VisionTransformerConfig config = VisionTransformerConfig.Read(modelFolder);
        (ImageSet train, ImageSet test) = choice.Read(config.Channels == 1 ? 1 : 3);
        Preprocessing preprocessing = Preprocessing.For(train, config.Channels, config.ImageSize, Preprocessing.Read(modelFolder), choice);
        return new ImageTask(train, preprocessing.Match(test, choice.Source), preprocessing);
    }

    /// <summary>Measures a model on images as their source holds them; labels count in the model's classes.</summary>
    public static ClassEvaluation Evaluate(PretrainedModel model, ImageSet images, Preprocessing preprocessing, CancellationToken cancellation = default) =>
        ClassEvaluation.Of(model, Enumerable.Range(0, images.Count).Chunk(EvaluationBatch), images.Classes, chosen =>
        {
            ImageSet part = preprocessing.Apply(images.Select(chosen));
            return (model.Forward(part.ToTensor(model.Device)), part.Labels);
        }, cancellation);

    /// <inheritdoc/>
    public override TaskEvaluation Evaluate(PretrainedModel model, CancellationToken cancellation = default) => Evaluate(model, Test, Preprocessing, cancellation);

    /// <inheritdoc/>
    public override void Write(string folder) => Preprocessing.Write(folder);

    /// <inheritdoc/>
    public override Tensor Loss(PretrainedModel model, TrainingBatch batch, FineTuneOptions options)
    {
        ImageSet images = Preprocessing.Apply(Train.Select(batch.Indices.Span));
        if (options.Shift > 0)
        {
            images = Shifted(images, options.Shift, batch.Rng);
        }
        return Losses.CrossEntropy(model.Forward(images.ToTensor(model.Device)), images.Labels, options.LabelSmoothing);
    }

    private ImageSet Shifted(ImageSet images, int most, Rng rng)
    {
        var shift = new Augmentation(most, Flip: false, Background: -Preprocessing.Mean[0] / Preprocessing.Deviation[0]);      // black
        float[] pixels = new float[images.Pixels.Length];
        for (int i = 0; i < images.Count; i++)
        {
            shift.Apply(images.Image(i), pixels.AsSpan(i * images.ImageSize, images.ImageSize), images.Channels, images.Height, images.Width, rng);
        }
        return new ImageSet(pixels, images.Labels, images.Channels, images.Height, images.Width, images.Classes);
    }
}
