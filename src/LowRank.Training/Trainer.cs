using System.Diagnostics;
using LowRank.Adapters;

namespace LowRank.Training;

/// <summary>A training loop: order of samples, gradient accumulation, clipping, schedule, evaluation, checkpoints. Same seed, same bits, resumed or not.</summary>
public sealed class Trainer
{
    private readonly Optimizer optimizer;
    private readonly int samples;
    private readonly Func<TrainingBatch, Tensor> loss;
    private readonly TrainerOptions options;
    private double? best, evaluation;
    private int stale;      // evaluations since the best

    /// <summary>A run over <paramref name="samples"/> samples.</summary>
    /// <param name="optimizer">Holds the parameters; its learning rate and clipping follow the options.</param>
    /// <param name="samples">How many there are.</param>
    /// <param name="loss">Mean loss [1] of the samples it is given, computed on the tape that is open then.</param>
    /// <param name="options">Settings.</param>
    /// <exception cref="TrainingException">A setting is out of range.</exception>
    /// <exception cref="InvalidOperationException">The optimiser cannot step per layer, which the options ask for.</exception>
    public Trainer(Optimizer optimizer, int samples, Func<TrainingBatch, Tensor> loss, TrainerOptions options)
    {
        options.Check(samples);
        (this.optimizer, this.samples, this.loss, this.options) = (optimizer, samples, loss, options);
        if (options.PerLayer)
        {
            optimizer.StepPerLayer();
        }
        StepsPerEpoch = (samples + options.BatchSize - 1) / options.BatchSize;
    }

    /// <summary>Adapters whose penalties and hooks belong to a step; null where none are trained.</summary>
    public AdaptedModel? Adapted { get; init; }

    /// <summary>Measures the model after epochs (<see cref="TrainerOptions.EvaluationEpochs"/>); higher is better.</summary>
    public Func<double>? Evaluate { get; init; }

    /// <summary>How many targets the loss of some samples is a mean of (tokens, in a language model): what a part of a batch counts by, so that every target of
    /// the batch counts the same. Null: samples.</summary>
    public Func<ReadOnlyMemory<int>, double>? Targets { get; init; }

    /// <summary>Steps taken, those before a resume included.</summary>
    public long Step { get; private set; }

    /// <summary>Optimiser steps of an epoch.</summary>
    public int StepsPerEpoch { get; }

    /// <summary>Optimiser steps of the whole run.</summary>
    public long Steps => State().Steps();

    /// <summary>Where checkpoints go, or null.</summary>
    public string? CheckpointPath => options.CheckpointFolder is null ? null : Path.Combine(options.CheckpointFolder, Checkpoint.FileName);

    /// <summary>Runs to the end, until patience is at an end, or until cancelled.</summary>
    /// <param name="progress">Told after each step.</param>
    /// <param name="cancellation">Ends the run between two steps, with a checkpoint where there is a folder.</param>
    /// <exception cref="OperationCanceledException">It was cancelled; a checkpoint is written.</exception>
    /// <exception cref="TrainingException">The loss is not finite; the parameters are those before the step.</exception>
    /// <exception cref="ShapeException">The loss function met a label out of range or an empty batch.</exception>
    public TrainingResult Run(IProgress<TrainingProgress>? progress = null, CancellationToken cancellation = default)
    {
        double last = double.NaN;
        int[] order = [];
        int orderOf = -1;
        while (Step < Steps && (options.Patience == 0 || stale < options.Patience))
        {
            if (cancellation.IsCancellationRequested)
            {
                Save();
                throw new OperationCanceledException(CheckpointPath is null ? "training was cancelled; no folder for a checkpoint was given" : $"training was cancelled; {CheckpointPath} continues it", cancellation);
            }
            int epoch = (int)(Step / StepsPerEpoch), at = (int)(Step % StepsPerEpoch);
            if (orderOf != epoch)
            {
                order = new Rng(options.Seed).Fork($"order {epoch}").Permutation(samples);
                orderOf = epoch;
            }
            ReadOnlyMemory<int> batch = order.AsMemory(at * options.BatchSize, Math.Min(options.BatchSize, samples - (at * options.BatchSize)));
            long started = Stopwatch.GetTimestamp();
            double rate = options.LearningRate * options.Schedule.At(Step, Steps);
            last = Take(batch, epoch, rate);
            Step++;
            double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
            bool ended = at == StepsPerEpoch - 1;
            bool measure = ended && ((epoch + 1) % options.EvaluationEpochs == 0 || Step == Steps);
            evaluation = measure && Evaluate is not null ? Evaluate() : null;
            bool improved = evaluation > (best ?? double.NegativeInfinity);
            best = improved ? evaluation : best;
            stale = improved ? 0 : evaluation is null ? stale : stale + 1;
            if (options.CheckpointFolder is not null && (ended || (options.CheckpointSteps > 0 && Step % options.CheckpointSteps == 0)))
            {
                Save();
            }
            if (improved && options.KeepBest)
            {
                Checkpoint.Save(BestPath, optimizer, State());
            }
            progress?.Report(new TrainingProgress(Step, Steps, epoch, last, rate, optimizer.GradientNorm, batch.Length / Math.Max(seconds, 1e-9), evaluation));
        }
        return new TrainingResult(Step, last, evaluation, best);
    }

