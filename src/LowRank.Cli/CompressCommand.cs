using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank compress</c>: a decoder with fewer bits or weights, and beside it an adapter that makes up for the loss (EoRA).</summary>
internal sealed class CompressCommand
{
    /// <summary>Folder of the adapter inside that of the compressed model.</summary>
    public const string AdapterFolder = "eora";

    private static readonly CompressionOptions Defaults = new();
    private readonly Option<string> model = CommonOptions.TextModel(), calibration = new("--calibration") { Description = "Text that the layers' inputs are measured on.", Required = true };
    private readonly Option<string> output = new("--output") { Description = $"Folder for the compressed model; the adapter goes to its folder {AdapterFolder}.", Required = true };
    private readonly Option<int?> bits = new("--bits") { Description = "Round weights to so many bits, 2 to 8, on a grid of each row." };
    private readonly Option<bool> symmetric = new("--symmetric") { Description = "Grids reach as far to both sides." };
    private readonly Option<int> group = new("--group") { Description = "Columns that share a grid; 0: the whole row.", DefaultValueFactory = _ => 0 };
    private readonly Option<string?> sparsity = new("--sparsity") { Description = "Keep N of every M weights, such as 2:4." };
    private readonly Option<int> rank = new("--rank") { Description = "Rank of the adapter; a layer with a smaller side has that rank.", DefaultValueFactory = _ => Defaults.Rank };
    private readonly Option<string> mode = new("--mode") { Description = "What the error is weighed by: eigen (EoRA), activation, or svd (nothing).", DefaultValueFactory = _ => "eigen" };
    private readonly Option<string> average = new("--average") { Description = "Weights of the samples: official (the last most) or mean.", DefaultValueFactory = _ => "official" };
    private readonly Option<double> floor = new("--floor") { Description = "Least eigenvalue of a layer's inputs as a share of the largest, for inputs that do not fill their space.", DefaultValueFactory = _ => 0 };
    private readonly Option<int> samples = new("--samples") { Description = "Stretches of the text to measure on, drawn at random.", DefaultValueFactory = _ => 64 };
    private readonly Option<int> tokens = new("--tokens") { Description = "Tokens of a stretch; the model may take fewer.", DefaultValueFactory = _ => 2048 };
    private readonly Option<string?> measure = new("--measure") { Description = "Text whose bits a token are measured before, after, and with the adapter." };
    private readonly Option<string?> type = CommonOptions.StoredType("the one the model has");
    private readonly Option<string> device = CommonOptions.DeviceName();
    private readonly Option<ulong> seed = CommonOptions.Seed();
    private readonly Option<bool> json = CommonOptions.Json(), dryRun = CommonOptions.DryRun(), quiet = CommonOptions.Quiet();

    private CompressCommand()
    {
        mode.AcceptOnlyFromAmong("eigen", "activation", "svd");
        average.AcceptOnlyFromAmong("official", "mean");
    }

    public static Command Create()
    {
        var own = new CompressCommand();
        var command = new Command("compress", "Round or prune the layers of a decoder and write an adapter that makes up for the loss (EoRA).")
        {
            own.model, own.calibration, own.output, own.bits, own.symmetric, own.group, own.sparsity, own.rank, own.mode, own.average, own.floor, own.samples, own.tokens, own.measure, own.type, own.device, own.seed, own.json, own.dryRun, own.quiet,
        };
        command.Validators.Add(result =>
        {
            if (result.GetValue(own.bits) is null && result.GetValue(own.sparsity) is null)
            {
                result.AddError("There is neither --bits nor --sparsity; name at least one.");
            }
        });
        command.SetAction((parsed, cancellation) => Task.FromResult(own.Run(parsed, cancellation)));
        return command;
    }

