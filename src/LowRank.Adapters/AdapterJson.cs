using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Serializers of the configs, generated at build time so that nothing is looked up by reflection.</summary>
[JsonSerializable(typeof(LoraConfig))]
internal sealed partial class AdapterJson : JsonSerializerContext;
