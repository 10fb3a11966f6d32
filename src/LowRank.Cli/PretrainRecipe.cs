using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>How a shipped model is made from nothing, deterministic by its seed.</summary>
internal abstract record PretrainRecipe
{
    /// <summary>Folder or file of the data.</summary>
    public abstract string Data { get; init; }

    /// <summary>Passes over the data.</summary>
    public abstract int Epochs { get; init; }

    /// <summary>Seed of the weights, the order of samples and their changes.</summary>
    public ulong Seed { get; init; } = 1;

    /// <summary>Where checkpoints go; null keeps none.</summary>
    public string? CheckpointFolder { get; init; }

    /// <summary>What it learns from, in the plural.</summary>
    public abstract string Samples { get; }

    /// <summary>Sizes of the network, for a dry run.</summary>
    public abstract string Network { get; }

    /// <summary>Trains and returns the model.</summary>
    /// <param name="device">Where to compute.</param>
    /// <param name="resume">Continues from the checkpoint in <see cref="CheckpointFolder"/>.</param>
    /// <param name="progress">Told after each step.</param>
    /// <param name="cancellation">Stops between two steps with a checkpoint.</param>
    public abstract PretrainedResult Run(Device device, bool resume, IProgress<TrainingProgress>? progress, CancellationToken cancellation);

    /// <summary>Writes what a folder needs beside config.json and the weights.</summary>
    public abstract void Complete(string folder);

    /// <summary>Measures the saved model on data that training never saw.</summary>
    public abstract JsonObject Measure(string folder, Device device, CancellationToken cancellation);

    /// <summary>All weights of a model to train; biases and norms do not decay.</summary>
    protected static IReadOnlyList<Parameter> Trained(PretrainedModel model)
    {
        IReadOnlyList<Parameter> parameters = model.TrainAll();
        foreach (Parameter p in parameters.Where(p => p.Value.Shape.Rank == 1))
        {
            p.WeightDecay = 0;
        }
        return parameters;
    }

    /// <summary>Continues a trainer from its own checkpoint.</summary>
    protected static void Resume(Trainer trainer) =>
        trainer.Resume(trainer.CheckpointPath ?? throw new TrainingException("Pretrain: there is no folder to resume from; name one"));
}

/// <summary>What a recipe made; it owns the model.</summary>
/// <param name="Model">The network.</param>
/// <param name="Adapted">What stands in for its layers; null: their own weights.</param>
/// <param name="Training">How the run ended.</param>
/// <param name="Values">Trained values.</param>
/// <param name="StateBytes">Memory of what the optimiser kept beside them and their gradients.</param>
internal sealed record PretrainedResult(PretrainedModel Model, AdaptedModel? Adapted, TrainingResult Training, long Values, long StateBytes) : IDisposable
{
    public void Dispose()
    {
        Adapted?.Dispose();
        Model.Dispose();
    }
}
