namespace LowRank.Training;

/// <summary>Settings of a <see cref="Trainer"/>.</summary>
public sealed record TrainerOptions
{
    /// <summary>Passes over the samples.</summary>
    public int Epochs { get; init; } = 1;

    /// <summary>Samples of an optimiser step; the last step of an epoch takes what is left.</summary>
    public int BatchSize { get; init; } = 32;

    /// <summary>Parts a batch is computed in, one after the other, to save memory. The gradient is that of the whole batch: each part counts by its
    /// <see cref="Trainer.Targets"/>.</summary>
    public int Accumulation { get; init; } = 1;

    /// <summary>Learning rate before the schedule.</summary>
    public double LearningRate { get; init; } = 1e-3;

    /// <summary>How the learning rate changes.</summary>
    public Schedule Schedule { get; init; }

    /// <summary>Gradients are clipped to this global norm; 0 switches clipping off.</summary>
    public double MaxGradientNorm { get; init; }

    /// <summary>A parameter moves as soon as its gradient is complete, and the gradient is freed (<see cref="Optimizer.StepPerLayer"/>): the same bits in less
    /// memory. It allows neither clipping nor accumulation, which need all gradients.</summary>
    public bool PerLayer { get; init; }

    /// <summary>Seed of the order of samples and of what a batch draws.</summary>
    public ulong Seed { get; init; }

    /// <summary>Folder for checkpoint.safetensors (and best.safetensors); null keeps none.</summary>
    public string? CheckpointFolder { get; init; }

    /// <summary>Steps between checkpoints; 0: at the end of each epoch only.</summary>
    public int CheckpointSteps { get; init; }

    /// <summary>Epochs between evaluations; the last epoch is always evaluated.</summary>
    public int EvaluationEpochs { get; init; } = 1;

    /// <summary>Also keep the checkpoint whose evaluation was highest.</summary>
    public bool KeepBest { get; init; }

    /// <summary>Evaluations in a row without a better one after which the run ends; 0: it goes to its last epoch.</summary>
    public int Patience { get; init; }

    /// <summary>Throws where a setting cannot be.</summary>
    /// <exception cref="TrainingException">Names the setting.</exception>
    internal void Check(int samples)
    {
        void Require(bool fact, string name, object value, string want)
        {
            if (!fact)
            {
                throw new TrainingException($"Trainer: {name} is {value}, want {want}");
            }
        }
        Require(samples > 0, "the number of samples", samples, "at least 1");
        Require(Epochs > 0, nameof(Epochs), Epochs, "at least 1");
        Require(BatchSize > 0, nameof(BatchSize), BatchSize, "at least 1");
        Require(Accumulation > 0 && Accumulation <= BatchSize, nameof(Accumulation), Accumulation, $"1 .. BatchSize {BatchSize}");
        Require(double.IsFinite(LearningRate) && LearningRate >= 0, nameof(LearningRate), LearningRate, "0 or more");
        Require(MaxGradientNorm >= 0, nameof(MaxGradientNorm), MaxGradientNorm, "0 or more");
        Require(!PerLayer || MaxGradientNorm == 0, nameof(MaxGradientNorm), MaxGradientNorm, $"0 beside {nameof(PerLayer)}: the norm of all gradients is known when the first have been used");
        Require(!PerLayer || Accumulation == 1, nameof(Accumulation), Accumulation, $"1 beside {nameof(PerLayer)}: gradients that add up are all kept");
        Require(Schedule.Warmup >= 0, "Schedule.Warmup", Schedule.Warmup, "0 or more");
        Require(Schedule.Least is >= 0 and <= 1, "Schedule.Least", Schedule.Least, "0 .. 1");
        Require(CheckpointSteps >= 0, nameof(CheckpointSteps), CheckpointSteps, "0 or more");
        Require(EvaluationEpochs > 0, nameof(EvaluationEpochs), EvaluationEpochs, "at least 1");
        Require(Patience >= 0, nameof(Patience), Patience, "0 or more");
        Require(!KeepBest || CheckpointFolder is not null, nameof(KeepBest), KeepBest, "a CheckpointFolder beside it");
    }
}

/// <summary>What a loss function gets: which samples, and a generator for what it draws (augmentation), the same in a resumed run.</summary>
/// <param name="Indices">Samples of this part of the batch.</param>
/// <param name="Rng">Depends on seed, step and part only.</param>
/// <param name="Step">Optimiser step, from 0.</param>
/// <param name="Epoch">From 0.</param>
public sealed record TrainingBatch(ReadOnlyMemory<int> Indices, Rng Rng, long Step, int Epoch);

/// <summary>Where a run stands after a step.</summary>
/// <param name="Step">Steps taken.</param>
/// <param name="Steps">Steps of the whole run.</param>
/// <param name="Epoch">From 0.</param>
/// <param name="Loss">Mean over the batch, before the step.</param>
/// <param name="LearningRate">Of the step.</param>
/// <param name="GradientNorm">Before clipping.</param>
/// <param name="SamplesPerSecond">Over this step.</param>
/// <param name="Evaluation">What the evaluation gave, after the last step of an epoch; else null.</param>
public sealed record TrainingProgress(long Step, long Steps, int Epoch, double Loss, double LearningRate, double GradientNorm, double SamplesPerSecond, double? Evaluation);

/// <summary>How a run ended.</summary>
/// <param name="Steps">Steps taken: fewer than the whole run's where patience ended it.</param>
/// <param name="Loss">Of the last step.</param>
/// <param name="Evaluation">The last one; null without an evaluation.</param>
/// <param name="BestEvaluation">The highest; null without an evaluation.</param>
public sealed record TrainingResult(long Steps, double Loss, double? Evaluation, double? BestEvaluation);
