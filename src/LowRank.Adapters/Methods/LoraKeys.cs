using System.Text.Json;

namespace LowRank.Adapters;

/// <summary>Keys of PEFT's LoraConfig that ask for variants of LoRA which are not built. At their defaults they are carried along; otherwise the
/// file is refused by name, because without them its numbers would mean something else.</summary>
internal static class LoraKeys
{
    private static readonly (string Key, string Default, string? Asks)[] Table =
    [
        ("alora_invocation_tokens", "null", "activated LoRA"),
        ("arrow_config", "null", "Arrow routing"),
        ("corda_config", "null", null),                      // read by an init only, which is refused itself
        ("kasa_config", "null", "KaSA"),
        ("lora_ga_config", "null", null),
        ("megatron_config", "null", "Megatron layers"),
        ("megatron_core", "\"megatron.core\"", null),        // read beside megatron_config only
        ("monteclora_config", "null", "MonteCLoRA"),
        ("qalora_group_size", "16", null),                   // read beside use_qalora only
        ("use_bdlora", "null", "block-diagonal LoRA"),
        ("use_qalora", "false", "QA-LoRA"),
        ("velora_config", "null", "VeLoRA"),
    ];

    public static IEnumerable<KeyValuePair<string, JsonElement>> Defaults { get; } = [.. Table.Select(row => KeyValuePair.Create(row.Key, Json.Element(row.Default)))];

    /// <exception cref="AdapterConfigException">A key asks for what is not built.</exception>
    public static void Refuse(LoraConfig config)
    {
        foreach ((string key, _, string? asks) in Table)
        {
            if (asks is not null && config.Other?.TryGetValue(key, out JsonElement value) == true && !IsOff(value))
            {
                throw new AdapterConfigException($"LoraConfig: {key} is {value.GetRawText()}, which asks for {asks}; that is not built here, want it absent");
            }
        }
    }

    /// <summary>Why an init of PEFT's is not offered.</summary>
    public static string WhyNot(string init) => init switch
    {
        "corda" => "corda needs a pass over the data",
        "lora_ga" => "lora_ga needs gradients of the base",
        "mica" => "mica is not built yet",
        _ => "this name is unknown",
    };

    private static bool IsOff(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Null or JsonValueKind.False => true,
        JsonValueKind.Array => value.GetArrayLength() == 0,
        JsonValueKind.Object => !value.EnumerateObject().Any(),
        _ => false,
    };
}
