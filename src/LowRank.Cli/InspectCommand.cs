using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary><c>lowrank inspect</c>: what lies in a file or folder, without computing.</summary>
internal static class InspectCommand
{
    public static Command Create()
    {
        Argument<string> path = new("path") { Description = "A safetensors file, a model folder (one file or shards), or an adapter folder in PEFT's format." };
        var json = CommonOptions.Json();
        var command = new Command("inspect", "Show tensors, parameters, method and memory of a model, an adapter or a safetensors file.") { path, json };
        command.SetAction(parsed =>
        {
            JsonObject found = Inspection.Of(parsed.GetValue(path)!);
            if (parsed.GetValue(json))
            {
                Output.Json(found);
            }
            else
            {
                Print(found);
            }
            return ExitCode.Done;
        });
        return command;
    }

    private static void Print(JsonObject found)
    {
        JsonObject facts = [];
        foreach ((string key, JsonNode? value) in found)
        {
            if (value is not null && key is not ("tensors" or "resident"))
            {
                facts[key] = value is JsonObject table ? string.Join(", ", table.Select(p => $"{p.Key}={ModelFormatException.Quote(p.Value?.ToString() ?? "null")}")) : value.DeepClone();
            }
        }
        if (found["resident"] is JsonArray modes)
        {
            foreach (JsonObject mode in modes.OfType<JsonObject>())
            {
                facts[$"resident, {mode["mode"]}"] = string.Create(CultureInfo.InvariantCulture, $"{mode["bytes"]!.GetValue<long>():N0} bytes");
            }
        }
        Output.Facts(facts, json: false);
        Output.Line();
        Output.Rows([.. ((JsonArray)found["tensors"]!).OfType<JsonObject>().Select(t => new JsonObject
        {
            ["tensor"] = t["name"]!.DeepClone(),
            ["dtype"] = t["dtype"]!.DeepClone(),
            ["shape"] = $"[{string.Join(", ", (JsonArray)t["shape"]!)}]",
            ["bytes"] = t["bytes"]!.DeepClone(),
        })], json: false);
    }
}
