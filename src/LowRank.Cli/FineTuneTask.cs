using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>What a model is adapted to: labelled samples, and how they become its input and its loss.</summary>
internal abstract record FineTuneTask
{
    /// <summary>Names of the classes in the order of the outputs.</summary>
    public abstract IReadOnlyList<string> Classes { get; }

    /// <summary>Samples to train on.</summary>
    public abstract int TrainCount { get; }

    /// <summary>Samples to measure with.</summary>
    public abstract int TestCount { get; }

    /// <summary>What a sample is called: images, texts.</summary>
    public abstract string Samples { get; }

    /// <summary>Task type in PEFT's settings; null where PEFT has none for it.</summary>
    public virtual string? TaskType => null;

    /// <summary>Mean loss of a step's samples, in the open tape.</summary>
    public abstract Tensor Loss(PretrainedModel model, TrainingBatch batch, FineTuneOptions options);

    /// <summary>Measures a model on the samples kept for that.</summary>
    public abstract ClassEvaluation Evaluate(PretrainedModel model, CancellationToken cancellation = default);

    /// <summary>Writes lowrank.json into a folder that is there: what an evaluation needs to repeat the preparation.</summary>
    public abstract void Write(string folder);
}
