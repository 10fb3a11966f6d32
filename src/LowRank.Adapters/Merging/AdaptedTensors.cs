using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>A model's tensors with a LoRA merged into them as they are read, W + s·B·A in float64: no network is built, and memory is that of a tensor.</summary>
internal static class AdaptedTensors
{
    private const string Prefix = "base_model.model.", A = ".lora_A.weight", B = ".lora_B.weight";

    /// <summary>The model of <paramref name="source"/>, which is closed with the result, under the adapter of a folder.</summary>
    public static MergedTensors Over(TensorSource source, string folder)
    {
        PeftFolder? adapter = null;
        try
        {
            adapter = PeftFolder.Open(folder);
            LoraConfig config = Plain(adapter);
            Dictionary<string, string> modules = [];
            foreach (SafeTensorsEntry entry in adapter.Tensors.Entries)
            {
                string key = entry.Name.StartsWith(Prefix, StringComparison.Ordinal) ? entry.Name[Prefix.Length..] : entry.Name;
                if (key.EndsWith(A, StringComparison.Ordinal))
                {
                    modules.Add(key[..^A.Length] + ".weight", entry.Name[..^A.Length]);
                }
                else if (!key.EndsWith(B, StringComparison.Ordinal))
                {
                    throw Bad(adapter, $"has {entry.Name}");
                }
            }
            if (modules.Keys.FirstOrDefault(m => !source.Contains(m)) is { } stranger)
            {
                throw new ModelFormatException($"{adapter.Path} changes {stranger}, which {source.Name} has not; want an adapter of this model") { File = adapter.Path, Key = stranger };
            }
            return new MergedTensors($"{source.Name}+{folder}", source.Entries, e => modules.TryGetValue(e.Name, out string? module) ? Merged(source, adapter, config, e, module) : source.Bytes(e.Name).ToArray(), source, adapter);
        }
        catch
        {
            adapter?.Dispose();
            source.Dispose();
            throw;
        }
    }

    private static byte[] Merged(TensorSource source, PeftFolder adapter, LoraConfig config, SafeTensorsEntry entry, string module)
    {
        HostMatrix Factor(string name) => adapter.Tensors[name].Dimensions is [var rows, var cols] ? new(MergedTensors.Read(adapter.Tensors, name), (int)rows, (int)cols) : throw Bad(adapter, $"has {name} as {adapter.Tensors[name]}");
        HostMatrix a = Factor(module + A), b = Factor(module + B);
        string path = entry.Name[..^".weight".Length];
        double alpha = TargetRules.PatternKey(config.AlphaPattern.Keys, path) is { } key ? config.AlphaPattern[key] : config.Alpha;
        HostMatrix delta = b.Times(a).Scaled(alpha / (config.RankStabilized ? Math.Sqrt(a.Rows) : a.Rows));
        delta = config.FanInFanOut ? delta.Transposed() : delta;
        if (!entry.Dimensions.SequenceEqual([(long)delta.Rows, delta.Cols]))
        {
            throw new ModelFormatException($"{adapter.Path}: the change of {entry.Name} is [{delta.Rows}, {delta.Cols}], want {entry}: an adapter of this model") { File = adapter.Path, Key = entry.Name };
        }
        double[] values = MergedTensors.Read(source, entry.Name);
        MergeRules.Add(values, 1, delta.Values);
        return MergedTensors.Rounded(values, entry.Type);
    }

    private static LoraConfig Plain(PeftFolder adapter) => adapter.Config is LoraConfig { Dora: false, LoraBias: false, Bias: "none" } config && (config.Init == LoraInit.Default || config.Init == LoraInit.None || config.Init == LoraInit.Gaussian)
        ? config
        : throw Bad(adapter, $"is {adapter.Config.Method} with more than A and B, or changes its base at the start");

    private static ModelFormatException Bad(PeftFolder adapter, string what) =>
        new($"{adapter.Path} {what}, want plain LoRA on linear layers to merge by names alone: merge it first with lowrank export") { File = adapter.Path };
}