    private int Run(ParseResult parsed, CancellationToken cancellation)
    {
        string to = parsed.GetValue(output)!;
        (string name, string folder) = LoadedModel.Locate(parsed.GetValue(model), null);
        LoadedModel.RequireOther("compress: output", to, folder);
        DType stored = CommonOptions.StoredTypeOf(parsed.GetValue(type)) ?? TypeOf(folder);
        var options = new CompressionOptions
        {
            Grid = parsed.GetValue(bits) is { } count ? new RowGrid(count, parsed.GetValue(symmetric), parsed.GetValue(group)) : null,
            Pattern = parsed.GetValue(sparsity) is { } pattern ? SparsePattern.Parse(pattern) : null,
            Rank = parsed.GetValue(rank),
            Mode = parsed.GetValue(mode) switch { "svd" => EoraMode.Plain, "activation" => EoraMode.Activation, _ => EoraMode.Eigenspace },
            Average = parsed.GetValue(average) == "mean" ? MomentAverage.Mean : MomentAverage.Official,
            Floor = parsed.GetValue(floor),
            StoredAs = stored,
        };
        using Device on = DeviceList.Open(parsed.GetValue(device)!);
        using LoadedModel loaded = LoadedModel.Open(name, null, on, DType.F32);
        TextModel text = CommonOptions.AsText(loaded.Model);
        Tokenizer tokenizer = Tokenizer.Load(folder);
        int[] ids = Ids(tokenizer, parsed.GetValue(calibration)!);
        int[]? measured = parsed.GetValue(measure) is { } file ? Ids(tokenizer, file) : null;
        Calibration data = Samples(text, ids, parsed.GetValue(samples), Math.Min(parsed.GetValue(tokens), text.MostTokens), parsed.GetValue(seed));
        IReadOnlyList<CompressedLayer> plan = CompressedModel.Plan(text, options);     // refuses what does not fit before anything is written
        if (parsed.GetValue(dryRun))
        {
            Output.Rows([.. plan.Select(l => new JsonObject { ["layer"] = l.Path, ["out"] = l.Outputs, ["in"] = l.Inputs, ["rank"] = l.Rank, ["parameters"] = l.Rank * (l.Outputs + l.Inputs) })], parsed.GetValue(json));
            return ExitCode.Done;
        }
        using FolderLock own = FolderLock.Take(to);
        var facts = new JsonObject { ["model"] = name, ["output"] = to, ["type"] = $"{stored}" };
        Measure("bits_per_token", text, measured, facts, cancellation);
        CompressedModel compressed = CompressedModel.Compress(text, data, options, parsed.GetValue(quiet) ? null : new Progress(), cancellation);
        Measure("bits_compressed", text, measured, facts, cancellation);
        text.Save(to, stored);
        LoadedModel.CopyBeside(to, folder);
        using AdaptedModel adapted = compressed.Attach(to);
        Measure("bits_compensated", text, measured, facts, cancellation);
        adapted.SavePeft(Path.Combine(to, AdapterFolder));
        facts["adapter"] = Path.Combine(to, AdapterFolder);
        facts["parameters"] = adapted.ParameterCount;
        facts["seconds"] = compressed.Layers.Sum(l => l.Time.TotalSeconds);
        Print(facts, [.. compressed.Layers.Select(Row)], parsed.GetValue(json));
        return ExitCode.Done;
    }

    private static void Print(JsonObject facts, JsonObject[] layers, bool json)
    {
        if (json)
        {
            facts["layers"] = new JsonArray([.. layers]);
            Output.Json(facts);
            return;
        }
        Output.Rows(layers, json: false);
        Output.Line();
        Output.Facts(facts, json: false);
    }

    private static JsonObject Row(CompressedLayer layer) => new()
    {
        ["layer"] = layer.Path,
        ["rank"] = layer.Rank,
        ["error"] = Math.Round(layer.Before, 6),
        ["compensated"] = Math.Round(layer.After, 6),
        ["replaced"] = layer.Replaced,
        ["seconds"] = Math.Round(layer.Time.TotalSeconds, 3),
    };

    private static void Measure(string key, TextModel model, int[]? ids, JsonObject facts, CancellationToken cancellation)
    {
        if (ids is not null)
        {
            facts[key] = model.BitsPerToken(ids, cancellation: cancellation);
        }
    }

    private static int[] Ids(Tokenizer tokenizer, string file) => tokenizer.Encode(TextFile.Read(file, "plain text", reader => reader.ReadToEnd()), special: false).Ids;

    /// <summary>Stretches of the text, each a batch.</summary>
    private static Calibration Samples(TextModel model, int[] ids, int samples, int tokens, ulong seed)
    {
        if (samples < 1 || tokens < 1 || ids.Length < tokens)
        {
            throw new UsageException($"compress: calibration has {ids.Length} tokens for {samples} samples of {tokens}, want at least one sample and no fewer tokens than one has");
        }
        Rng rng = new Rng(seed).Fork("calibration");
        int[] starts = [.. Enumerable.Range(0, samples).Select(_ => rng.Below(ids.Length - tokens + 1))];
        return new Calibration(samples, i => model.Hidden(new TextBatch(1, ids[starts[i]..(starts[i] + tokens)])));
    }

    /// <summary>The type of most weights in a folder.</summary>
    private static DType TypeOf(string folder)
    {
        using TensorSource source = TensorSource.Open(folder);
        SafeTensorsType most = source.Entries.GroupBy(e => e.Type).MaxBy(g => g.Sum(e => e.Length))!.Key;
        return most.TryToDType(out DType type) && type is DType.BF16 or DType.F16 ? type : DType.F32;
    }

    /// <summary>A line a layer on standard error.</summary>
    private sealed class Progress : IProgress<CompressedLayer>
    {
        public void Report(CompressedLayer value) => Console.Error.WriteLine($"{value.Path}: {value.Before:P3} of the outputs lost, {value.After:P3} with rank {value.Rank}");
    }
}
