using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>What a user chooses for an adapter. Names on disk are PEFT's.</summary>
public abstract record AdapterConfig([property: JsonPropertyName("peft_type")] string Method)
{
    /// <summary>Keys of a foreign adapter_config.json that no property claims: kept and written back.</summary>
    [JsonExtensionData]
    public Dictionary<string, JsonElement>? Other { get; set; }

    /// <summary>The adapter of one layer.</summary>
    public abstract Adapter Create(Site site, Rng rng);

    /// <summary>Trainable elements for a layer of [outputs, inputs].</summary>
    public abstract long ParameterCount(int outputs, int inputs);
}
