namespace LowRank.Adapters;

public sealed partial class AdaptedModel
{
    /// <summary>Writes the adapters as plain LoRA, which PEFT and others read: the same W_eff, its factors spelled out (WaRA).</summary>
    /// <param name="folder">The folder; made where there is none.</param>
    /// <exception cref="AdapterConfigException">The method has no form of LoRA.</exception>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public void SaveLora(string folder)
    {
        AdapterConfig config = Config.Plain();
        if (config is not LoraConfig)
        {
            throw new AdapterConfigException($"SaveLora: {Config.Method} is no product of two factors, want SavePeft or Merge");
        }
        using Scope scope = Model.Device.BeginScope();
        Save(folder, PeftFolder.DefaultName, config, a => a.Saved(plain: true, scope));
    }
}
