using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary><c>lowrank train</c>: adapts a model to images or texts.</summary>
internal sealed class TrainCommand
{
    private readonly FineTuneOptions defaults = new();
    private readonly Option<string> model = CommonOptions.Model(BaseModel.Name);
    private readonly Option<string> data = CommonOptions.Data();
    private readonly Option<string> output = new("--output") { Description = "Folder for the adapter (PEFT's format), or for the whole model with head and full.", Required = true };
    private readonly Option<string> method;
    private readonly Option<string?> optimizer;
    private readonly Option<int> rank, epochs, batch, accumulate, patience, checkpointSteps;
    private readonly Option<int?> perClass;
    private readonly Option<double> alpha, dropout, warmup, weightDecay, maxNorm, smoothing;
    private readonly Option<double> sparsity, gatePenalty, gateThreshold;
    private readonly Option<double?> rate, loraPlus;
    private readonly Option<string?> evalData = new("--eval-data") { Description = "Texts to measure with. Default: some of --data are held out." };
    private readonly Option<double> holdOut = new("--hold-out") { Description = "Share of the texts held out to measure with.", DefaultValueFactory = _ => 0.1 };
    private readonly TextColumns text = new();
    private readonly Option<string> targets, type;
    private readonly Option<Decay> schedule;
    private readonly Option<ulong> seed = CommonOptions.Seed();
    private readonly Option<bool> recompute = new("--recompute") { Description = "Keep each layer's input alone and compute the layer once more for the gradient: less memory, more time, the same bits. --dry-run says how much." };
    private readonly Option<bool> perLayer = new("--per-layer") { Description = "Move each parameter as soon as its gradient is complete and free the gradient: less memory, the same bits. Without clipping, whose default is 0 then, and without --accumulate." };
    private readonly Option<bool> keepBest = new("--keep-best") { Description = "Save what was best on the samples kept to measure with, and not the last." };
    private readonly Option<bool> resume = new("--resume") { Description = "Go on with the unfinished run in the output folder, bit for bit as if it had never stopped." };
    private readonly Option<string> device = CommonOptions.DeviceName();
    private readonly Option<bool> json = CommonOptions.Json(), dryRun = CommonOptions.DryRun(), quiet = CommonOptions.Quiet();

    private TrainCommand()
    {
        Option<T> Make<T>(string name, string description, T value) => new(name) { Description = description, DefaultValueFactory = _ => value };
        method = Make("--method", $"One of {FineTuneMethod.Names}.", defaults.Method);
        rank = Make("--rank", "Rank of the adapters, or of galore's projections.", defaults.Rank);
        alpha = Make("--alpha", "Scale of the adapters: alpha/rank, with rslora alpha/√rank.", defaults.Alpha);
        targets = Make("--targets", "Layers to adapt: all-linear, names after commas (q_proj,v_proj), or a regular expression for whole paths.", defaults.Targets);
        dropout = Make("--dropout", "Share of the adapters' inputs dropped in training.", defaults.Dropout);
        sparsity = Make("--sparsity", "Share of the entries of snell's delta that its threshold drops; 0: none.", defaults.Sparsity);
        gatePenalty = Make("--gate-penalty", "What the mean size of sora's gates adds to the loss.", defaults.GatePenalty);
        gateThreshold = Make("--gate-threshold", "What a step of the optimizer sora takes off every gate, whatever the rate: the more, the fewer components are left.", defaults.GateThreshold);
        loraPlus = new("--lora-plus") { Description = "LoRA+: how many times faster B learns than A (16 in its paper)." };
        epochs = Make("--epochs", "Passes over the training samples.", defaults.Epochs);
        batch = Make("--batch-size", "Samples of a step.", defaults.BatchSize);
        accumulate = Make("--accumulate", "Parts a step is computed in, one after the other, to save memory; the gradient is that of the whole step.", defaults.Accumulation);
        optimizer = new("--optimizer") { Description = $"One of {FineTuneOptimizer.Names}. Default: adamw, with method sora its own." };
        string Rates<T>(IEnumerable<T> all, Func<T, (string Name, double Value)> of) => string.Join(", ", all.Select(of).Select(r => $"{r.Name} {r.Value.ToString("G", CultureInfo.InvariantCulture)}"));
        rate = new("--learning-rate")
        {
            Description = $"Highest learning rate. Default: {Rates(FineTuneMethod.All, m => (m.Name, m.LearningRate))}, times {Rates(FineTuneOptimizer.All, o => (o.Name, o.RateFactor))}.",
        };
        schedule = Make("--schedule", "How the rate falls.", defaults.Schedule);
        warmup = Make("--warmup", "Share of the steps over which the rate rises first.", defaults.Warmup);
        weightDecay = Make("--weight-decay", "Weight decay of matrices.", defaults.WeightDecay);
        maxNorm = Make("--max-gradient-norm", "Gradients are clipped to this norm; 0: not.", defaults.MaxGradientNorm);
        maxNorm.Aliases.Add("--clip");
        smoothing = Make("--label-smoothing", "Share of a label that goes to all classes alike.", defaults.LabelSmoothing);
        patience = Make("--patience", "Measurements in a row without a better one after which the run ends, with the best of them saved; 0: it goes to its last epoch.", defaults.Patience);
        perClass = new("--per-class") { Description = "Train on this many images a class, chosen by the seed; the others are held out. Default: all." };
        type = Make("--type", "Type of activations and frozen matrices: f32 or bf16. What is trained stays in f32.", "f32");
        type.Aliases.Add("--dtype");
        checkpointSteps = Make("--checkpoint-steps", "Steps between checkpoints beside those at the end of each epoch; 0: none.", 0);
    }

