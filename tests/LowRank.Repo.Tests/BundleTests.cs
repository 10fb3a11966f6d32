using System.Diagnostics;
using System.Text.Json.Nodes;
using Xunit;

namespace LowRank.Repo.Tests;

/// <summary>The GPU bundle rehearsed without a GPU: every stage of the runner on the emulator, its conversation with the peer, and the scripts.</summary>
public sealed class BundleTests : IDisposable
{
    // A peer without a framework: right, wrong, failing, and dying answers.
    private const string Stub = """
        import json, sys
        for line in sys.stdin:
            request = json.loads(line)
            way = request.get("way")
            answer = {
                "hello": {"missing": None, "versions": {"stub": "1"}},
                "offer": {"ways": ["same", "yardstick", "wrong", "failing", "dying"]},
                "prepare": {"same": {"error": 1e-4}, "yardstick": {"error": None}, "wrong": {"error": 0.5}, "failing": {"failed": "cannot"}, "dying": {"error": 0}}.get(way),
                "sample": {"us": 12.5 if way == "same" else 25},
            }.get(request["do"], {})
            if way == "dying" and request["do"] == "sample":
                sys.exit(3)
            print(json.dumps(answer), flush=True)
        """;

    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-bundle").FullName;

    private static string Scripts => Repository.PathOf("bench/cuda");

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, InlineData("random", 3), InlineData("determinism", 0), InlineData("once", 0), InlineData("time forward", 0), InlineData("time backward", 0), InlineData("time rest", 0), InlineData("step", 0)]
    public void Bundle_stage_runs_on_the_emulator(string command, int count)
    {
        string[] more = count > 0 ? ["--count", $"{count}"] : [];
        Assert.Equal(0, Run([.. command.Split(' '), .. more, "--peer", Path.Combine(Scripts, "peers.py")]));
        JsonNode stage = Part(command.Replace(' ', '-'));
        Assert.Empty(stage["failures"]!.AsArray());
        bool timed = command is "step" || command.StartsWith("time", StringComparison.Ordinal);
        Assert.Equal(timed, stage["rows"]!.AsArray().Count > 0);
        Assert.All(stage["rows"]!.AsArray(), row => Assert.True((double)row!["ours"]!["median"]! > 0 && (double)row["floor_us"]! > 0, row["family"]!.ToString()));
        Assert.Equal(0, Run(["table", folder]));
        Assert.True(File.Exists(Path.Combine(folder, "results.json")));
        Assert.Contains($"## {command.Replace(' ', '-')}", File.ReadAllText(Path.Combine(folder, "results.md")), StringComparison.Ordinal);
    }

    [Fact]
    public void Bundle_peer_takes_turns_and_what_fails_is_a_line()
    {
        Assert.SkipUnless(HasPython, "no python3 here");
        string stub = Path.Combine(folder, "stub.py");
        File.WriteAllText(stub, Stub);
        Assert.Equal(0, Run(["time", "forward", "--peer", stub]));
        JsonNode row = Part("time-forward")["rows"]![0]!;
        Dictionary<string, JsonNode> peers = row["peers"]!.AsArray().ToDictionary(p => (string)p!["name"]!, p => p!);
        Assert.Equal(12.5, (double)peers["same"]["times"]!["median"]!);
        Assert.Equal((int)row["ours"]!["samples"]!, (int)peers["same"]["times"]!["samples"]!);
        Assert.Null(peers["yardstick"]["error"]);
        Assert.Contains("differ from ours", (string)peers["wrong"]["failed"]!, StringComparison.Ordinal);
        Assert.Equal("cannot", (string)peers["failing"]["failed"]!);
        Assert.Equal("no samples", (string)peers["dying"]["failed"]!);
        Assert.Equal("1", (string)Part("time-forward")["versions"]!["stub"]!);
    }

    [Fact]
    public void Bundle_without_a_peer_says_so()
    {
        Assert.Equal(0, Run(["time", "forward"]));
        Assert.Equal(0, Run(["table", folder]));
        Assert.Contains("no peer", File.ReadAllText(Path.Combine(folder, "results.md")), StringComparison.Ordinal);
    }

    [Theory, InlineData("fly"), InlineData("time sideways"), InlineData("random --speed 3"), InlineData("random --count")]
    public void Bundle_refuses_words_it_does_not_know(string words) => Assert.Equal(2, Cuda.Bench.Program.Main(words.Split(' ')));

    [Fact]
    public void Bundle_scripts_can_be_read()
    {
        Assert.Equal(0, Process("bash", "-n", Path.Combine(Scripts, "pack"), Path.Combine(Scripts, "run")));
        Assert.SkipUnless(HasPython, "no python3 here");
        Assert.Equal(0, Process("python3", ["-c", "import ast, sys\nfor file in sys.argv[1:]: ast.parse(open(file).read(), file)", .. Directory.GetFiles(Scripts, "*.py")]));
    }

    private static bool HasPython { get; } = Environment.GetEnvironmentVariable("PATH")!.Split(':').Any(path => File.Exists(Path.Combine(path, "python3")));

    private int Run(string[] words) => Cuda.Bench.Program.Main([.. words, "--device", "emulated", "--tiny", "--work", Path.Combine(folder, "work"), "--parts", Path.Combine(folder, "parts")]);

    private JsonNode Part(string stage) => JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "parts", stage + ".json")))!;

    private static int Process(string program, params string[] arguments)
    {
        using var process = System.Diagnostics.Process.Start(new ProcessStartInfo(program, arguments))!;
        process.WaitForExit();
        return process.ExitCode;
    }
}
