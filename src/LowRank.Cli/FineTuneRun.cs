using System.Diagnostics;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>One adaptation of a model to labelled samples: loads the model, attaches what is trained, trains, measures and saves.
/// The commands <c>train</c> and <c>demo</c> are made of it.</summary>
internal sealed class FineTuneRun : IDisposable
{
    private readonly FineTuneOptions options;
    private readonly string modelFolder;
    private readonly Optimizer optimizer;
    private readonly Trainer trainer;
    private readonly bool keepBest;
    private readonly List<TrainingProgress> history = [];

    /// <summary>Loads the model and makes ready; nothing is written.</summary>
    /// <param name="model">A folder, or <c>base</c>; saved as the adapter's base.</param>
    /// <param name="task">The samples.</param>
    /// <param name="options">Settings.</param>
    /// <param name="device">Where to compute.</param>
    /// <param name="checkpointFolder">Where checkpoints go; null keeps none.</param>
    /// <exception cref="UsageException">A number is out of range.</exception>
    /// <exception cref="AdapterConfigException">A setting is out of range, or targets name no layer: lists the model's own.</exception>
    /// <exception cref="Formats.ModelFormatException">A file of the model is damaged.</exception>
    public FineTuneRun(string model, FineTuneTask task, FineTuneOptions options, Device device, string? checkpointFolder = null)
    {
        options.Check();
        this.options = options;
        FineTuneMethod method = FineTuneMethod.Of(options.Method);
        AdapterConfig? adapter = method.Make(options);
        string folder = modelFolder = BaseModel.Folder(model);
        ModelConfig config = ModelConfig.Read(folder);
        bool sameHead = task.Classes is null || (config.Architecture.EndsWith("Classification", StringComparison.Ordinal) && config.ClassNames.SequenceEqual(task.Classes));
        Model = PretrainedModel.Load(folder, device, new LoadOptions { Type = options.Type, Classes = sameHead ? null : task.Classes, Seed = options.Seed, Pack = method.Name != "full" });
        Model.RecomputesLayers = options.Recompute;
        Task = task.For(Model, options);
        IReadOnlyList<string> heads = Task.Classes is null ? [] : Model.HeadModules;
        if (method.Name == "head" && heads.Count == 0)
        {
            throw new UsageException($"FineTuneRun: method is {method.Name}, and {Task.Samples} without classes have no head of their own to train; want an adapter, or full");
        }
        if (adapter is not null)
        {
            Adapted = Model.Attach(adapter with { Targets = AdapterTargets.Parse(options.Targets, Model), ModulesToSave = heads.Count == 0 ? null : [.. heads], TaskType = Task.TaskType, BaseModel = model }, options.Seed);
        }
        if (Adapted?.ReplacesBase == true)
        {
            Adapted.ReleaseBase();
        }
        Parameters = Adapted?.Parameters ?? (method.Name == "full" ? Model.TrainAll() : Model.TrainHead(heads));
        foreach (Parameter p in Parameters.Where(p => p.Value.Shape.Rank == 1))
        {
            p.WeightDecay = 0;      // biases, norms and magnitudes
        }
        if (options.LoraPlus is { } ratio)
        {
            LoraPlus.Apply(Parameters, options.Rate, ratio, weightDecay: options.WeightDecay);
        }
        optimizer = FineTuneOptimizer.Of(options.Optimizer).Make(Parameters, Adapted, options);
        optimizer.WeightDecay = options.WeightDecay;
        Parameters = optimizer.Pack.Parameters;
        keepBest = checkpointFolder is not null && (options.KeepBest || options.Patience > 0);
        long steps = (long)options.Epochs * ((Task.TrainCount + options.BatchSize - 1) / options.BatchSize);
        trainer = new Trainer(optimizer, Task.TrainCount, Loss, new TrainerOptions
        {
            Epochs = options.Epochs,
            BatchSize = options.BatchSize,
            Accumulation = options.Accumulation,
            LearningRate = options.Rate,
            Schedule = new Schedule(options.Schedule, (long)Math.Round(options.Warmup * steps)),
            MaxGradientNorm = options.MaxGradientNorm,
            PerLayer = options.PerLayer,
            Seed = options.Seed,
            CheckpointFolder = checkpointFolder,
            CheckpointSteps = options.CheckpointSteps,
            Patience = options.Patience,
            KeepBest = keepBest,
            EvaluationEpochs = options.EvaluationEpochs > 0 ? options.EvaluationEpochs : Math.Max(1, options.Epochs / 20),
        })
        {
            Adapted = Adapted,
            Targets = indices => Task.Targets(indices.Span),
            Evaluate = () => Task.Metric.Score(Evaluate().Value),
        };
    }

    /// <summary>The task, ready for the model.</summary>
    public FineTuneTask Task { get; }

    /// <summary>The model; adapters are in place.</summary>
    public PretrainedModel Model { get; }

    /// <summary>The adapters, or null with methods head and full.</summary>
    public AdaptedModel? Adapted { get; }

    /// <summary>Everything trained.</summary>
    public IReadOnlyList<Parameter> Parameters { get; }

    /// <summary>Trained elements.</summary>
    public long Trainable => Parameters.Sum(p => p.Value.Shape.Count);

    /// <summary>Elements of the model itself.</summary>
    public long ModelElements => Model.Parameters.Values.Sum(p => p.Value.Shape.Count);