    /// <summary>Continues a run of the same settings where its checkpoint left it, bit for bit as if it had never stopped.</summary>
    /// <param name="path">checkpoint.safetensors of the folder.</param>
    /// <exception cref="Formats.ModelFormatException">The file is damaged, or of a run with other parameters or settings: names what differs.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public void Resume(string path)
    {
        RunState state = Checkpoint.Load(path, optimizer, State());
        (Step, best, stale) = (state.Step, state.Best, state.Stale);
        if (Adapted is not null)
        {
            Adapted.Steps = Step;
        }
    }

    /// <summary>Puts back what was trained as it was at the best evaluation, after a run with <see cref="TrainerOptions.KeepBest"/>.</summary>
    /// <exception cref="Formats.ModelFormatException">The file is damaged, or of a run with other parameters or settings: names what differs.</exception>
    /// <exception cref="IOException">There is no such file: nothing was evaluated, or kept.</exception>
    public void LoadBest() => Checkpoint.Load(BestPath, optimizer, State());

    /// <summary>One optimiser step over a batch; returns its mean loss.</summary>
    private double Take(ReadOnlyMemory<int> batch, int epoch, double rate)
    {
        Device device = optimizer.Pack.Values.Device;
        optimizer.ClearGradients();
        optimizer.LearningRate = rate;
        optimizer.MaxGradientNorm = options.MaxGradientNorm;
        int count = Math.Min(options.Accumulation, batch.Length);
        ReadOnlyMemory<int>[] parts = [.. Enumerable.Range(0, count).Select(i => batch[(int)((long)batch.Length * i / count)..(int)((long)batch.Length * (i + 1) / count)])];
        double[] targets = [.. parts.Select(p => Targets?.Invoke(p) ?? p.Length)];
        double mean = 0, total = targets.Sum();
        for (int part = 0; part < count; part++)
        {
            double share = total > 0 ? targets[part] / total : 1.0 / count;
            using Tape tape = device.BeginTape();
            Tensor value = loss(new TrainingBatch(parts[part], new Rng(options.Seed).Fork($"batch {Step}.{part}"), Step, epoch));
            if (Adapted?.Penalty() is { } penalty)
            {
                value = new Add().Apply(value, penalty);
            }
            double item = value.Item();
            if (!double.IsFinite(item))
            {
                optimizer.ClearGradients();
                throw new TrainingException($"Trainer: loss at step {Step} is {item}, want a finite number; lower the learning rate {rate:G3}, clip gradients or look for NaN in the data");
            }
            mean += share * item;
            Tensor upstream = tape.New(value.Shape, value.DType);
            upstream.Fill(share);
            tape.Backward(value, upstream);
        }
        if (Adapted is not null)
        {
            Adapted.Step(optimizer, new Progress(Step, Steps, epoch, rate));
        }
        else
        {
            optimizer.Step();
        }
        return mean;
    }

    private string BestPath => Path.Combine(options.CheckpointFolder ?? throw new TrainingException("Trainer: there is no CheckpointFolder that a best checkpoint could be in"), Checkpoint.BestName);

    private void Save()
    {
        if (CheckpointPath is { } path)
        {
            Directory.CreateDirectory(options.CheckpointFolder!);
            Checkpoint.Save(path, optimizer, State());
        }
    }

    private RunState State() => new(Step, samples, options.Epochs, options.BatchSize, options.Accumulation, options.Seed, options.LearningRate, options.Schedule, options.MaxGradientNorm, options.Patience, best, stale);
}
