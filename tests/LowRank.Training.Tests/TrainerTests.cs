using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>The training loop.</summary>
public class TrainerTests
{
    private static readonly TrainerOptions Options = new() { Epochs = 3, BatchSize = 5, LearningRate = 0.05, Seed = 9 };

    [Fact]
    public void Each_epoch_takes_every_sample_once_in_an_order_of_its_own()
    {
        int[][] Orders(ulong seed)
        {
            using var run = new SmallRun();
            using var optimizer = new Sgd(run.Model.TrainAll());
            var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Seed = seed });
            run.Train(trainer);
            Assert.Equal([5, 5, 5, 5, 2, 5, 5, 5, 5, 2, 5, 5, 5, 5, 2], run.Batches.Select(b => b.Length));
            Assert.Equal(5, trainer.StepsPerEpoch);
            Assert.Equal(15, trainer.Step);
            return [.. run.Batches.Chunk(5).Select(epoch => epoch.SelectMany(b => b).ToArray())];
        }
        int[][] orders = Orders(9);
        Assert.All(orders, order => Assert.Equal(Enumerable.Range(0, SmallRun.Samples), order.Order()));
        Assert.NotEqual(orders[0], orders[1]);
        Assert.NotEqual(orders[1], orders[2]);
        Assert.Equal(orders, Orders(9));
        Assert.NotEqual(orders, Orders(10));
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    [InlineData(8)]
    public void Accumulated_parts_give_the_gradient_of_the_whole_batch(int parts)
    {
        double[] Train(int accumulation, out double[] losses)
        {
            using var run = new SmallRun(DType.F64);
            using var optimizer = new AdamW(run.Model.TrainAll());
            run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { BatchSize = 8, Accumulation = accumulation, MaxGradientNorm = 0.5 }));
            losses = [.. run.Reports.Select(r => r.Loss), .. run.Reports.Select(r => r.GradientNorm)];
            return [.. optimizer.Pack.Parameters.SelectMany(p => p.Value.ToDoubles())];
        }
        double[] whole = Train(1, out double[] want), split = Train(parts, out double[] got);
        Close.Check(split, whole, Close.Golden64, "parameters");
        Close.Check(got, want, Close.Golden64, "losses and norms");
    }

    [Fact]
    public void Parts_count_by_their_targets()
    {
        double[] Train(int accumulation)
        {
            using var run = new SmallRun(DType.F64) { Repeats = true };
            using var optimizer = new Sgd(run.Model.TrainAll());
            run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { BatchSize = 8, Accumulation = accumulation }) { Targets = part => SmallRun.Repeated(part.Span).Length });
            return [.. run.Reports.Select(r => r.Loss), .. optimizer.Pack.Parameters.SelectMany(p => p.Value.ToDoubles())];
        }
        Close.Check(Train(3), Train(1), Close.Golden64, "losses and parameters");
    }

    [Theory]
    [InlineData(Decay.Constant, 0, new double[] { 1, 1, 1, 1, 1, 1, 1, 1 })]
    [InlineData(Decay.Constant, 2, new double[] { 0, 0.5, 1, 1, 1, 1, 1, 1 })]
    [InlineData(Decay.Linear, 0, new double[] { 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125 })]
    [InlineData(Decay.Linear, 4, new double[] { 0, 0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25 })]
    [InlineData(Decay.Cosine, 4, new double[] { 0, 0.25, 0.5, 0.75, 1, 0.85355339059327378, 0.5, 0.14644660940672621 })]
    public void The_schedule_sets_the_learning_rate_of_every_step(Decay decay, int warmup, double[] factors)
    {
        using var run = new SmallRun();
        using var optimizer = new Sgd(run.Model.TrainAll());
        byte[] start = SmallRun.Bits(optimizer.Pack.Parameters);
        byte[][] after = new byte[2][];
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 2, BatchSize = 6, Schedule = new Schedule(decay, warmup) });
        run.After = r => after[Math.Min(r.Step - 1, 1)] = r.Step > 2 ? after[1] : SmallRun.Bits(optimizer.Pack.Parameters);
        run.Train(trainer);
        Assert.Equal(factors.Length, run.Reports.Count);
        Assert.All(run.Reports.Zip(factors), p => Assert.Equal(0.05 * p.Second, p.First.LearningRate, Close.Bound(DType.F64)));
        Assert.Equal(factors[0] == 0, start.AsSpan().SequenceEqual(after[0]));
        Assert.NotEqual(after[0], after[1]);
    }

    [Fact]
    public void Clipping_bounds_the_step_and_the_norm_is_reported_before_it()
    {
        double[] Moved(double limit, out double norm)
        {
            using var run = new SmallRun(DType.F64);
            using var optimizer = new Sgd(run.Model.TrainAll());
            double[] before = [.. optimizer.Pack.Parameters.SelectMany(p => p.Value.ToDoubles())];
            var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 1, BatchSize = SmallRun.Samples, LearningRate = 1, MaxGradientNorm = limit });
            run.Train(trainer);
            norm = run.Reports.Single().GradientNorm;
            return [.. optimizer.Pack.Parameters.SelectMany(p => p.Value.ToDoubles()).Zip(before, (a, b) => a - b)];
        }
        double[] free = Moved(0, out double norm), clipped = Moved(norm / 4, out double same), loose = Moved(norm * 2, out _);
        Assert.Equal(norm, same, Close.Bound(DType.F64));
        Assert.Equal(norm, Math.Sqrt(free.Sum(v => v * v)), Close.Bound(DType.F64));
        Close.Check(clipped, [.. free.Select(v => v * norm / 4 / (norm + 1e-6))], Close.Golden64, "clipped step");
        Close.Check(loose, free, Close.Golden64, "step under the limit");
    }

    [Fact]
    public void The_best_epoch_is_kept()
    {
        using var folder = new TemporaryFolder();
        using var run = new SmallRun();
        using var optimizer = new AdamW(run.Model.TrainAll());
        double[] scores = [0.5, 0.9, 0.7];
        byte[][] epochs = new byte[3][];
        int at = 0;
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { CheckpointFolder = folder.Path, KeepBest = true })
        {
            Evaluate = () =>
            {
                epochs[at] = SmallRun.Bits(optimizer.Pack.Parameters);
                return scores[at++];
            },
        };
        TrainingResult result = run.Train(trainer);
        Assert.Equal((0.9, 0.7), (result.BestEvaluation, result.Evaluation));
        Assert.Equal(run.Reports[^1].Loss, result.Loss);
        Assert.Equal([.. scores.Select(s => (double?)s)], run.Reports.Where(r => r.Evaluation is not null).Select(r => r.Evaluation));
        Assert.Equal([5L, 10L, 15L], run.Reports.Where(r => r.Evaluation is not null).Select(r => r.Step));
        Assert.Equal(epochs[1], Stored(Path.Combine(folder.Path, "best.safetensors"), optimizer));
        Assert.Equal(epochs[2], Stored(trainer.CheckpointPath!, optimizer));
        trainer.LoadBest();
        Assert.Equal(epochs[1], SmallRun.Bits(optimizer.Pack.Parameters));
    }

    [Theory]
    [InlineData("full")]
    [InlineData("lora")]
    [InlineData("lora-fa")]
    public void Steps_per_layer_have_the_bits_of_ordinary_ones(string kind)
    {
        byte[] Train(bool perLayer)
        {
            using var run = new SmallRun();
            using AdaptedModel? adapted = kind == "full" ? null : run.Model.Attach(new LoraConfig { Rank = 4, Targets = ["layers.0", "layers.1"], Init = LoraInit.Gaussian });
            using Optimizer optimizer = kind == "lora-fa" ? new LoraFa(adapted!) : new AdamW(adapted?.Parameters ?? run.Model.TrainAll());
            run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { PerLayer = perLayer }) { Adapted = adapted });
            Assert.Equal(perLayer, optimizer.PerLayer);
            return SmallRun.Bits(optimizer.Pack.Parameters);
        }
        Assert.Equal(Train(perLayer: false), Train(perLayer: true));
    }

    [Fact]
    public void An_optimiser_that_needs_all_gradients_says_so()
    {
        using var run = new SmallRun();
        using AdaptedModel adapted = run.Model.Attach(new LoraConfig { Rank = 4, Targets = ["layers.0"] });
        using var optimizer = new RiemannianAdamW(adapted);
        var error = Assert.Throws<InvalidOperationException>(() => new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { PerLayer = true }));
        Assert.Contains("RiemannianAdamW: it cannot step per layer, since the step of A reads B", error.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(0, 30)]
    [InlineData(1, 15)]
    [InlineData(2, 30)]
    public void Patience_ends_a_run_that_gets_no_better(int patience, int steps)
    {
        using var run = new SmallRun();
        using var optimizer = new Sgd(run.Model.TrainAll());
        var scores = new Queue<double>([0.5, 0.6, 0.6, 0.7, 0.1, 0.8]);
        TrainingResult result = run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 6, Patience = patience }) { Evaluate = scores.Dequeue });
        Assert.Equal((steps, steps), (result.Steps, run.Reports.Count));
        Assert.Equal(patience == 1 ? 0.6 : 0.8, result.BestEvaluation);
    }

    [Fact]
    public void Cancelling_leaves_a_checkpoint_and_names_it()
    {
        using var folder = new TemporaryFolder();
        using var run = new SmallRun();
        run.After = r => { if (r.Step == 4) { run.Stop(); } };
        using var optimizer = new AdamW(run.Model.TrainAll());
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { CheckpointFolder = Path.Combine(folder.Path, "new") });
        var error = Assert.Throws<OperationCanceledException>(() => run.Train(trainer));
        Assert.Contains(trainer.CheckpointPath!, error.Message, StringComparison.Ordinal);
        Assert.Equal(4, run.Reports.Count);
        Assert.Equal(SmallRun.Bits(optimizer.Pack.Parameters), Stored(trainer.CheckpointPath!, optimizer));
    }

    [Fact]
    public void Cancelling_without_a_folder_says_so()
    {
        using var run = new SmallRun();
        using var optimizer = new AdamW(run.Model.TrainAll());
        run.Stop();
        var error = Assert.Throws<OperationCanceledException>(() => run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options)));
        Assert.Contains("no folder", error.Message, StringComparison.Ordinal);
        Assert.Empty(run.Reports);
    }

    [Fact]
    public void A_loss_that_is_not_finite_stops_the_run_before_the_step()
    {
        using var run = new SmallRun();
        using var optimizer = new AdamW(run.Model.TrainAll());
        byte[] before = [];
        int calls = 0;
        var trainer = new Trainer(optimizer, SmallRun.Samples, batch =>
        {
            Tensor loss = run.Loss(batch);
            if (++calls == 4)
            {
                before = SmallRun.Bits(optimizer.Pack.Parameters);
                loss.Fill(double.NaN);
            }
            return loss;
        }, Options);
        var error = Assert.Throws<TrainingException>(() => run.Train(trainer));
        Assert.Contains("loss at step 3 is NaN", error.Message, StringComparison.Ordinal);
        Assert.Contains("learning rate", error.Message, StringComparison.Ordinal);
        Assert.Equal(before, SmallRun.Bits(optimizer.Pack.Parameters));
        Assert.Equal(3, trainer.Step);
    }

    [Fact]
    public void An_adapter_trains_while_the_model_stays()
    {
        using var run = new SmallRun();
        byte[] frozen = SmallRun.Bits(run.Model.Parameters.Values);
        using AdaptedModel adapted = run.Model.Attach(new LoraConfig { Rank = 4, Alpha = 8, Targets = ["layers.0", "layers.1"], Dropout = 0.1 });
        using var optimizer = new AdamW(adapted.Parameters);
        run.Train(new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { Epochs = 20 }) { Adapted = adapted });
        Assert.Equal(frozen, SmallRun.Bits(run.Model.Parameters.Values));
        Assert.Equal(100, adapted.Steps);
        Assert.True(run.Reports[^5..].Average(r => r.Loss) < run.Reports[..5].Average(r => r.Loss) / 2);
    }

    public static TheoryData<string, TrainerOptions, int> Impossible => new()
    {
        { "number of samples is 0", Options, 0 },
        { "Epochs is 0", Options with { Epochs = 0 }, 9 },
        { "BatchSize is 0", Options with { BatchSize = 0 }, 9 },
        { "Accumulation is 6, want 1 .. BatchSize 5", Options with { Accumulation = 6 }, 9 },
        { "LearningRate is NaN", Options with { LearningRate = double.NaN }, 9 },
        { "LearningRate is -1", Options with { LearningRate = -1 }, 9 },
        { "MaxGradientNorm is NaN", Options with { MaxGradientNorm = double.NaN }, 9 },
        { "Schedule.Least is 2, want 0 .. 1", Options with { Schedule = new Schedule(Least: 2) }, 9 },
        { "Schedule.Warmup is -1", Options with { Schedule = new Schedule(Warmup: -1) }, 9 },
        { "CheckpointSteps is -1", Options with { CheckpointSteps = -1 }, 9 },
        { "Patience is -1", Options with { Patience = -1 }, 9 },
        { "MaxGradientNorm is 1, want 0 beside PerLayer", Options with { PerLayer = true, MaxGradientNorm = 1 }, 9 },
        { "Accumulation is 2, want 1 beside PerLayer", Options with { PerLayer = true, Accumulation = 2 }, 9 },
        { "KeepBest is True, want a CheckpointFolder", Options with { KeepBest = true }, 9 },
    };

    [Theory, MemberData(nameof(Impossible), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named(string message, TrainerOptions options, int samples)
    {
        using var run = new SmallRun();
        using var optimizer = new Sgd(run.Model.TrainAll());
        Assert.Contains(message, Assert.Throws<TrainingException>(() => new Trainer(optimizer, samples, run.Loss, options)).Message, StringComparison.Ordinal);
    }

    private static byte[] Stored(string path, Optimizer optimizer)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        return [.. optimizer.Pack.Parameters.SelectMany(p => file.Bytes("param." + p.Name).ToArray())];
    }
}
