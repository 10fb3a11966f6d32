using System.Text.Json;
using System.Text.Json.Serialization;
using LowRank.Formats;

namespace LowRank.Training;

/// <summary>What a checkpoint says of its run beside the tensors. The order of samples and all draws follow from seed, epoch and step.</summary>
internal sealed record RunState(
    long Step, int Samples, int Epochs, int BatchSize, int Accumulation, ulong Seed, double LearningRate, Schedule Schedule, double MaxGradientNorm, int Patience, double? Best, int Stale)
{
    /// <summary>Optimiser steps of the whole run.</summary>
    public long Steps() => (long)((Samples + BatchSize - 1) / BatchSize) * Epochs;
}

[JsonSerializable(typeof(RunState))]
[JsonSourceGenerationOptions(UseStringEnumConverter = true)]
internal sealed partial class CheckpointJson : JsonSerializerContext;

/// <summary>A run in one safetensors file: <c>param.{name}</c>, the optimiser's state <c>{state}.{name}</c>, and metadata. Written whole or not at all.</summary>
internal static class Checkpoint
{
    public const string FileName = "checkpoint.safetensors", BestName = "best.safetensors";
    private const string RunKey = "run", StepsKey = "optimizer_steps", StatesKey = "optimizer_states", KindKey = "optimizer";

    public static void Save(string path, Optimizer optimizer, RunState state) => SafeTensorsFile.Save(
        path,
        optimizer.Pack.Parameters.Select(p => TensorData.Of("param." + p.Name, p.Value)).Concat(optimizer.State().Select(s => TensorData.Of("state." + s.Name, s.Value))),
        new Dictionary<string, string>
        {
            [RunKey] = JsonSerializer.Serialize(state, CheckpointJson.Default.RunState),
            [KindKey] = optimizer.GetType().Name,
            [StepsKey] = $"{optimizer.Steps}",
            [StatesKey] = string.Join(',', optimizer.Pack.StateNames),
        });

    /// <summary>Fills the optimiser and its parameters; everything is checked before anything is written.</summary>
    public static RunState Load(string path, Optimizer optimizer, RunState want)
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(path);
        RunState state = Read(file);
        RunState same = want with { Step = state.Step, Best = state.Best, Stale = state.Stale };
        if (state != same)
        {
            throw new ModelFormatException($"{path}: the run was {state}, want {same}: resume with the settings it was started with") { File = path, Key = RunKey };
        }
        if (state.Step < 0 || state.Step > want.Steps())
        {
            throw new ModelFormatException($"{path}: Step is {state.Step}, want 0 .. {want.Steps()}") { File = path, Key = RunKey };
        }
        string kind = Text(file, KindKey);
        if (kind != optimizer.GetType().Name || !long.TryParse(Text(file, StepsKey), out long steps) || steps < 0)
        {
            throw new ModelFormatException($"{path}: the optimiser was {kind} after {Text(file, StepsKey)} steps, want {optimizer.GetType().Name}") { File = path, Key = KindKey };
        }
        string[] states = Text(file, StatesKey).Split(',', StringSplitOptions.RemoveEmptyEntries);
        if (states.Distinct().Count() < states.Length)
        {
            throw new ModelFormatException($"{path}: {StatesKey} is {string.Join(',', states)}, want each name once") { File = path, Key = StatesKey };
        }
        DType wanted = optimizer.Pack.Values.DType;
        var expected = optimizer.Pack.Parameters.ToDictionary(p => "param." + p.Name, p => (p.Value.Shape, Type: wanted), StringComparer.Ordinal);
        foreach (string name in states)
        {
            foreach (Parameter p in optimizer.Pack.Parameters)
            {
                if (optimizer.SavedShape(name, p) is { } shape)
                {
                    expected.Add($"state.{name}.{p.Name}", (shape, optimizer.StateType(name) ?? wanted));
                }
            }
        }
        foreach ((string name, (Shape shape, DType stored)) in expected)
        {
            if (!file.TryGet(name, out SafeTensorsEntry? entry) || entry!.Shape != shape || !entry.Type.TryToDType(out DType type) || type != stored)
            {
                throw new ModelFormatException($"{path}: tensor '{name}' is {(entry is null ? "absent" : entry.ToString())}, want {stored}{shape}: resume with the model and method it was started with") { File = path, Key = name };
            }
        }
        if (file.Entries.FirstOrDefault(e => !expected.ContainsKey(e.Name)) is { } surplus)
        {
            throw new ModelFormatException($"{path}: tensor '{surplus.Name}' belongs to nothing that is trained here") { File = path, Key = surplus.Name };
        }
        foreach (Parameter p in optimizer.Pack.Parameters)
        {
            p.Value.SetRaw(file.Bytes("param." + p.Name));
        }
        optimizer.Restore(steps, states, (name, tensor) => tensor.SetRaw(file.Bytes("state." + name)));
        return state;
    }

    private static RunState Read(SafeTensorsFile file)
    {
        try
        {
            return JsonSerializer.Deserialize(Text(file, RunKey), CheckpointJson.Default.RunState) ?? throw new JsonException("it holds null");
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"{file.Name}: metadata '{RunKey}' cannot be read: {error.Message}", error) { File = file.Name, Key = RunKey };
        }
    }

    private static string Text(SafeTensorsFile file, string key) => file.Metadata.TryGetValue(key, out string? text) ? text
        : throw new ModelFormatException($"{file.Name}: there is no metadata '{key}', want a checkpoint of a training run") { File = file.Name, Key = key };
}
