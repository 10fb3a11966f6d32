namespace LowRank.Adapters;

public sealed partial class AdaptedModel
{
    /// <summary>What the adapters have to say of how their settings were taken, or of what became of them: an odd rank, gates that are all 0.</summary>
    public IReadOnlyList<string> Remarks => [.. adapters.Select(a => a.Remark).OfType<string>().Distinct()];

    /// <summary>The deltas W_eff - W by layer, of methods whose deltas are sparse.</summary>
    /// <exception cref="AdapterConfigException">The method's are not.</exception>
    public IReadOnlyDictionary<string, SparseDelta> SparseDeltas()
    {
        Dictionary<string, SparseDelta> deltas = new(StringComparer.Ordinal);
        foreach (Adapter adapter in adapters)
        {
            using Scope scope = Model.Device.BeginScope();
            Tensor delta = adapter.SparseDelta() ?? throw new AdapterConfigException($"SparseDeltas: the delta of {Config.Method} on {adapter.Path} has no zeros to leave out, want a method such as SNELL");
            deltas.Add(adapter.Path, SparseDelta.Of(delta.Shape, delta.ToDoubles()));
        }
        return deltas;
    }
}
