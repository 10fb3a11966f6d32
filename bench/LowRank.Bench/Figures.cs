using System.Diagnostics;
using LowRank.Bench.Cases;
using LowRank.Models;

namespace LowRank.Bench;

/// <summary>Figures that are no comparison: size of the library, resident bytes of a layer, tokenising, loading, start of the command line.</summary>
public static class Figures
{
    /// <summary>Name for <c>--group</c>.</summary>
    public const string Group = "figures";

    private static readonly string[] Library = ["LowRank.Interop.dll", "LowRank.Engine.dll", "LowRank.Formats.dll", "LowRank.Adapters.dll", "LowRank.Training.dll", "LowRank.Models.dll", "liblowrank_cpu.so"];

    /// <summary>All of them; the command line's start only where it has been built.</summary>
    public static IReadOnlyList<Figure> Measure(Device device)
    {
        List<Figure> figures = [new("library with its native part", Library.Sum(f => new FileInfo(Path.Combine(AppContext.BaseDirectory, f)).Length) / 1e6, "MB")];
        figures.AddRange(Resident(device));
        figures.AddRange(Rows.All.OfType<WordLossRow>().Select(r => new Figure($"peak bytes of {r.Group}: {r.Shape}, {$"{r.Type}".ToLowerInvariant()}", WordLossRow.PeakBytes(device, r) / 1e6, "MB")));
        figures.AddRange(Launching());
        figures.AddRange(Tokenising());
        figures.Add(new("loading MiniLM's sizes (22.7 M float32 weights, 91 MB) from page cache, median of 9", Loading(device), "ms"));
        string cli = Path.GetFullPath(Path.Combine(Testing.Golden.Repository, "src", "LowRank.Cli", "bin", "Release", "net10.0", "lowrank"));
        if (File.Exists(cli))
        {
            figures.Add(new("start of the command line (lowrank --version), median of 9", Median(9, () => Start(cli)), "ms"));
        }
        return figures;
    }

    private static Figure[] Launching()
    {
        try
        {
            return [new("launch of a CUDA kernel (fill), what the engine adds to the driver's call, median of 15", LaunchCost.Measure(), "us")];
        }
        catch (DeviceException error)     // neither a driver nor the stand-in: the other figures count
        {
            Console.Error.WriteLine($"{Group}: no cost of a launch: {error.Message}");
            return [];
        }
    }

    /// <summary>Megabytes of English a second and core: words drawn from a shipped text, numbered now and then so that new ones keep coming.</summary>
    private static IEnumerable<Figure> Tokenising()
    {
        string[] words = File.ReadAllText(Path.Combine(BaseModel.TextFolder, "held-out.txt")).Split(' ');
        var rng = new Rng(1);
        string text = string.Join(' ', Enumerable.Range(0, 400_000).Select(i => rng.Below(50) == 0 ? $"{words[rng.Below(words.Length)]}{i}" : words[rng.Below(words.Length)]));
        string line = text.ReplaceLineEndings(" ");
        foreach (string name in (string[])["bert_uncased", "llama3_bpe"])
        {
            Tokenizer tokenizer = Tokenizer.Load(Testing.Golden.Find($"tokenizers/{name}")!);
            double ms = Median(5, () => tokenizer.Encode(text));
            yield return new($"tokenising, tokenizer {name} of the goldens, one core, median of 5", text.Length / 1e3 / ms, "MB/s");
        }
        foreach (string name in (string[])["bert_uncased", "llama3_bpe", "llama2_bpe", "unigram_charsmap"])
        {
            Tokenizer tokenizer = Tokenizer.Load(Testing.Golden.Find($"tokenizers/{name}")!);
            double ms = Median(5, () => tokenizer.Encode(line));
            yield return new($"the same text in one line, tokenizer {name}, one core, median of 5", line.Length / 1e3 / ms, "MB/s");
        }
    }

    private static double Loading(Device device)
    {
        string folder = Directory.CreateTempSubdirectory("lowrank-bench").FullName;
        try
        {
            using (TextModel model = TextModel.Create(ModelConfig.Parse(Cases.TextCase.Bert), device))
            {
                model.Save(folder);
            }
            return Median(9, () => PretrainedModel.Load(folder, device).Dispose());
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private static double Median(int runs, Action run) => Enumerable.Range(0, runs).Select(_ =>
    {
        long began = Stopwatch.GetTimestamp();
        run();
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }).Order().ElementAt(runs / 2);

    private static void Start(string cli)
    {
        using Process process = Process.Start(new ProcessStartInfo(cli, ["--version"]) { RedirectStandardOutput = true })!;
        process.StandardOutput.ReadToEnd();
        process.WaitForExit();
    }

    /// <summary>What a frozen 2048x2048 layer of float32 (16.8 MB as a file holds it) keeps: packed for the forward pass, and once gradients have gone through it.</summary>
    private static IEnumerable<Figure> Resident(Device device)
    {
        const int n = 2048, tokens = 16;
        using Scope layer = device.NewStore();
        using Tape tape = device.BeginTape();
        Tensor w = Packing.Pack(tape.NewZeros([n, n], DType.F32), layer), x = tape.NewZeros([tokens, n], DType.F32);
        yield return new("bytes kept of a frozen 2048x2048 float32 layer, forward", layer.Bytes / 1e6, "MB");
        x.NeedsGradient = true;
        Tensor y = new Linear().Apply(x, w);
        tape.Backward(y, tape.NewZeros(y.Shape, DType.F32));
        yield return new("the same after a backward pass", layer.Bytes / 1e6, "MB");
    }
}
