namespace LowRank.Adapters;

public sealed partial class AdaptedModel
{
    private bool released;

    /// <summary>True where every adapter computes without its layer's weight: <see cref="ReleaseBase"/> is possible.</summary>
    public bool ReplacesBase => adapters.TrueForAll(a => a.ReplacesBase);

    /// <summary>Frees the weights that the adapters stand in for, as pre-training with SLTrain wants it: from now on the model is nothing without them. They
    /// cannot be disabled, <see cref="Merge"/> makes dense weights anew until <see cref="Unmerge"/>, and disposing leaves the layers without weights.</summary>
    /// <exception cref="InvalidOperationException">The method reads the weights, a weight serves another layer too, or the adapters are merged or disabled;
    /// nothing is freed.</exception>
    public void ReleaseBase()
    {
        if (!Enabled || Merged)
        {
            throw new InvalidOperationException($"ReleaseBase: the adapters are {(Enabled ? "merged" : "disabled")}, want them in place; call {(Enabled ? "Unmerge" : "Enable")} first");
        }
        foreach (Adapter adapter in adapters)
        {
            if (!adapter.ReplacesBase)
            {
                throw new InvalidOperationException($"ReleaseBase: {Config.Method} on {adapter.Site.Path} computes with the layer's weight, want a method that replaces it, such as SLTRAIN");
            }
            if (Model.Sites.FirstOrDefault(s => s != adapter.Site && s.Weight.Value == adapter.Site.Weight.Value) is { } other)
            {
                throw new InvalidOperationException($"ReleaseBase: {other.Path} has the weight of {adapter.Site.Path}, want layers whose weights are their own");
            }
        }
        foreach (Adapter adapter in released ? [] : adapters)
        {
            Model.Store.Free(adapter.Site.Weight.Value);
        }
        released = true;
    }

    private void RequireBase(string what)
    {
        if (released)
        {
            throw new InvalidOperationException($"{what}: the weights that {Config.Method} replaces were freed by ReleaseBase, want them kept, or the model loaded again");
        }
    }
}
