namespace LowRank.Adapters;

/// <summary>How many components of a layer are left.</summary>
/// <param name="Path">The layer.</param>
/// <param name="Rank">Gates in all.</param>
/// <param name="Active">Gates that are not 0.</param>
/// <param name="Parameters">Elements of A and B in these components: Active·(in + out).</param>
public sealed record GateCount(string Path, int Rank, int Active, long Parameters);

/// <summary>The gates of SoRA: what <see cref="GatedAdamW"/> trains apart, counts them, and takes out what is dead.</summary>
public static class SoraGates
{
    /// <summary>The gate parameters.</summary>
    /// <exception cref="AdapterConfigException">The adapters have none.</exception>
    public static IReadOnlyList<Parameter> Parameters(AdaptedModel adapted) => [.. Of(adapted).Select(s => s.Gate)];

    /// <summary>What is left of each layer.</summary>
    /// <exception cref="AdapterConfigException">The adapters have no gates.</exception>
    /// <exception cref="InvalidOperationException">A gate is not finite: names the layer.</exception>
    public static IReadOnlyList<GateCount> Count(AdaptedModel adapted) => [.. Of(adapted).Select(s =>
    {
        double[] gates = s.Gates();
        int active = gates.Count(v => v != 0);
        return new GateCount(s.Path, gates.Length, active, (long)active * (s.Site.Inputs + s.Site.Outputs));
    })];

    /// <summary>Writes what is left as plain LoRA of the same outputs: A' = A[kept], B' = (B·diag(g))[:, kept] and the scale Alpha/r of the rank before; layers
    /// of which nothing is left are not among its targets. The adapters stay as they are, and so does what an optimiser keeps of them.</summary>
    /// <param name="adapted">Adapters of SoRA.</param>
    /// <param name="folder">Where a PEFT folder goes.</param>
    /// <param name="name">Name of the adapter, as <see cref="AdaptedModel.SavePeft"/> takes it.</param>
    /// <returns>Its settings.</returns>
    /// <exception cref="AdapterConfigException">The adapters have no gates, or none is left: there is no LoRA of rank 0.</exception>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public static LoraConfig Prune(AdaptedModel adapted, string folder, string name = PeftFolder.DefaultName)
    {
        var config = (SoraConfig)adapted.Config;
        using Scope scope = adapted.Model.Device.BeginScope();
        Dictionary<Adapter, (double[] A, double[] B, int Kept)> left = Of(adapted).ToDictionary(s => (Adapter)s, s => s.Pruned());
        (Adapter Adapter, int Kept)[] alive = [.. left.Where(p => p.Value.Kept > 0).Select(p => (p.Key, p.Value.Kept))];
        if (alive.Length == 0)
        {
            throw new AdapterConfigException("SoraGates: every gate of every layer is 0, want at least one to make a LoRA of");
        }
        double scale = config.Alpha / config.Rank;
        int most = alive.Max(l => l.Kept);
        var lora = new LoraConfig
        {
            Rank = most,
            Alpha = scale * most,
            Dropout = config.Dropout,
            RankPattern = alive.ToDictionary(l => l.Adapter.Path, l => (double)l.Kept),
            AlphaPattern = alive.ToDictionary(l => l.Adapter.Path, l => scale * l.Kept),
            Targets = [.. alive.Select(l => l.Adapter.Path)],
            ModulesToSave = config.ModulesToSave,
            BaseModel = config.BaseModel,
            Revision = config.Revision,
            TaskType = config.TaskType,
        };
        adapted.Save(folder, name, lora, adapter =>
        {
            (double[] a, double[] b, int kept) = left[adapter];
            return kept == 0 ? [] : [("lora_A.weight", scope.Of([kept, adapter.Site.Inputs], a, DType.F32)), ("lora_B.weight", scope.Of([adapter.Site.Outputs, kept], b, DType.F32))];
        });
        return lora;
    }

    private static Sora[] Of(AdaptedModel adapted) => adapted.Adapters.OfType<Sora>().ToArray() is { Length: > 0 } found ? found
        : throw new AdapterConfigException($"SoraGates: the adapters are {adapted.Config.GetType().Name}, want SoRA, whose components have gates");
}