    public static Command Create()
    {
        var t = new TrainCommand();
        var command = new Command("train", "Adapt a model to labelled images, or to texts (classes, numbers, the next word, sentence vectors): LoRA and its relatives, the head only, or every weight.")
        {
            t.model, t.data, t.output, t.method, t.rank, t.alpha, t.targets, t.dropout, t.loraPlus, t.epochs, t.batch, t.accumulate, t.optimizer, t.rate, t.schedule, t.warmup, t.weightDecay, t.maxNorm,
            t.sparsity, t.gatePenalty, t.gateThreshold,
            t.perLayer,
            t.recompute, t.smoothing, t.patience, t.keepBest, t.perClass, t.evalData, t.holdOut, t.seed, t.type, t.checkpointSteps, t.resume, t.device, t.json, t.dryRun, t.quiet,
        };
        t.text.AddTo(command);
        command.SetAction((parsed, cancellation) => Task.FromResult(t.Run(parsed, cancellation)));
        return command;
    }

    private int Run(ParseResult parsed, CancellationToken cancellation)
    {
        string folder = parsed.GetValue(output)!;
        RunSettings settings = Settings(parsed);
        bool goOn = parsed.GetValue(resume), dry = parsed.GetValue(dryRun);
        RunFolder.Check(folder, settings, goOn);
        using Device on = DeviceList.Open(parsed.GetValue(device)!);
        using var run = new FineTuneRun(settings.Model, settings.Task(BaseModel.Folder(settings.Model)), settings.Options, on, dry ? null : RunFolder.Of(folder));
        FineTuneTask task = run.Task;
        Output.Warn(task.Warnings);
        Output.Warn(run.Adapted?.Remarks ?? []);
        if (dry)
        {
            Output.Facts(Estimate(settings, task, run.Estimate()), parsed.GetValue(json));
            return ExitCode.Done;
        }
        using FolderLock own = FolderLock.Take(folder);
        if (goOn)
        {
            run.Resume(RunFolder.Log(folder));
        }
        long started = Stopwatch.GetTimestamp();
        string command = "lowrank " + string.Join(' ', parsed.Tokens.Select(t => t.Value.Contains(' ', StringComparison.Ordinal) ? $"'{t.Value}'" : t.Value));
        TrainingResult result = TrainingDisplay.Show(parsed.GetValue(quiet), display =>
        {
            using RunFolder files = RunFolder.Open(folder, settings, run.History, display.Add(settings.Options.Method, task.Samples, task.Metric));
            try
            {
                return run.Train(files, cancellation);
            }
            catch (OperationCanceledException error)
            {
                throw new OperationCanceledException($"stopped after step {run.Step} of {run.Steps}; to go on: {command}{(goOn ? "" : " --resume")}", error, cancellation);
            }
        });
        double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
        string weights = run.Save(folder);
        string report = ReportWriter.Write(Path.Combine(folder, "report"), TrainReport.Make(settings, run, run.Evaluation!, DeviceList.Present()[0].Isa, command))[^1];
        Directory.Delete(RunFolder.Of(folder), recursive: true);
        Output.Facts(new JsonObject
        {
            ["method"] = settings.Options.Method,
            ["model"] = settings.Model,
            ["data"] = settings.Source,
            [task.Samples] = task.TrainCount,
            ["trainable"] = run.Trainable,
            ["parameters"] = run.ModelElements,
            ["steps"] = result.Steps,
            ["loss"] = run.History.Count > 0 ? run.History[^1].Loss : null,
            [task.Metric.Name] = run.Evaluation!.Value,
            ["count"] = run.Evaluation.Samples,
            ["seconds"] = Math.Round(seconds, 3),
            ["adapter_bytes"] = new FileInfo(weights).Length,
            ["output"] = folder,
            ["report"] = report,
        }, parsed.GetValue(json));
        return ExitCode.Done;
    }

