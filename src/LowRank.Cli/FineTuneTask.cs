using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>What a model is adapted to: labelled samples, and how they become its input and its loss.</summary>
internal abstract record FineTuneTask
{
    /// <summary>Names of the outputs in their order; null where the model keeps the head it has.</summary>
    public abstract IReadOnlyList<string>? Classes { get; }

    /// <summary>Samples to train on.</summary>
    public abstract int TrainCount { get; }

    /// <summary>Samples to measure with.</summary>
    public abstract int TestCount { get; }

    /// <summary>What a sample is called: images, texts.</summary>
    public abstract string Samples { get; }

    /// <summary>What a measurement shows first, and training compares.</summary>
    public virtual Metric Metric => Metric.Accuracy;

    /// <summary>The loss and its unit.</summary>
    public virtual string LossName => "cross-entropy / nats";

    /// <summary>Task type in PEFT's settings; null where PEFT has none for it.</summary>
    public virtual string? TaskType => null;

    /// <summary>What a user should know about the samples, such as how many were cut.</summary>
    public virtual IReadOnlyList<string> Warnings => [];

    /// <summary>This task with its samples made ready for a model; it must be called before they are counted or used.</summary>
    /// <exception cref="Formats.ModelFormatException">A sample does not fit: names file and line.</exception>
    /// <exception cref="UsageException">The task does not fit the model or the options.</exception>
    public virtual FineTuneTask For(PretrainedModel model, FineTuneOptions? options = null) => this;

    /// <summary>Targets that the loss of some samples is a mean of: what a part of a step counts by.</summary>
    public virtual double Targets(ReadOnlySpan<int> indices) => indices.Length;

    /// <summary>Mean loss of a step's samples, in the open tape.</summary>
    public abstract Tensor Loss(PretrainedModel model, TrainingBatch batch, FineTuneOptions options);

    /// <summary>Measures a model on the samples kept for that.</summary>
    public abstract TaskEvaluation Evaluate(PretrainedModel model, CancellationToken cancellation = default);

    /// <summary>Writes lowrank.json into a folder that is there: what an evaluation needs to repeat the preparation.</summary>
    public abstract void Write(string folder);
}
