using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using LowRank.Formats;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>The unfinished part of an output folder: settings, a line a step, and the checkpoint. It goes when the run is whole.</summary>
internal sealed class RunFolder : IProgress<TrainingProgress>, IDisposable
{
    private const string SettingsFile = "run.json", LogFile = "log.jsonl", Checkpoint = "checkpoint.safetensors";
    private readonly IProgress<TrainingProgress> next;
    private readonly StreamWriter log;

    private RunFolder(StreamWriter log, IProgress<TrainingProgress> next) => (this.log, this.next) = (log, next);

    /// <summary>The folder of an output's unfinished run; delete it when the result is whole.</summary>
    public static string Of(string output) => Path.Combine(output, "checkpoint");

    /// <summary>Looks whether a run can begin, or go on, before anything costly is done.</summary>
    /// <param name="output">The output folder.</param>
    /// <param name="settings">What decides the result.</param>
    /// <param name="resume">Go on with the run that is there.</param>
    /// <exception cref="IOException">Another process writes there.</exception>
    /// <exception cref="UsageException">There is an unfinished run and it is not to be resumed, none to resume, or one with other settings: names them.</exception>
    public static void Check(string output, RunSettings settings, bool resume)
    {
        FolderLock.Require(output);
        string path = Of(output), file = Path.Combine(path, SettingsFile);
        bool unfinished = File.Exists(Path.Combine(path, Checkpoint));
        if (!resume)
        {
            if (unfinished)
            {
                throw new UsageException($"train: {output} holds an unfinished run; add --resume to go on with it, or delete {path} to begin again");
            }
            return;
        }
        if (!unfinished || !File.Exists(file))
        {
            throw new UsageException($"train: {output} holds no unfinished run to resume; leave out --resume to begin one");
        }
        JsonObject was = Parse(file), now = JsonSerializer.SerializeToNode(settings, RunJson.Default.RunSettings)!.AsObject();
        string[] differ = [.. Flat(now).Concat(Flat(was)).Select(p => p.Key).Distinct().Where(key => Value(was, key) != Value(now, key)).Select(key => $"{key} was {Value(was, key)} and is {Value(now, key)}")];
        if (differ.Length > 0)
        {
            throw new UsageException($"train: {output} holds a run with other settings: {string.Join("; ", differ)}; resume with those it was started with");
        }
    }

    /// <summary>Makes the folder, writes the settings, and opens the log.</summary>
    /// <param name="output">The output folder.</param>
    /// <param name="settings">As checked.</param>
    /// <param name="before">Steps of a resumed run so far.</param>
    /// <param name="next">Told of each step too.</param>
    /// <exception cref="IOException">The folder cannot be written.</exception>
    public static RunFolder Open(string output, RunSettings settings, IEnumerable<TrainingProgress> before, IProgress<TrainingProgress> next)
    {
        string path = Of(output);
        Directory.CreateDirectory(path);
        AtomicFile.WriteText(Path.Combine(path, SettingsFile), JsonSerializer.Serialize(settings, RunJson.Default.RunSettings));
        string file = Path.Combine(path, LogFile);
        AtomicFile.WriteText(file, string.Concat(before.Select(Line)));
        return new RunFolder(new StreamWriter(file, append: true) { AutoFlush = true }, next);
    }

    /// <summary>The lines of the log that are whole.</summary>
    public static IReadOnlyList<TrainingProgress> Log(string output)
    {
        string file = Path.Combine(Of(output), LogFile);
        List<TrainingProgress> steps = [];
        foreach (string line in File.Exists(file) ? File.ReadLines(file) : [])
        {
            try
            {
                steps.Add(JsonSerializer.Deserialize(line, RunJson.Default.TrainingProgress)!);
            }
            catch (JsonException)
            {
                break;      // cut off in the middle of a line
            }
        }
        return steps;
    }

    /// <inheritdoc/>
    public void Report(TrainingProgress value)
    {
        log.Write(Line(value));
        next.Report(value);
    }

    /// <inheritdoc/>
    public void Dispose() => log.Dispose();

    private static string Line(TrainingProgress step) => JsonSerializer.Serialize(step, RunJson.Default.TrainingProgress) + "\n";

    private static JsonObject Parse(string file)
    {
        try
        {
            return JsonNode.Parse(File.ReadAllBytes(file))!.AsObject();
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or NullReferenceException)
        {
            throw new ModelFormatException($"train: {file} cannot be read: {error.Message}; delete {Path.GetDirectoryName(file)} to begin again", error) { File = file };
        }
    }

    private static IEnumerable<KeyValuePair<string, string>> Flat(JsonObject table, string prefix = "") => table.SelectMany(p =>
        p.Value is JsonObject inner ? Flat(inner, prefix + p.Key + ".") : [new(prefix + p.Key, p.Value?.ToJsonString() ?? "null")]);

    private static string Value(JsonObject table, string key) => Flat(table).Where(p => p.Key == key).Select(p => p.Value).DefaultIfEmpty("absent").First();
}

/// <summary>What decides the bits of a run's result.</summary>
internal sealed record RunSettings(string Model, ImageChoice? Data, TextChoice? Text, FineTuneOptions Options)
{
    /// <summary>What <c>--data</c> names.</summary>
    [JsonIgnore]
    public string Source => Text?.Source ?? Data!.Source;

    /// <summary>Reads the samples for a model.</summary>
    public FineTuneTask Task(string modelFolder) => Text is null ? ImageTask.Read(modelFolder, Data!) : TextTask.Read(modelFolder, Text);
}

[JsonSourceGenerationOptions(UseStringEnumConverter = true, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(RunSettings))]
[JsonSerializable(typeof(TrainingProgress))]
internal sealed partial class RunJson : JsonSerializerContext;
