using System.Diagnostics;
using System.Text.Json.Nodes;
using LowRank.Formats;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The program as a process that finds the stand-in for NVIDIA's driver (tests/native/fake_cuda) in LOWRANK_CUDA, as it would find the real one.</summary>
public sealed class CudaDriverCliTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-cuda").FullName;

    private static string StandIn => Path.Combine(AppContext.BaseDirectory, "fake_cuda");

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_gpu_is_listed_with_its_architecture()
    {
        (int code, string output, string error) = Run(StandIn, [], "devices", "--json");
        Assert.True(code == 0, error);
        JsonNode gpu = Assert.Single((JsonArray)JsonNode.Parse(output)!, d => $"{d!["name"]}" == "cuda:0")!;
        Assert.Equal("sm_90", $"{gpu["isa"]}");
        Assert.Equal("stand-in GPU", $"{gpu["kind"]}");
    }

    [Fact]
    public void Training_on_a_gpu_writes_the_bytes_of_the_emulator()
    {
        string[] words = ["train", "--model", Cli.SaveModel(At("model")), "--data", SaveImages(), "--per-class", "2", "--batch-size", "2", "--epochs", "1", "--dropout", "0.1", "--json", "--quiet"];
        foreach (string device in (string[])["emulated", "cuda"])
        {
            (int code, _, string error) = Run(StandIn, [], [.. words, "--device", device, "--output", At(device)]);
            Assert.True(code == 0, error);
        }
        Assert.Equal(File.ReadAllBytes(At("emulated/adapter_model.safetensors")), File.ReadAllBytes(At("cuda/adapter_model.safetensors")));
    }

    [Theory]
    [InlineData("devices=0", "CUDA_ERROR_NO_DEVICE", "nvidia-smi")]
    [InlineData("version=11080", "the CUDA driver is version 11.8", "update NVIDIA's display driver")]
    [InlineData("memory=1000000", "no memory for a block of", "Use smaller batches")]
    [InlineData("launch=700@9", "CUDA_ERROR_ILLEGAL_ADDRESS", "CheckLaunches")]
    public void A_gpu_that_cannot_be_used_ends_the_run_with_the_reason(string faults, string fact, string remedy) =>
        Fails([("LOWRANK_FAKE_CUDA", faults)], StandIn, fact, remedy);

    [Fact]
    public void A_kernel_that_does_not_compile_is_shown_with_its_line() =>
        Fails([("LOWRANK_FAKE_NVRTC", "pointwise.cu")], StandIn, "does not compile", "pointwise.cu(7): error: expected a \";\"");

    [Fact]
    public void A_machine_without_the_driver_says_where_it_was_looked_for()
    {
        string empty = Directory.CreateDirectory(At("empty")).FullName;
        (_, string output, _) = Run(empty, [], "devices", "--json");
        Assert.SkipWhen(output.Contains("cuda:0", StringComparison.Ordinal), "a GPU is here");
        Fails([], empty, "libcuda.so.1 was not found; looked for libcuda.so.1 and libcuda.so in " + empty, "install NVIDIA's display driver");
    }

    private void Fails((string, string)[] environment, string libraries, params string[] parts)
    {
        (int code, string output, string error) = Run(libraries, environment, "train", "--model", Cli.SaveModel(At("model")), "--data", SaveImages(), "--per-class", "2", "--epochs", "1", "--device", "cuda", "--output", At("out"), "--quiet");
        Assert.NotEqual(0, code);
        Assert.Empty(output);
        Assert.All(parts, part => Assert.Contains(part, error, StringComparison.Ordinal));
        Assert.DoesNotContain("   at ", error, StringComparison.Ordinal);
    }

    /// <summary>Six images of 8x8 in each of two classes.</summary>
    private string SaveImages()
    {
        const int Images = 12;
        byte[] pixels = [.. Enumerable.Range(0, Images * 64).Select(i => (byte)((i * 37) ^ (i / 64 * 91)))];
        int[] labels = [.. Enumerable.Range(0, Images).Select(i => i % 2)];
        SafeTensorsFile.Save(At("images.safetensors"), [TensorData.Of("images", [Images, 8, 8], pixels), TensorData.Of("labels", [Images], labels)]);
        return At("images.safetensors");
    }

    private (int Code, string Output, string Error) Run(string libraries, (string Name, string Value)[] environment, params string[] words)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(AppContext.BaseDirectory, "lowrank.dll"), .. words]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["LOWRANK_CUDA"] = libraries;
        start.Environment["LOWRANK_CACHE"] = At("cache");
        foreach ((string name, string value) in environment)
        {
            start.Environment[name] = value;
        }
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync(), error = process.StandardError.ReadToEndAsync();
        Assert.True(process.WaitForExit(Patience), "the process does not end");
        return (process.ExitCode, output.Result, error.Result);
    }

    private string At(string name) => Path.Combine(folder, name);
}
