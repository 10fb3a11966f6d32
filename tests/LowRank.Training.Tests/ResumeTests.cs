using LowRank.Adapters;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>A run that was stopped and goes on ends bit for bit where one that was never stopped does.</summary>
public class ResumeTests
{
    private static readonly TrainerOptions Options = new()
    {
        Epochs = 3,
        BatchSize = 6,
        Accumulation = 2,
        LearningRate = 0.02,
        Seed = 5,
        MaxGradientNorm = 1,
        Schedule = new Schedule(Decay.Cosine, 3),
        CheckpointSteps = 1,
    };

    private static readonly LoraConfig Lora = new() { Rank = 2, Alpha = 4, Targets = ["layers.0"], Dropout = 0.3, Bias = "lora_only", ModulesToSave = ["layers.1"] };

    private static readonly SoraConfig Sora = new() { Rank = 4, Alpha = 4, Targets = ["layers.0"], Dropout = 0.3, Lambda1 = 0.1, ModulesToSave = ["layers.1"] };

    private static readonly double[] Scores = [0.3, 0.2, 0.1];

    public static TheoryData<string> Kinds => new("adamw", "coupled adam", "sgd", "nesterov", "dora", "lora+", "full", "rmsprop", "adafactor", "lora-fa", "riemannian", "galore",
        "adamw-8bit", "sora",
        "per layer");

    [Theory, MemberData(nameof(Kinds))]
    public void A_resumed_run_ends_as_one_that_never_stopped(string kind)
    {
        using var folder = new TemporaryFolder();
        byte[] want = Run(kind, null, long.MaxValue, out List<double> losses, out double best);
        for (int stop = 1; stop < losses.Count; stop += 5)      // inside and at the end of epochs
        {
            string path = Path.Combine(folder.Path, $"{stop}");
            Run(kind, path, stop, out List<double> first, out _);
            byte[] got = Run(kind, path, long.MaxValue, out List<double> rest, out double resumedBest);
            Assert.Equal(losses, first.Concat(rest));
            Assert.Equal(want, got);
            Assert.Equal(best, resumedBest);
        }
    }

    [Theory, MemberData(nameof(Kinds))]
    public void A_run_repeats_bit_for_bit(string kind)
    {
        byte[] want = Run(kind, null, long.MaxValue, out List<double> losses, out _);
        Assert.Equal(want, Run(kind, null, long.MaxValue, out List<double> again, out _));
        Assert.Equal(losses, again);
    }

    [Theory]
    [InlineData(1, 8)]
    [InlineData(2, 12)]
    public void A_resumed_run_ends_where_patience_would_have_ended_it(int patience, int steps)
    {
        using var folder = new TemporaryFolder();
        Trainer Continue(SmallRun run, Optimizer optimizer, Queue<double> scores) => new(
            optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 9, CheckpointFolder = folder.Path, Patience = patience })
        { Evaluate = scores.Dequeue };
        var scores = new Queue<double>(Scores);
        using (var run = new SmallRun())
        {
            run.After = r => { if (r.Step == 6) { run.Stop(); } };
            using var optimizer = new Sgd(run.Model.TrainAll());
            Assert.Throws<OperationCanceledException>(() => run.Train(Continue(run, optimizer, scores)));
        }
        using var rest = new SmallRun();
        using var again = new Sgd(rest.Model.TrainAll());
        Trainer trainer = Continue(rest, again, scores);
        trainer.Resume(trainer.CheckpointPath!);
        Assert.Equal((steps, Scores[0]), (rest.Train(trainer).Steps, rest.Train(trainer).BestEvaluation));
    }

    [Fact]
    public void Frozen_parameters_keep_their_moments_and_values()
    {
        using var run = new SmallRun();
        IReadOnlyList<Parameter> parameters = run.Model.TrainAll();
        using var optimizer = new AdamW(parameters);
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 1 });
        run.Train(trainer);
        parameters[0].Frozen = true;
        byte[] before = [.. parameters[0].Value.ToBytes(), .. optimizer.Pack.StateOf("exp_avg", parameters[0]).ToBytes()];
        byte[] other = optimizer.Pack.StateOf("exp_avg", parameters[2]).ToBytes();
        run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 1 }));
        byte[] after = [.. parameters[0].Value.ToBytes(), .. optimizer.Pack.StateOf("exp_avg", parameters[0]).ToBytes()];
        Assert.Equal(before, after);
        Assert.NotEqual(other, optimizer.Pack.StateOf("exp_avg", parameters[2]).ToBytes());
    }

    /// <summary>Starts or continues a run and stops it after some step; with no folder it keeps no checkpoints.</summary>
    private static byte[] Run(string kind, string? folder, long stopAfter, out List<double> losses, out double best)
    {
        using var run = new SmallRun { Noise = 0.1f };
        run.After = r => { if (r.Step == stopAfter) { run.Stop(); } };
        using AdaptedModel? adapted = kind == "full" ? null : run.Model.Attach(kind == "sora" ? Sora : kind == "dora" ? Lora with { Dora = true } : Lora, seed: 8);
        IReadOnlyList<Parameter> parameters = adapted?.Parameters ?? run.Model.TrainAll();
        using Optimizer optimizer = kind switch
        {
            "sgd" => new Sgd(parameters) { WeightDecay = 0.01 },
            "nesterov" => new Sgd(parameters) { Momentum = 0.9, Nesterov = true },
            "coupled adam" => new AdamW(parameters) { Coupled = true },
            "rmsprop" => new RmsProp(parameters) { Momentum = 0.5, Centered = true },
            "adafactor" => new Adafactor(parameters),
            "lora-fa" => new LoraFa(adapted!),
            "galore" or "per layer" => new GaLore(parameters) { Rank = 2, Gap = 3 },
            "adamw-8bit" => new AdamW8Bit(parameters) { LeastSize = 1 },
            "sora" => new GatedAdamW(parameters, SoraGates.Parameters(adapted!)) { Threshold = 0.01 },
            "riemannian" => new RiemannianAdamW(adapted!),
            _ => new AdamW(parameters),
        };
        if (kind == "lora+")
        {
            LoraPlus.Apply(parameters, Options.LearningRate, ratio: 4, weightDecay: 0.05);
        }
        TrainerOptions options = kind == "per layer" ? Options with { PerLayer = true, Accumulation = 1, MaxGradientNorm = 0 } : Options;
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, options with { CheckpointFolder = folder })
        {
            Adapted = adapted,
            Evaluate = () => -Math.Abs(parameters[0].Value.ToDoubles().Sum()),
        };
        if (folder is not null && File.Exists(trainer.CheckpointPath))
        {
            trainer.Resume(trainer.CheckpointPath!);
            Assert.Equal(trainer.Step, adapted?.Steps ?? trainer.Step);
        }
        best = double.NaN;
        try
        {
            best = run.Train(trainer).BestEvaluation!.Value;
        }
        catch (OperationCanceledException)
        {
            Assert.Equal(stopAfter, trainer.Step);
        }
        losses = [.. run.Reports.Select(r => r.Loss)];
        return [.. SmallRun.Bits(parameters), .. optimizer.State().SelectMany(s => s.Value.ToBytes())];
    }
}