    /// <summary>Steps of the whole run.</summary>
    public long Steps => trainer.Steps;

    /// <summary>Steps taken.</summary>
    public long Step => trainer.Step;

    /// <summary>What was reported of each step, those before a resume included where <see cref="Resume"/> was given them.</summary>
    public IReadOnlyList<TrainingProgress> History => history;

    /// <summary>The last measurement on the samples kept for that, or null.</summary>
    public TaskEvaluation? Evaluation { get; private set; }

    /// <summary>Trains to the end, or until cancelled.</summary>
    /// <param name="progress">Told after each step.</param>
    /// <param name="cancellation">Stops between two steps, with a checkpoint where there is a folder.</param>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="TrainingException">The loss is not finite.</exception>
    public TrainingResult Train(IProgress<TrainingProgress>? progress = null, CancellationToken cancellation = default)
    {
        TrainingResult result = trainer.Run(new Recorder(history, progress), cancellation);
        if (keepBest)
        {
            trainer.LoadBest();
            Evaluate();
        }
        Evaluation ??= Evaluate();      // a run resumed at its end takes no step
        return result;
    }

    /// <summary>Continues from the checkpoint in the folder, bit for bit as if never stopped.</summary>
    /// <param name="before">What was reported of the steps before; later ones are dropped.</param>
    public void Resume(IEnumerable<TrainingProgress> before)
    {
        trainer.Resume(trainer.CheckpointPath ?? throw new TrainingException("FineTuneRun: there is no folder to resume from; name one"));
        history.AddRange(before.Where(p => p.Step <= trainer.Step));
    }

    /// <summary>Measures the model on the samples kept for that.</summary>
    public TaskEvaluation Evaluate() => Evaluation = Task.Evaluate(Model);

    /// <summary>Writes the adapter as PEFT does, or the whole model where its own weights were trained, and lowrank.json beside it.</summary>
    /// <returns>The file with the trained weights.</returns>
    /// <exception cref="IOException">It cannot be written.</exception>
    public string Save(string folder)
    {
        if (Adapted is not null)
        {
            Adapted.SavePeft(folder);
        }
        else
        {
            Model.Save(folder);
            LoadedModel.CopyBeside(folder, modelFolder);
        }
        Task.Write(folder);
        return Path.Combine(folder, Adapted is null ? PretrainedModel.WeightFile : PeftFolder.ModelFile);
    }

    /// <summary>Takes a few steps at a learning rate of 0, to say what a run would need.</summary>
    public FineTuneEstimate Estimate()
    {
        (double seconds, long bytes) = Measure(options.Recompute);
        (_, long others) = Measure(!options.Recompute);
        Model.RecomputesLayers = options.Recompute;
        long state = ((options.PerLayer ? 1 : 2) * Trainable * Model.DType.ForParameters().Size()) + optimizer.State().Sum(s => (long)s.Value.Bytes);
        return new FineTuneEstimate(Trainable, ModelElements, Model.Store.Bytes, state, options.Recompute ? others : bytes, options.Recompute ? bytes : others, trainer.Steps, seconds * trainer.Steps);
    }

    // Seconds of a step, and the most bytes that its tensors have at a time
    private (double Seconds, long Bytes) Measure(bool recompute)
    {
        (double seconds, long bytes) = (0, 0);
        Device device = Model.Device;
        Model.RecomputesLayers = recompute;
        int[] batch = [.. Enumerable.Range(0, Math.Min(options.BatchSize, Task.TrainCount))];
        for (int i = 0; i < 2; i++)      // the first one warms up
        {
            long started = Stopwatch.GetTimestamp();
            device.ResetPeak();
            long before = device.Bytes;
            optimizer.LearningRate = 0;
            using (Tape tape = device.BeginTape())
            {
                tape.Backward(Loss(new TrainingBatch(batch, new Rng(options.Seed), 0, 0)));
                bytes = device.PeakBytes - before;
            }
            optimizer.Step();
            seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
        }
        return (seconds, bytes);
    }

    /// <summary>Hands the trained values back to the model and takes everything off the device.</summary>
    public void Dispose()
    {
        optimizer.Dispose();
        Adapted?.Dispose();
        Model.Dispose();
    }

    private Tensor Loss(TrainingBatch batch) => Task.Loss(Model, batch, options);

    private sealed class Recorder(List<TrainingProgress> history, IProgress<TrainingProgress>? next) : IProgress<TrainingProgress>
    {
        public void Report(TrainingProgress value)
        {
            history.Add(value);
            next?.Report(value);
        }
    }
}

/// <summary>What a run needs.</summary>
/// <param name="Trainable">Trained elements.</param>
/// <param name="ModelElements">Elements of the model.</param>
/// <param name="WeightBytes">Memory of the model.</param>
/// <param name="StateBytes">Memory of trained values, their gradients (but per layer) and what the optimiser keeps.</param>
/// <param name="ActivationBytes">Memory of a step, forward and backward, as measured.</param>
/// <param name="RecomputeBytes">The same where layers are computed once more for the gradient.</param>
/// <param name="Steps">Of the whole run.</param>
/// <param name="Seconds">Of all steps, from one that was timed; measuring the model comes on top.</param>
internal sealed record FineTuneEstimate(long Trainable, long ModelElements, long WeightBytes, long StateBytes, long ActivationBytes, long RecomputeBytes, long Steps, double Seconds);
