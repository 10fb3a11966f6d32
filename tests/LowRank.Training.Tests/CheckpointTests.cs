using LowRank.Adapters;
using LowRank.Formats;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>A checkpoint that does not fit the run is refused by name, and nothing of it is taken over.</summary>
public sealed class CheckpointTests : IDisposable
{
    private static readonly TrainerOptions Options = new() { Epochs = 2, BatchSize = 6, LearningRate = 0.02, Seed = 5, CheckpointSteps = 1 };
    private readonly TemporaryFolder folder = new();
    private readonly string path;

    public CheckpointTests()
    {
        using var run = new SmallRun();
        using var optimizer = new AdamW(run.Model.TrainAll());
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, Options with { CheckpointFolder = folder.Path });
        run.Train(trainer);
        path = trainer.CheckpointPath!;
    }

    public void Dispose() => folder.Dispose();

    public static TheoryData<string, TrainerOptions> Settings => new()
    {
        { "Epochs = 3", Options with { Epochs = 3 } },
        { "BatchSize = 7", Options with { BatchSize = 7 } },
        { "Accumulation = 2", Options with { Accumulation = 2 } },
        { "Seed = 6", Options with { Seed = 6 } },
        { "LearningRate = 0.5", Options with { LearningRate = 0.5 } },
        { "MaxGradientNorm = 1", Options with { MaxGradientNorm = 1 } },
        { "Decay = Linear", Options with { Schedule = new Schedule(Decay.Linear) } },
    };

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Other_settings_are_refused(string named, TrainerOptions options) =>
        Refused(named, run => new AdamW(run.Model.TrainAll()), options);

    [Fact]
    public void Another_optimiser_is_refused() => Refused("the optimiser was AdamW", run => new Sgd(run.Model.TrainAll()));

    [Fact]
    public void Other_parameters_are_refused() => Refused(
        "belongs to nothing that is trained here",
        run => new AdamW(run.Model.TrainHead("layers.1")));

    [Fact]
    public void A_method_that_was_not_in_the_run_is_refused() => Refused(
        "'param.layers.0.lora_A.weight' is absent",
        run => new AdamW(run.Model.Attach(new LoraConfig { Targets = ["layers.0"] }).Parameters));

    [Fact]
    public void Another_type_is_refused() => Refused("want F64", run => new AdamW(run.Model.TrainAll()), type: DType.F64);

    [Fact]
    public void A_file_that_is_no_checkpoint_is_refused()
    {
        SafeTensorsFile.Save(path, [], new Dictionary<string, string>());
        Refused("no metadata 'run'", run => new AdamW(run.Model.TrainAll()));
    }

    [Theory]
    [InlineData("optimizer_states", "exp_avg,exp_avg", "optimizer_states")]
    [InlineData("optimizer_states", "nothing", "'state.nothing.layers.0.weight' is absent")]
    [InlineData("optimizer_steps", "-1", "after -1 steps")]
    [InlineData("optimizer_steps", "many", "after many steps")]
    [InlineData("run", "null", "'run' cannot be read")]
    [InlineData("run", "{", "'run' cannot be read")]
    [InlineData("run", "{\"Step\":-5}", "the run was")]
    public void Hostile_metadata_is_refused(string key, string value, string message)
    {
        string hostile = Path.Combine(folder.Path, "hostile.safetensors");
        using (SafeTensorsFile file = SafeTensorsFile.Open(path))
        {
            var metadata = new Dictionary<string, string>(file.Metadata) { [key] = value };
            using Device device = Device.Cpu();
            using Scope scope = device.BeginScope();
            SafeTensorsFile.Save(hostile, file.Entries.Select(e => TensorData.Of(e.Name, file.Load(e.Name, scope))), metadata);
        }
        Refused(message, run => new AdamW(run.Model.TrainAll()), file: hostile);
    }

    [Fact]
    public void A_negative_step_is_refused()
    {
        string text;
        using (SafeTensorsFile file = SafeTensorsFile.Open(path))
        {
            text = file.Metadata["run"];
        }
        Assert.Contains("\"Step\":8", text, StringComparison.Ordinal);
        Hostile_metadata_is_refused("run", text.Replace("\"Step\":8", "\"Step\":-8", StringComparison.Ordinal), "Step is -8");
        Hostile_metadata_is_refused("run", text.Replace("\"Step\":8", "\"Step\":9", StringComparison.Ordinal), "Step is 9");
    }

    [Fact]
    public void A_truncated_file_is_refused()
    {
        File.WriteAllBytes(path, File.ReadAllBytes(path)[..^3]);
        Refused(path, run => new AdamW(run.Model.TrainAll()));
    }

    [Fact]
    public void A_missing_file_is_named()
    {
        using var run = new SmallRun();
        using var optimizer = new AdamW(run.Model.TrainAll());
        string missing = Path.Combine(folder.Path, "none.safetensors");
        var error = Assert.ThrowsAny<IOException>(() => new Trainer(optimizer, SmallRun.Samples, run.Loss, Options).Resume(missing));
        Assert.Contains(missing, error.Message, StringComparison.Ordinal);
    }

    private void Refused(string message, Func<SmallRun, Optimizer> build, TrainerOptions? options = null, string? file = null, DType type = DType.F32)
    {
        using var run = new SmallRun(type);
        using Optimizer optimizer = build(run);
        byte[] before = SmallRun.Bits(optimizer.Pack.Parameters);
        var trainer = new Trainer(optimizer, SmallRun.Samples, run.Loss, options ?? Options);
        var error = Assert.Throws<ModelFormatException>(() => trainer.Resume(file ?? path));
        Assert.Contains(message, error.Message, StringComparison.Ordinal);
        Assert.Equal(before, SmallRun.Bits(optimizer.Pack.Parameters));
        Assert.Equal((0, 0), (trainer.Step, optimizer.Steps));
        Assert.Empty(optimizer.State());
    }
}