    private RunSettings Settings(ParseResult parsed)
    {
        string name = parsed.GetValue(model)!;
        FineTuneOptions options = Options(parsed);
        return TextColumns.IsText(BaseModel.Folder(name))
            ? new(name, null, text.Choice(parsed, parsed.GetValue(data)!, parsed.GetValue(evalData), options.Seed, parsed.GetValue(holdOut)), options)
            : new(name, new ImageChoice(parsed.GetValue(data)!, parsed.GetValue(perClass), options.Seed), null, options);
    }

    private FineTuneOptions Options(ParseResult parsed) => new()
    {
        Method = FineTuneMethod.Of(parsed.GetValue(method)!).Name,
        Rank = parsed.GetValue(rank),
        Alpha = parsed.GetValue(alpha),
        Targets = parsed.GetValue(targets)!,
        Dropout = parsed.GetValue(dropout),
        Sparsity = parsed.GetValue(sparsity),
        GatePenalty = parsed.GetValue(gatePenalty),
        GateThreshold = parsed.GetValue(gateThreshold),
        LoraPlus = parsed.GetValue(loraPlus),
        Epochs = parsed.GetValue(epochs),
        BatchSize = parsed.GetValue(batch),
        Accumulation = parsed.GetValue(accumulate),
        Optimizer = FineTuneOptimizer.Of(parsed.GetValue(optimizer) ?? FineTuneMethod.Of(parsed.GetValue(method)!).Optimizer).Name,
        LearningRate = parsed.GetValue(rate),
        Schedule = parsed.GetValue(schedule),
        Warmup = parsed.GetValue(warmup),
        WeightDecay = parsed.GetValue(weightDecay),
        MaxGradientNorm = parsed.GetValue(perLayer) && parsed.GetResult(maxNorm) is not { Implicit: false } ? 0 : parsed.GetValue(maxNorm),
        PerLayer = parsed.GetValue(perLayer),
        Recompute = parsed.GetValue(recompute),
        LabelSmoothing = parsed.GetValue(smoothing),
        Patience = parsed.GetValue(patience),
        KeepBest = parsed.GetValue(keepBest),
        Seed = parsed.GetValue(seed),
        Type = CommonOptions.TypeOf(parsed.GetValue(type)!),
        CheckpointSteps = parsed.GetValue(checkpointSteps),
    };

    private static JsonObject Estimate(RunSettings settings, FineTuneTask task, FineTuneEstimate estimate) => new()
    {
        ["method"] = settings.Options.Method,
        ["model"] = settings.Model,
        ["data"] = settings.Source,
        [task.Samples] = task.TrainCount,
        [$"test_{task.Samples}"] = task.TestCount,
        ["trainable"] = estimate.Trainable,
        ["parameters"] = estimate.ModelElements,
        ["steps"] = estimate.Steps,
        ["seconds"] = Math.Round(estimate.Seconds, 3),
        ["weight_bytes"] = estimate.WeightBytes,
        ["state_bytes"] = estimate.StateBytes,
        ["activation_bytes"] = estimate.ActivationBytes,
        ["activation_bytes_recompute"] = estimate.RecomputeBytes,
    };
}
