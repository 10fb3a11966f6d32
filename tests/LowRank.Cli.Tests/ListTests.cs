using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>The commands that show what there is: inspect, devices, methods, ops.</summary>
[Collection(ConsoleTests.Name)]
public sealed class ListTests : IDisposable
{
    private static readonly string[] MethodKeys = ["name", "kind", "sheet", "golden", "gradient", "cpu", "emulated", "cuda", "merge", "peft"];
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-list").FullName;

    public static TheoryData<string> Methods => [.. MethodTable.Rows.Select(r => r.Name)];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void Inspect_shows_a_model_with_its_memory()
    {
        string path = Path.Combine(folder, "model");
        Cli.SaveModel(path, classes: 3);
        JsonNode found = Cli.Done("inspect", path, "--json").Json;
        Assert.Equal("model", found["kind"]!.GetValue<string>());
        Assert.Equal("vit", found["architecture"]!.GetValue<string>());
        Assert.Equal(3, found["classes"]!.GetValue<int>());
        using Device device = Device.Cpu();
        using PretrainedModel model = PretrainedModel.Load(path, device);
        long elements = model.Parameters.Values.Sum(p => p.Value.Shape.Count);
        Assert.Equal(elements, found["parameters"]!.GetValue<long>());
        Assert.Equal(4 * elements, found["bytes"]!.GetValue<long>());
        Assert.Equal("pt", found["metadata"]!["format"]!.GetValue<string>());
        Dictionary<string, long> modes = ((JsonArray)found["resident"]!).ToDictionary(m => m!["mode"]!.GetValue<string>(), m => m!["bytes"]!.GetValue<long>());
        Assert.Equal(model.ResidentBytes.Total, modes["f32 frozen, packed"]);
        Assert.Equal(4 * elements, modes["f32 frozen, rows"]);
        Assert.Equal(16 * elements, modes["f32 training every weight"]);
        Assert.True(modes["bf16 frozen, rows"] < modes["f32 frozen, rows"]);
        JsonNode first = ((JsonArray)found["tensors"]!).Single(t => t!["name"]!.GetValue<string>() == "classifier.weight")!;
        Assert.Equal("F32 [3,16] 192", $"{first["dtype"]} {first["shape"]!.ToJsonString()} {first["bytes"]}");
        string text = Cli.Done("inspect", path).Output;
        Assert.Contains("classifier.weight", text, StringComparison.Ordinal);
        Assert.Contains("resident, f32 frozen, packed", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Inspect_shows_an_adapter_with_its_settings()
    {
        JsonNode found = Cli.Done("inspect", Golden.Find("peft/dora_basic")!, "--json").Json;
        Assert.Equal("adapter", found["kind"]!.GetValue<string>());
        Assert.Equal("LORA", found["method"]!.GetValue<string>());
        Assert.Equal("[\"DoRA\"]", found["variants"]!.ToJsonString());
        using PeftFolder adapter = PeftFolder.Open(Golden.Find("peft/dora_basic")!);
        Assert.Equal(((LoraConfig)adapter.Config).Rank, found["rank"]!.GetValue<int>());
        Assert.Equal(adapter.Config.Targets!.Order(StringComparer.Ordinal), ((JsonArray)found["targets"]!).Select(t => t!.GetValue<string>()));
        Assert.Equal(adapter.Tensors.Entries.Sum(e => e.Count), found["parameters"]!.GetValue<long>());
        Assert.Equal(adapter.Tensors.Entries.Count, ((JsonArray)found["tensors"]!).Count);
    }

    [Fact]
    public void Inspect_shows_any_tensors_and_refuses_what_is_none()
    {
        string file = Golden.Find("lora-core/lora_generic_17x24.safetensors")!;
        JsonNode found = Cli.Done("inspect", file, "--json").Json;
        Assert.Equal("tensors", found["kind"]!.GetValue<string>());
        Assert.Equal("lora_generic_17x24", found["metadata"]!["case"]!.GetValue<string>());
        Cli.Fails(ExitCode.Usage, ["nowhere is neither a file nor a folder"], "inspect", "nowhere");
        File.WriteAllBytes(Path.Combine(folder, "pickle.bin"), [0x80, 2, (byte)'}', (byte)'q', 0, 0, 0, 0, 0, 0]);
        Cli.Fails(ExitCode.Usage, ["pickle", "Convert it"], "inspect", Path.Combine(folder, "pickle.bin"));
        Directory.CreateDirectory(Path.Combine(folder, "broken"));
        File.WriteAllText(Path.Combine(folder, "broken", "config.json"), "{\"model_type\": ");
        Cli.Fails(ExitCode.Usage, ["config.json"], "inspect", Path.Combine(folder, "broken"));
    }

    [Fact]
    public void Inspect_shows_shards_as_one()
    {
        using (SafeTensorsFile whole = SafeTensorsFile.Open(Golden.Find("lora-core/lora_generic_17x24.safetensors")!))
        {
            using Device device = Device.Cpu();
            using Scope scope = device.BeginScope();
            SafeTensorsIndex.Save(folder, [.. whole.Entries.Select(e => TensorData.Of(e.Name, whole.Load(e.Name, scope)))], shardBytes: 2000);
            Assert.True(Directory.GetFiles(folder, "*.safetensors").Length > 1);
            JsonNode found = Cli.Done("inspect", folder, "--json").Json;
            Assert.Equal("tensors", found["kind"]!.GetValue<string>());
            Assert.Equal(whole.Entries.Sum(e => e.Length), found["bytes"]!.GetValue<long>());
            Assert.Equal(whole.Entries.Count, ((JsonArray)found["tensors"]!).Count);
        }
    }

    [Fact]
    public void Devices_are_named_with_isa_and_memory()
    {
        JsonArray found = (JsonArray)Cli.Done("devices", "--json").Json;
        DeviceInfo cpu = DeviceList.Present()[0];
        Assert.Equal(["name", "kind", "isa", "memory"], ((JsonObject)found[0]!).Select(p => p.Key));
        Assert.Equal($"cpu cpu {cpu.Isa}", $"{found[0]!["name"]} {found[0]!["kind"]} {found[0]!["isa"]}");
        Assert.True(found[0]!["memory"]!.GetValue<long>() > 1 << 20);
        Assert.Contains(cpu.Isa, Cli.Done("devices").Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_op_of_the_catalogue_is_listed() =>
        Assert.Equal(OpCatalog.All.Select(op => op.GetType().Name), ((JsonArray)Cli.Done("ops", "--json").Json).Select(o => o!["name"]!.GetValue<string>()));

    [Theory, MemberData(nameof(Methods))]
    public void A_method_says_what_is_true_of_it(string name)
    {
        MethodFacts row = MethodTable.Rows.Single(r => r.Name == name);
        JsonObject json = ((JsonArray)Cli.Done("methods", "--json").Json).OfType<JsonObject>().Single(m => m["name"]!.GetValue<string>() == name);
        Assert.Equal(MethodKeys, json.Select(p => p.Key));
        // required.txt holds the tests to a case with its name in each folder that it names.
        string mark = name switch { "full fine-tuning" => "full", "AdamW" => "dora_vit", "LoRA+" => "loraplus", "LoRA-FA" => "lorafa", "GaLore" => "adamw", "Riemannian AdamW" => "riemannian", _ => name.Replace(' ', '_') };
        mark = name switch { "8-bit AdamW" => "q8_maps", "GaLore 8-bit" => "adam8bit", "GaLore-Adafactor" => "adafactor", _ => mark };
        Assert.NotEmpty(row.Golden);
        foreach (string goldens in row.Golden)
        {
            string part = goldens == row.Sheet && row.Sheet is not ("lora-core" or "galore" or "concrete") ? "" : mark;     // "": every case of the folder is the method's
            Assert.Contains(Golden.Required, id => id.StartsWith(goldens + "/", StringComparison.Ordinal) && id.Contains(part, StringComparison.OrdinalIgnoreCase));
        }
        Assert.Equal(row.Kind is MethodKind.Adapter or MethodKind.Compression, row.Merge is not null);
        Assert.Contains($"| {name} | {json["kind"]} | {row.Sheet} | {string.Join(", ", row.Golden)} |", Cli.Done("methods", "--markdown").Output, StringComparison.Ordinal);
        Assert.Contains(name, Cli.Done("methods").Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_built_method_has_rows() => Assert.All(AdapterCatalog.Methods, m => Assert.NotEmpty(m.Facts));

    [Fact]
    public void The_readme_shows_the_tables_of_methods_and_models()
    {
        string readme = File.ReadAllText(Path.Combine(Golden.Repository, "README.md"));
        Assert.Contains(MethodTable.Markdown().Trim(), readme, StringComparison.Ordinal);
        Assert.Contains(MethodTable.Models().Trim(), readme, StringComparison.Ordinal);
    }

    [Fact]
    public void Kernels_are_listed_with_what_the_compiler_says()
    {
        JsonObject[] kernels = [.. ((JsonArray)Cli.Done("kernels", "--json").Json).OfType<JsonObject>()];
        Assert.Equal(["name", "file", "type", "threads", "row", "gpu", "builds", "notes"], kernels[0].Select(p => p.Key));
        Assert.Equal(3, kernels.Count(k => $"{k["name"]}" == "gemm"));
        Assert.All(kernels, k => Assert.NotEmpty($"{k["row"]}"));
        JsonObject hopper = kernels.First(k => $"{k["name"]}" == "lora_forward_128x256_r16" && $"{k["type"]}" == "BF16");
        Assert.Equal(CudaKernelList.NvrtcVersion is null ? [] : ["sm_90a"], ((JsonArray)hopper["builds"]!).Select(b => $"{b!["architecture"]}"));
        Assert.All(kernels.SelectMany(k => (JsonArray)k["builds"]!), b => Assert.True(b!["registers"]!.GetValue<int>() > 0 && b["spills"]!.GetValue<int>() == 0));
    }

    [Fact]
    public void The_readme_shows_the_table_of_kernels_whatever_the_compiler_here()
    {
        string readme = File.ReadAllText(Path.Combine(Golden.Repository, "README.md"));
        foreach (string line in KernelTable.Markdown().Split('\n', StringSplitOptions.RemoveEmptyEntries).Where(line => line.Contains('`', StringComparison.Ordinal)))
        {
            // Registers and spills are those of the NVRTC that the heading names.
            string known = string.Join(" | ", line.Split(" | ")[..^KernelTable.CompilerColumns]) + " | ";
            Assert.Contains(known, readme, StringComparison.Ordinal);
        }
    }
}
