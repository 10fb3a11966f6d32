using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The commands on other devices: the emulated one gives the CPU's results within the table of tolerances, an absent GPU is one typed line.</summary>
[Collection(ConsoleTests.Name)]
public sealed class DeviceTests : IDisposable
{
    private const int Images = 20, Side = 8;
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-device").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, InlineData("lora", "f32"), InlineData("dora", "f32"), InlineData("full", "f32"), InlineData("lora", "bf16")]
    public void Emulated_training_gives_what_the_cpu_gives(string method, string type)
    {
        double bound = type == "bf16" ? Close.ModelBFloat16 : Close.Model;
        JsonNode want = Train("cpu"), got = Train("emulated");
        Close.Check([Loss(got)], [Loss(want)], bound, $"{method} {type}: loss of the last step");
        Assert.Equal(want["steps"]!.GetValue<int>(), got["steps"]!.GetValue<int>());
        using SafeTensorsFile cpu = Weights("cpu"), emulated = Weights("emulated");
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        Assert.Equal(cpu.Entries.Select(e => e.Name), emulated.Entries.Select(e => e.Name));
        // All weights as one vector: AdamW turns the rounding of a gradient that is zero in exact arithmetic (an attention key's bias) into a whole step.
        Close.Check(All(emulated), All(cpu), bound, $"{method} {type}: weights");

        string adapter = Path.Combine(folder, "cpu");
        string[] eval = ["eval", "--data", Data(), "--type", type, "--json", .. method == "full" ? ["--model", adapter] : (string[])["--adapter", adapter]];
        JsonNode onCpu = Cli.Done(eval).Json, onEmulated = Cli.Done([.. eval, "--device", "emulated"]).Json;
        Assert.Equal(onCpu["count"]!.GetValue<int>(), onEmulated["count"]!.GetValue<int>());
        Close.Check([Loss(onEmulated)], [Loss(onCpu)], bound, $"{method} {type}: loss of the evaluation");

        JsonNode Train(string name) => Cli.Done(
            "train", "--model", Model(), "--data", Data(), "--method", method, "--type", type, "--epochs", "2", "--batch-size", "8", "--output", Path.Combine(folder, name), "--device", name, "--quiet", "--json").Json;
        double[] All(SafeTensorsFile file) => [.. file.Entries.SelectMany(e => file.Load(e.Name, scope).ToDoubles())];
        SafeTensorsFile Weights(string name) => SafeTensorsFile.Open(Path.Combine(folder, name, method == "full" ? "model.safetensors" : "adapter_model.safetensors"));
        static double Loss(JsonNode json) => json["loss"]!.GetValue<double>();
    }

    [Fact]
    public void Emulated_demo_of_tiny_sizes_compares_the_four_methods()
    {
        var demo = new Demo { Model = Model(), Data = Data(), PerClass = 3, Seeds = 1, Epochs = 1 };
        IReadOnlyList<DemoRun> want = Runs("cpu"), got = Runs("emulated");
        Assert.Equal(Demo.Methods.Count, got.Count);
        foreach ((DemoRun cpu, DemoRun emulated) in want.Zip(got))
        {
            Assert.Equal((cpu.Method, cpu.Trainable, cpu.HeldOut), (emulated.Method, emulated.Trainable, emulated.HeldOut));
            Close.Check(emulated.Loss, cpu.Loss, Close.Model, $"{cpu.Method}: loss");
        }
        JsonNode json = Cli.Done("demo", "--model", Model(), "--data", Data(), "--per-class", "3", "--seeds", "1", "--epochs", "1", "--device", "emulated", "--output", Path.Combine(folder, "demo"), "--quiet", "--json").Json;
        Assert.Equal(got.Select(r => r.Accuracy), json["methods"]!.AsArray().Select(m => m!["accuracy"]!.GetValue<double>()));

        IReadOnlyList<DemoRun> Runs(string name)
        {
            using Device device = DeviceList.Open(name);
            return TrainingDisplay.Show(quiet: true, display => demo.Run(device, Path.Combine(folder, name), [], _ => { }, display, TestContext.Current.CancellationToken));
        }
    }

    [Theory, InlineData("train"), InlineData("demo"), InlineData("eval")]
    public void Cuda_without_a_driver_is_one_line(string command)
    {
        Assert.SkipWhen(DeviceList.Present().Any(d => d.Name == "cuda:0"), "there is a GPU here");
        string[] words = command == "eval" ? ["eval", "--model", Model()] : [command, "--model", Model(), "--output", Path.Combine(folder, "out")];
        foreach (string name in (string[])["cuda", "cuda:1"])
        {
            string[] all = [.. words, "--data", Data(), "--device", name];
            Cli.Fails(ExitCode.Failed, ["libcuda.so.1 was not found; looked for libcuda.so.1 and libcuda.so in", "install NVIDIA's display driver, 525 or newer"], all);
            Assert.Single(Cli.Run(all).Error.TrimEnd().Split('\n'));
        }
        Cli.Fails(ExitCode.Failed, ["device is cuda:one, want cuda or cuda:N with the number of a GPU"], [.. words, "--data", Data(), "--device", "cuda:one"]);
        Assert.False(Directory.Exists(Path.Combine(folder, "out")));
    }

    [Fact]
    public void Emulated_is_among_the_devices()
    {
        JsonObject found = ((JsonArray)Cli.Done("devices", "--json").Json).OfType<JsonObject>().Single(d => $"{d["name"]}" == "emulated");
        Assert.Equal("emulated sm_90", $"{found["kind"]} {found["isa"]}");
    }

    private string Model() => Directory.Exists(Path.Combine(folder, "model")) ? Path.Combine(folder, "model") : Cli.SaveModel(Path.Combine(folder, "model"));

    // Noise around a bright upper or lower half
    private string Data()
    {
        string path = Path.Combine(folder, "images.safetensors");
        if (!File.Exists(path))
        {
            using Device device = Device.Cpu();
            using Scope scope = device.BeginScope();
            float[] pixels = new float[Images * Side * Side];
            new Rng(4).FillUniform(pixels, 0, 1);
            int[] labels = [.. Enumerable.Range(0, Images).Select(i => i % 2)];
            for (int i = 0; i < pixels.Length; i++)
            {
                bool upper = i / Side % Side < Side / 2;
                pixels[i] = (pixels[i] + (upper == (labels[i / (Side * Side)] == 0) ? 1 : 0)) / 2;
            }
            SafeTensorsFile.Save(path, [TensorData.Of("images", scope.Of([Images, Side, Side], pixels)), TensorData.Of("labels", scope.Of([Images], labels))]);
        }
        return path;
    }
}
