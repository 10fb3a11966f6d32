using System.Text;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary>The status table: the catalogue's adapters, then what trains without one, what moves parameters, and what works on models or data as a whole.</summary>
internal static class MethodTable
{
    /// <summary>Every row.</summary>
    public static IReadOnlyList<MethodFacts> Rows { get; } =
    [
        .. AdapterCatalog.Methods.SelectMany(m => m.Facts),
        new("head only", MethodKind.Mode, "lora-core", ["training"], "golden"),
        new("full fine-tuning", MethodKind.Mode, "lora-core", ["training"], "golden"),
        new("AdamW", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("SGD", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("RMSprop", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("Adafactor", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("gated AdamW of SoRA", MethodKind.Optimizer, "sora", ["sora"], null),
        new("GaLore", MethodKind.Optimizer, "galore", ["galore"], null),
        new("8-bit AdamW", MethodKind.Optimizer, "galore", ["galore"], null),
        new("GaLore 8-bit", MethodKind.Optimizer, "galore", ["galore"], null),
        new("GaLore-Adafactor", MethodKind.Optimizer, "galore", ["galore"], null),
        new("LoRA-FA", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("Riemannian AdamW", MethodKind.Optimizer, "lora-core", ["training"], null),
        new("LoRA+", MethodKind.Optimizer, "lora-core", ["lora-core"], null),
        new("EoRA", MethodKind.Compression, "eora", ["eora"], "golden") { Cpu = "host", Emulated = "host", Cuda = "host", Merge = true, Peft = "write (LoRA)" },
        Merger("task arithmetic", ["concrete"], null),
        Merger("TIES", ["concrete", "mergekit"], null),
        Merger("DARE", ["mergekit"], null),
        Merger("Concrete", ["concrete"], "differences, golden"),
        Merger("AdaMerging", ["concrete"], "golden"),
        new("matrix completion", MethodKind.Solver, "matrix-completion", ["matrix-completion"], null),
    ];

    // Merging runs over tensors on the host, whatever the device.
    private static MethodFacts Merger(string name, string[] golden, string? gradient) =>
        new(name, MethodKind.Merging, "concrete", golden, gradient) { Cpu = "host", Emulated = "host", Cuda = "host" };

    /// <summary>A row as JSON: name, kind, sheet, golden, gradient, cpu, emulated, cuda, merge, peft.</summary>
    public static JsonObject Json(MethodFacts row) => new()
    {
        ["name"] = row.Name,
        ["kind"] = KindName(row),
        ["sheet"] = row.Sheet,
        ["golden"] = new JsonArray([.. row.Golden.Select(folder => (JsonNode)folder)]),
        ["gradient"] = row.Gradient,
        ["cpu"] = row.Cpu,
        ["emulated"] = row.Emulated,
        ["cuda"] = row.Cuda,
        ["merge"] = row.Merge,
        ["peft"] = row.Peft,
    };

    /// <summary>The table as the README shows it, each line ended.</summary>
    public static string Markdown()
    {
        StringBuilder text = new("| method | kind | sheet | golden cases | gradients held to | CPU | CUDA emulated | CUDA | merge | PEFT files |\n|---|---|---|---|---|---|---|---|---|---|\n");
        foreach (MethodFacts row in Rows)
        {
            string merge = row.Merge switch { true => "yes", false => "no", null => "–" };
            text.Append($"| {row.Name} | {KindName(row)} | {row.Sheet} | {string.Join(", ", row.Golden)} | {row.Gradient ?? "–"} | {row.Cpu} | {row.Emulated} | {row.Cuda} | {merge} | {row.Peft ?? "–"} |\n");
        }
        return text.ToString();
    }

    /// <summary>The architectures as the README shows them.</summary>
    public static string Models()
    {
        StringBuilder text = new("| model | heads held to golden outputs and gradients | heads without a golden case | generation | layers for adapters |\n|---|---|---|---|---|\n");
        foreach (ArchitectureFacts model in PretrainedModel.Facts)
        {
            string others = model.Others.Count == 0 ? "–" : string.Join(", ", model.Others);
            text.Append($"| {model.ModelType} | {string.Join(", ", model.Held)} | {others} | {(model.Generates ? "golden" : "–")} | {model.Adapts} |\n");
        }
        return text.ToString();
    }

    private static string KindName(MethodFacts row) => row.Kind switch
    {
        MethodKind.Adapter => "adapter",
        MethodKind.Mode => "training mode",
        MethodKind.Solver => "solver",
        MethodKind.Compression => "compression",
        MethodKind.Merging => "merging",
        _ => "optimiser",
    };
}
