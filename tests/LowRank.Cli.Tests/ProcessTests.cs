using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The program as a process of its own: signals, terminals, colours.</summary>
public sealed class ProcessTests : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(2);
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-process").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, InlineData("INT"), InlineData("TERM")]
    public void A_run_stopped_by_a_signal_goes_on_bit_for_bit(string signal)
    {
        string[] words = ["train", "--model", Cli.Golden, "--data", "digits", "--per-class", "8", "--method", "dora", "--dropout", "0.3", "--batch-size", "12", "--epochs", "24", "--json", "--quiet"];
        (int whole, _, string error) = Finish(Start([.. words, "--output", At("whole")]));
        Assert.True(whole == 0, error);

        using Process running = Start([.. words, "--output", At("stopped")]);
        string log = Path.Combine(RunFolder.Of(At("stopped")), "log.jsonl");
        WaitFor(running, () => File.Exists(log) && File.ReadAllLines(log).Length > 20);
        using (Process kill = Process.Start("kill", ["-" + signal, $"{running.Id}"]))
        {
            kill.WaitForExit();
        }
        (int code, string output, error) = Finish(running);
        Assert.Equal(ExitCode.Cancelled, code);
        Assert.Empty(output);
        Assert.Contains("stopped after step ", error, StringComparison.Ordinal);
        Assert.Contains(" --resume", error, StringComparison.Ordinal);
        Assert.Equal(["checkpoint"], Directory.GetFileSystemEntries(At("stopped")).Select(Path.GetFileName));
        Assert.Equal(["checkpoint.safetensors", "log.jsonl", "run.json"], Directory.GetFiles(RunFolder.Of(At("stopped"))).Select(Path.GetFileName).Order(StringComparer.Ordinal));

        (code, _, error) = Finish(Start([.. words, "--output", At("stopped"), "--resume"]));
        Assert.True(code == 0, error);
        foreach (string file in (string[])["adapter_model.safetensors", "adapter_config.json", "lowrank.json", "report/loss.png", "report/accuracy.png"])
        {
            Assert.True(Bytes("whole", file).SequenceEqual(Bytes("stopped", file)), $"{file} differs");
        }
        Assert.Equal(Charts("whole"), Charts("stopped"));
        Assert.False(Directory.Exists(RunFolder.Of(At("stopped"))));
    }

    [Fact]
    public void Two_processes_do_not_write_into_one_folder()
    {
        string[] words = ["train", "--model", Cli.Golden, "--data", "digits", "--per-class", "8", "--epochs", "4000", "--output", At("out"), "--quiet"];
        using Process first = Start(words);
        string log = Path.Combine(RunFolder.Of(At("out")), "log.jsonl");
        WaitFor(first, () => File.Exists(log) && File.ReadAllLines(log).Length > 5);
        foreach (string[] second in (string[][])[words, [.. words, "--resume"], ["convert", "--model", Cli.Golden, "--output", At("out")]])
        {
            (int code, string output, string error) = Finish(Start(second));
            Assert.Equal((ExitCode.Failed, ""), (code, output));
            Assert.Contains($"another process writes into {At("out")}; wait until it ends, or choose another --output", error, StringComparison.Ordinal);
        }
        Assert.False(first.HasExited, "the first process has been disturbed");
        using (Process kill = Process.Start("kill", ["-INT", $"{first.Id}"]))
        {
            kill.WaitForExit();
        }
        Assert.Equal(ExitCode.Cancelled, Finish(first).Code);
        Assert.Equal(["checkpoint"], Directory.GetFileSystemEntries(At("out")).Select(Path.GetFileName));
    }

    [Fact]
    public void A_full_disk_ends_a_run_and_leaves_the_adapter_of_the_one_before()
    {
        string[] words = ["train", "--model", Cli.Golden, "--data", "digits", "--per-class", "2", "--epochs", "1", "--output", At("out"), "--quiet"];
        Assert.Equal(0, Finish(Start(words)).Code);
        string[] files = [.. Directory.GetFiles(At("out")).Order(StringComparer.Ordinal)];
        byte[][] before = [.. files.Select(File.ReadAllBytes)];
        // A limit on the size of a file stands for the disk; two blocks are enough for settings and log.
        const string limited = "trap '' XFSZ; ulimit -f 2; exec \"$@\"";
        var start = new ProcessStartInfo("bash", ["-c", limited, "bash", "dotnet", Path.Combine(AppContext.BaseDirectory, "lowrank.dll"), .. words, "--seed", "5"]) { RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["DOTNET_EnableWriteXorExecute"] = "0";      // its memory would count as a file
        (int code, string output, string error) = Finish(Process.Start(start)!);
        Assert.Equal((ExitCode.Failed, ""), (code, output));
        Assert.Contains("cannot write", error, StringComparison.Ordinal);
        Assert.Contains("free space", error, StringComparison.Ordinal);
        Assert.Equal(files, Directory.GetFiles(At("out")).Order(StringComparer.Ordinal));
        Assert.Equal(before, files.Select(File.ReadAllBytes));
    }

    [Fact]
    public void Standard_error_without_a_terminal_gets_plain_lines()
    {
        (int code, string output, string error) = Finish(Start("train", "--model", Cli.Golden, "--data", "digits", "--per-class", "2", "--epochs", "30", "--output", At("out")));
        Assert.Equal(0, code);
        string[] lines = error.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        Assert.InRange(lines.Length, 10, 25);
        Assert.All(lines, line => Assert.Matches(@"^lora: step \d+/30  loss \d+\.\d{4}  rate \d\.\dE[+-]\d+  \d+ images/s(  ETA \d+:\d\d)?(  accuracy \d+\.\d\d %)?$", line));
        Assert.DoesNotContain('\u001b', output + error);
        Assert.StartsWith("method ", output, StringComparison.Ordinal);
    }

    [Theory, InlineData(true), InlineData(false)]
    public void A_terminal_gets_a_bar_and_no_color_leaves_out_the_colours(bool colours)
    {
        string program = Path.Combine(AppContext.BaseDirectory, "lowrank.dll"), text = At("typescript");
        string command = $"dotnet '{program}' train --model '{Cli.Golden}' --data digits --per-class 3 --epochs 40 --output '{At("out")}'";
        var start = new ProcessStartInfo("script", ["-qec", command, text]) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true };
        start.Environment["TERM"] = "xterm-256color";
        start.Environment.Remove("NO_COLOR");
        if (!colours)
        {
            start.Environment["NO_COLOR"] = "1";
        }
        (int code, _, string error) = Finish(Process.Start(start)!);
        Assert.True(code == 0, error);
        string shown = File.ReadAllText(text);
        Assert.Contains("━", shown, StringComparison.Ordinal);
        Assert.Matches(@"lora  loss \d\.\d{4}  rate \d\.\dE[+-]\d+  \d+ images/s  ETA 0:00  accuracy \d+\.\d %", shown);
        Assert.Contains("method ", shown, StringComparison.Ordinal);
        Assert.Equal(colours, System.Text.RegularExpressions.Regex.IsMatch(shown, "\u001b\\[[0-9;]*(3|38;5|38;2)[0-9;]*m"));
    }

    [Fact]
    public void Two_processes_share_what_nvrtc_compiles_and_a_cache_that_cannot_be_written_is_said_once()
    {
        Assert.SkipWhen(CudaKernelList.NvrtcVersion is null, CudaKernelList.NvrtcDiagnosis);
        string[] words = ["kernels", "--file", "adam.cu", "--json"];
        Process[] both = [StartWith([$"LOWRANK_CACHE={At("cache")}"], words), StartWith([$"LOWRANK_CACHE={At("cache")}"], words)];
        (int Code, string Output, string Error)[] results = [.. both.Select(Finish)];
        Assert.All(results, r => Assert.Equal((0, results[0].Output, ""), r));
        Assert.Equal(2, Directory.GetFiles(At("cache"), "*.cubin").Length);      // sm_80 and sm_90a
        Assert.Equal(2, Directory.GetFiles(At("cache")).Length);
        File.WriteAllText(At("file"), "");
        (int code, string output, string error) = Finish(StartWith([$"LOWRANK_CACHE={Path.Combine(At("file"), "cache")}"], words));
        Assert.Equal((0, results[0].Output), (code, output));
        Assert.StartsWith("lowrank: CudaCache: ", Assert.Single(error.TrimEnd().Split('\n')), StringComparison.Ordinal);
    }

    // `env` gives the child the default answer to SIGINT: a shell that starts tests in the background has it ignored.
    private static Process Start(params string[] words) => StartWith([], words);

    private static Process StartWith(string[] variables, params string[] words) => Process.Start(new ProcessStartInfo("env", ["--default-signal=INT", .. variables, "dotnet", Path.Combine(AppContext.BaseDirectory, "lowrank.dll"), .. words])
    {
        RedirectStandardOutput = true,
        RedirectStandardError = true,
    })!;

    private static (int Code, string Output, string Error) Finish(Process process)
    {
        using (process)
        {
            Task<string> output = process.StandardOutput.ReadToEndAsync(), error = process.StandardError.ReadToEndAsync();
            Assert.True(process.WaitForExit(Patience), "the process does not end");
            return (process.ExitCode, output.Result, error.Result);
        }
    }

    private static void WaitFor(Process running, Func<bool> fact)
    {
        var watch = Stopwatch.StartNew();
        while (!fact())
        {
            Assert.False(running.HasExited, "the process has ended too early");
            Assert.True(watch.Elapsed < Patience, "waited for too long");
            Thread.Sleep(2);
        }
    }

    private string At(string name) => Path.Combine(folder, name);

    private byte[] Bytes(string output, string file) => File.ReadAllBytes(Path.Combine(At(output), file));

    private string Charts(string output) => JsonNode.Parse(Bytes(output, "report/report.json"))!["charts"]!.ToJsonString(new JsonSerializerOptions());
}
