using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>A LoRA of what fine-tuning did to a model, from file to file.</summary>
public static class LoraExtraction
{
    private const string Weight = ".weight", Prefix = "base_model.model.";

    /// <summary>Of every matrix in a layer, the leading singular values of W - W₀ as B·A with √S on both sides, s = 1; what is no such matrix is kept whole,
    /// as PEFT keeps modules_to_save.</summary>
    /// <param name="start">W₀.</param>
    /// <param name="tuned">W, of the same tensors.</param>
    /// <param name="rank">Of each pair; no more than a matrix has rows and columns.</param>
    /// <param name="folder">For the adapter; made where there is none.</param>
    /// <param name="baseModel">The base's name in the settings.</param>
    /// <returns>Share of ‖W - W₀‖² over all matrices that the pairs hold.</returns>
    /// <exception cref="AdapterConfigException">The rank does not fit a matrix, or there is none.</exception>
    /// <exception cref="ModelFormatException">The models have other tensors or shapes, or one has NaN or infinity.</exception>
    /// <exception cref="IOException">The folder cannot be written.</exception>
    public static double Extract(TensorSource start, TensorSource tuned, int rank, string folder, string? baseModel = null)
    {
        using var vectors = new TaskVectors(start, [tuned]);       // the same tensors, in the same shapes
        List<TensorData> tensors = [];
        List<string> targets = [], whole = [];
        double held = 0, all = 0;
        foreach (string name in vectors.Names)
        {
            SafeTensorsEntry entry = tuned[name];
            string module = name.EndsWith(Weight, StringComparison.Ordinal) ? name[..^Weight.Length] : name, last = module[(module.LastIndexOf('.') + 1)..];
            if (entry.Dimensions.Count != 2 || ModelLayers.Of(name) is null || module == name)
            {
                whole.Add(last);
                tensors.Add(TensorData.Of(Prefix + name, entry.Shape, tuned.ReadSingle(name)));
                continue;
            }
            (int rows, int cols) = ((int)entry.Dimensions[0], (int)entry.Dimensions[1]);
            if (rank < 1 || rank > Math.Min(rows, cols))
            {
                throw new AdapterConfigException($"LoraExtraction: the rank is {rank}, want 1 .. {Math.Min(rows, cols)} for {name} {entry}");
            }
            double[] moved = MergedTensors.Read(tuned, name);
            MergeRules.Add(moved, -1, MergedTensors.Read(start, name));
            var change = new HostMatrix(moved, rows, cols);
            (HostMatrix a, HostMatrix b) = change.Truncated(rank);
            for (int k = 0; k < rank; k++)
            {
                double value = Math.Sqrt(Enumerable.Range(0, rows).Sum(i => b.Values[(i * rank) + k] * b.Values[(i * rank) + k])), root = Math.Sqrt(value);
                held += value * value;
                foreach (ref double v in a.Row(k))
                {
                    v *= root;
                }
                for (int i = 0; i < rows && root > 0; i++)
                {
                    b.Values[(i * rank) + k] /= root;
                }
            }
            all += MergeRules.Dot(change.Values, change.Values);
            targets.Add(last);
            tensors.Add(TensorData.Of($"{Prefix}{module}.lora_A.weight", [rank, cols], Array.ConvertAll(a.Values, v => (float)v)));
            tensors.Add(TensorData.Of($"{Prefix}{module}.lora_B.weight", [rows, rank], Array.ConvertAll(b.Values, v => (float)v)));
        }
        if (targets.Count == 0)
        {
            throw new AdapterConfigException($"LoraExtraction: {tuned.Name} has no matrix in a layer, want a model of layers");
        }
        var config = new LoraConfig { Rank = rank, Alpha = rank, Targets = Names.Of([.. targets.Distinct()]), ModulesToSave = whole.Count > 0 ? [.. whole.Distinct()] : null, BaseModel = baseModel };
        PeftFolder.Save(folder, config, tensors);
        return all > 0 ? held / all : 1;
    }
}
