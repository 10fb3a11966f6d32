using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Serializers of the configs and of lowrank.json's part, generated at build time so that nothing is looked up by reflection.</summary>
[JsonSerializable(typeof(LoraConfig))]
[JsonSerializable(typeof(LohaConfig))]
[JsonSerializable(typeof(LokrConfig))]
[JsonSerializable(typeof(VeraConfig))]
[JsonSerializable(typeof(Ia3Config))]
[JsonSerializable(typeof(LnTuningConfig))]
[JsonSerializable(typeof(TrainableTokensConfig))]
[JsonSerializable(typeof(RandLoraConfig))]
[JsonSerializable(typeof(LocaConfig))]
[JsonSerializable(typeof(WaraConfig))]
[JsonSerializable(typeof(SaltConfig))]
[JsonSerializable(typeof(SlTrainConfig))]
[JsonSerializable(typeof(SnellConfig))]
[JsonSerializable(typeof(SoraConfig))]
[JsonSerializable(typeof(BaseFingerprint))]
internal sealed partial class AdapterJson : JsonSerializerContext;
