using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Subspaces;

namespace LowRank.Cli;

/// <summary>What a completion leaves: factors and biases as .npy, names of rows and columns a line each, completion.json, and the state to go on from.</summary>
internal sealed class CompletionFolder(string folder, JsonObject settings) : IProgress<CompletionState>
{
    private const string StateFile = "state.safetensors", Settings = "settings", U = "U", V = "V", Figures = "figures";

    /// <summary>What was chosen, and the state of an earlier run with the same settings.</summary>
    /// <exception cref="UsageException">There is none, or it had other settings: names them.</exception>
    /// <exception cref="ModelFormatException">It is damaged.</exception>
    public (CompletionChoice Choice, CompletionState State) Read()
    {
        string file = Path.Combine(folder, StateFile);
        if (!File.Exists(file))
        {
            throw new UsageException($"complete: {folder} holds no run to go on with; leave out --resume to begin one");
        }
        using SafeTensorsFile source = SafeTensorsFile.Open(file);
        JsonObject was = JsonNode.Parse(source.Metadata.TryGetValue(Settings, out string? text) ? text : "{}")!.AsObject();
        string[] differ = [.. settings.Where(p => was[p.Key]?.ToJsonString() != p.Value?.ToJsonString()).Select(p => $"{p.Key} was {was[p.Key]?.ToJsonString() ?? "absent"} and is {p.Value?.ToJsonString()}")];
        if (differ.Length > 0)
        {
            throw new UsageException($"complete: {folder} holds a run with other settings: {string.Join("; ", differ)}");
        }
        double[] figures = source.ReadDouble(Figures);
        if (figures.Length != 8)
        {
            throw new ModelFormatException($"{file}: {Figures} has {figures.Length} values, want 8; begin again without --resume") { File = file };
        }
        return (new CompletionChoice((int)figures[3], figures[4], figures[5], figures[6], figures[7]), new CompletionState(source.ReadDouble(U), source.ReadDouble(V), (int)figures[0], figures[1], figures[2] != 0));
    }

    /// <summary>What was chosen for this run.</summary>
    public CompletionChoice? Choice { get; set; }

    /// <inheritdoc/>
    public void Report(CompletionState value)
    {
        double[] figures = [value.Sweep, value.Rmse, value.Tight ? 1 : 0, Choice!.Rank, Choice.Lambda, Choice.BiasLambda, Choice.Rmse, Choice.BiasRmse];
        using Device device = Device.Cpu();
        using Scope scope = device.NewStore();
        TensorData Data(string name, double[] values) => TensorData.Of(name, scope.Of([values.Length], values, DType.F64));
        SafeTensorsFile.Save(Path.Combine(folder, StateFile), [Data(U, value.U), Data(V, value.V), Data(Figures, figures)], new Dictionary<string, string> { [Settings] = settings.ToJsonString() });
    }

    /// <summary>Writes the result; factors have no column where biases alone predict best.</summary>
    public void Write(Completion found, IReadOnlyList<string> rows, IReadOnlyList<string> cols, JsonObject facts)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.NewStore();
        void Save(string name, Shape shape, double[] values) => NpyFile.Save(Path.Combine(folder, name + ".npy"), TensorData.Of(name, scope.Of(shape, values, DType.F64)));
        Save("U", [rows.Count, found.Rank], found.U);
        Save("V", [cols.Count, found.Rank], found.V);
        if (found.Biases is { } biases)
        {
            Save("row_bias", [rows.Count], biases.Rows);
            Save("col_bias", [cols.Count], biases.Cols);
        }
        AtomicFile.WriteText(Path.Combine(folder, "rows.txt"), Lines(rows));
        AtomicFile.WriteText(Path.Combine(folder, "cols.txt"), Lines(cols));
        AtomicFile.WriteText(Path.Combine(folder, "completion.json"), facts.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
    }

    private static string Lines(IReadOnlyList<string> names) => string.Concat(names.Select(n => string.Create(CultureInfo.InvariantCulture, $"{n}\n")));
}
