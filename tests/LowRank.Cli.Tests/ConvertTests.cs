using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Models and adapters in another form: types, shards, plain LoRA, merged and back; and what they are inspected as.</summary>
[Collection(ConsoleTests.Name)]
public sealed class ConvertTests : IDisposable
{
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-convert").FullName;

    /// <summary>Every adapter folder that PEFT wrote for the goldens here.</summary>
    public static TheoryData<string> Adapters =>
        [.. Directory.GetDirectories(Path.Combine(Golden.Repository, "tests", "golden", "peft")).Where(d => File.Exists(Path.Combine(d, PeftFolder.ConfigFile))).Select(Path.GetFileName).OfType<string>().Order(StringComparer.Ordinal)];

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void A_model_is_the_same_in_shards()
    {
        string model = Cli.SaveDecoder(At("model"));
        JsonNode done = Cli.Done("convert", "--model", model, "--output", At("shards"), "--shard-bytes", "60000", "--json").Json;
        Assert.Equal(Directory.GetFiles(At("shards"), "*.safetensors").Length, done["files"]!.GetValue<int>());
        Assert.True(done["files"]!.GetValue<int>() > 3);
        Assert.Equal(Fingerprint(model), Fingerprint(At("shards")));
        Assert.Equal(File.ReadAllBytes(Path.Combine(model, "config.json")), File.ReadAllBytes(Path.Combine(At("shards"), "config.json")));
        Assert.Equal(Continued(model), Continued(At("shards")));
        Cli.Done("convert", "--model", At("shards"), "--output", At("whole"));
        Assert.True(File.ReadAllBytes(Path.Combine(model, "model.safetensors")).Length == File.ReadAllBytes(Path.Combine(At("whole"), "model.safetensors")).Length);
        Assert.Equal(Fingerprint(model), Fingerprint(At("whole")));
    }

    [Theory, InlineData("bf16", "bfloat16", DType.BF16), InlineData("f16", "float16", DType.F16)]
    public void A_model_in_another_type_holds_its_rounded_values(string word, string inConfig, DType type)
    {
        string model = Cli.SaveDecoder(At("model"));
        Cli.Done("convert", "--model", model, "--output", At("small"), "--type", word);
        Assert.Equal(inConfig, JsonNode.Parse(File.ReadAllText(Path.Combine(At("small"), "config.json")))!["dtype"]!.GetValue<string>());
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        using TensorSource before = TensorSource.Open(model), after = TensorSource.Open(At("small"));
        Assert.Equal(before.Entries.Count, after.Entries.Count);
        Assert.All(before.Entries, e => Assert.Equal(before.Load(e.Name, scope, type).ToBytes(), after.Bytes(e.Name)));
        // What is small already is exact when it is wide again.
        Cli.Done("convert", "--model", At("small"), "--output", At("wide"), "--type", "f32");
        Cli.Done("convert", "--model", At("wide"), "--output", At("again"), "--type", word);
        Assert.Equal(Fingerprint(At("small")), Fingerprint(At("again")));
    }

    [Fact]
    public void Integers_stay_as_they_are()
    {
        string model = At("model");
        Directory.CreateDirectory(model);
        File.WriteAllText(Path.Combine(model, "config.json"), "{\"model_type\":\"unknown-here\",\"torch_dtype\":\"float32\",\"more\":[1]}");
        SafeTensorsFile.Save(Path.Combine(model, "model.safetensors"), [TensorData.Of("ids", [2], (long[])[3, 1L << 40]), TensorData.Of("w", [2], (float[])[1, 3.14159f])]);
        Cli.Done("convert", "--model", model, "--output", At("small"), "--type", "bf16");
        using TensorSource after = TensorSource.Open(At("small"));
        Assert.Equal([3, 1L << 40], after.ReadInt64("ids"));
        Assert.Equal([1, 3.140625f], after.ReadSingle("w"));
        Assert.Equal("{\"model_type\":\"unknown-here\",\"more\":[1],\"dtype\":\"bfloat16\"}", JsonNode.Parse(File.ReadAllText(Path.Combine(At("small"), "config.json")))!.ToJsonString());
    }

    [Theory, InlineData("lora"), InlineData("rslora")]
    public void A_merged_model_gives_its_bfloat16_base_back(string method)
    {
        string wide = Cli.SaveDecoder(At("wide")), model = At("model");
        Cli.Done("convert", "--model", wide, "--output", model, "--type", "bf16");
        Train(model, method);
        Cli.Done("merge", "--model", model, "--adapter", At("adapter"), "--merged", At("merged"), "--shard-bytes", "60000");
        Assert.NotEqual(Fingerprint(model), Fingerprint(At("merged")));
        CliResult result = Cli.Done("unmerge", "--merged", At("merged"), "--adapter", At("adapter"), "--output", At("base"), "--type", "bf16", "--json");
        Assert.Equal("14 True ", $"{result.Json["layers"]} {result.Json["is_base"]!.GetValue<bool>()} {result.Error}");
        Assert.Equal(Fingerprint(model), Fingerprint(At("base")));
    }

    [Fact]
    public void What_an_adapter_was_not_merged_into_is_not_its_base()
    {
        string model = Cli.SaveDecoder(At("model"));
        Train(model, "lora");
        CliResult result = Cli.Done("unmerge", "--merged", model, "--adapter", At("adapter"), "--output", At("base"), "--json");
        Assert.False(result.Json["is_base"]!.GetValue<bool>());
        Assert.Contains("was it merged into this model?", result.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_method_whose_delta_hangs_on_the_weight_is_not_taken_out()
    {
        string model = Cli.SaveDecoder(At("model"));
        Train(model, "dora");
        Cli.Done("export", "--model", model, "--adapter", At("adapter"), "--merged", At("merged"));
        Cli.Fails(ExitCode.Failed, ["cannot be taken out of a merged weight", "want the base model's own folder"], "unmerge", "--merged", At("merged"), "--adapter", At("adapter"), "--output", At("base"));
        Assert.False(Directory.Exists(At("base")));
    }

    [Fact]
    public void An_adapter_that_changed_its_base_becomes_plain_lora()
    {
        string model = Cli.SaveDecoder(At("model"));
        using (Device device = Device.Cpu())
        {
            using PretrainedModel loaded = PretrainedModel.Load(model, device);
            using AdaptedModel adapted = loaded.Attach(new LoraConfig { Rank = 4, Init = LoraInit.Olora, Targets = ["q_proj", "v_proj"], BaseModel = model });
            var rng = new Rng(2);
            foreach (Parameter p in adapted.Parameters)
            {
                float[] values = p.Value.ToArray(), moved = new float[values.Length];
                rng.Fork(p.Name).FillUniform(moved, 0, 0.1f);
                p.Value.Set([.. values.Zip(moved, (v, m) => v + m)]);
            }
            adapted.SavePeft(At("olora"), keepInit: true);
        }
        Cli.Done("convert", "--adapter", At("olora"), "--output", At("plain"));
        JsonNode before = Cli.Done("inspect", At("olora"), "--json").Json, after = Cli.Done("inspect", At("plain"), "--json").Json;
        Assert.Equal("[\"init olora\"]", before["variants"]!.ToJsonString());
        Assert.Equal("[]", after["variants"]!.ToJsonString());
        Assert.Equal((4, 8), (before["rank"]!.GetValue<int>(), after["rank"]!.GetValue<int>()));
        foreach (string adapter in (string[])["olora", "plain"])
        {
            Cli.Done("export", "--model", model, "--adapter", At(adapter), "--merged", At(adapter + "-merged"));
        }
        using TensorSource a = TensorSource.Open(At("olora-merged")), b = TensorSource.Open(At("plain-merged")), was = TensorSource.Open(model);
        foreach (SafeTensorsEntry e in a.Entries)
        {
            Close.Check(b.ReadDouble(e.Name), a.ReadDouble(e.Name), Close.Layer, e.Name);
        }
        Assert.NotEqual(was.ReadSingle("model.layers.0.self_attn.q_proj.weight"), a.ReadSingle("model.layers.0.self_attn.q_proj.weight"));
    }

    [Theory, MemberData(nameof(Adapters))]
    public void An_adapter_of_any_type_is_inspected(string name)
    {
        string path = Golden.Find("peft/" + name)!;
        JsonNode found = Cli.Done("inspect", path, "--json").Json;
        JsonNode settings = JsonNode.Parse(File.ReadAllText(Path.Combine(path, PeftFolder.ConfigFile)))!;
        Assert.Equal(settings["peft_type"]!.GetValue<string>(), found["method"]!.GetValue<string>());
        using SafeTensorsFile tensors = SafeTensorsFile.Open(Path.Combine(path, PeftFolder.ModelFile));
        Assert.Equal(tensors.Entries.Count, found["tensors"]!.AsArray().Count);
    }

    [Fact]
    public void An_adapter_of_a_type_that_is_not_built_says_so()
    {
        string path = At("bone");
        Directory.CreateDirectory(path);
        File.WriteAllText(Path.Combine(path, "adapter_config.json"), "{\"peft_type\":\"BONE\",\"r\":3,\"target_modules\":[\"v\",\"q\"]}");
        SafeTensorsFile.Save(Path.Combine(path, "adapter_model.safetensors"), [TensorData.Of("q.bone", [2], (float[])[1, 2])]);
        JsonNode found = Cli.Done("inspect", path, "--json").Json;
        Assert.Equal("BONE 3 [\"q\",\"v\"] 2", $"{found["method"]} {found["rank"]} {found["targets"]!.ToJsonString()} {found["parameters"]}");
        Assert.Contains("BONE, a method of PEFT's that is not built here yet", found["trouble"]!.GetValue<string>(), StringComparison.Ordinal);
        File.WriteAllText(Path.Combine(path, "adapter_config.json"), "{\"peft_type\":\"NONE\"}");
        Cli.Fails(ExitCode.Usage, ["'NONE', which is no method of PEFT's"], "inspect", path);
    }

    [Fact]
    public void A_tokenizer_is_inspected_and_one_of_an_unknown_kind_is_named()
    {
        string model = Cli.SaveEncoder(At("model")), file = Path.Combine(model, Tokenizer.FileName);
        Assert.Equal("{\"kind\":\"WordPiece\",\"ids\":900}", Cli.Done("inspect", model, "--json").Json["tokenizer"]!.ToJsonString());
        JsonNode tokenizer = JsonNode.Parse(File.ReadAllText(file))!;
        tokenizer["model"]!["type"] = "WordLevel";
        File.WriteAllText(file, tokenizer.ToJsonString());
        JsonNode found = Cli.Done("inspect", model, "--json").Json["tokenizer"]!;
        Assert.Equal("WordLevel", found["kind"]!.GetValue<string>());
        Assert.Contains("'WordLevel', want one of WordPiece, BPE, Unigram", found["trouble"]!.GetValue<string>(), StringComparison.Ordinal);
        File.WriteAllText(At("lines.txt"), "snow\n");
        Cli.Fails(ExitCode.Usage, ["'WordLevel', want one of WordPiece, BPE, Unigram"], "embed", "--model", model, "--input", At("lines.txt"), "--output", At("e.npy"));
    }

    [Fact]
    public void Words_that_contradict_each_other_are_named()
    {
        string model = Cli.SaveDecoder(At("model"));
        Cli.Fails(ExitCode.Usage, ["neither --model nor --adapter"], "convert", "--output", At("out"));
        Cli.Fails(ExitCode.Usage, ["--type is for models"], "convert", "--adapter", "x", "--type", "f16", "--output", At("out"));
        Cli.Fails(ExitCode.Usage, ["type is f8, want f32, f16 or bf16"], "convert", "--model", model, "--type", "f8", "--output", At("out"));
        Cli.Fails(ExitCode.Usage, ["output is", "want another folder"], "convert", "--model", model, "--output", model);
        Assert.False(Directory.Exists(At("out")));
    }

    private void Train(string model, string method)
    {
        File.WriteAllLines(At("lines.txt"), Enumerable.Range(0, 12).Select(i => $"snow and ice {i}"));
        Cli.Done("train", "--model", model, "--task", "causal-lm", "--data", At("lines.txt"), "--method", method, "--epochs", "4", "--rank", "2", "--max-tokens", "16", "--output", At("adapter"), "--quiet");
    }

    private static string Continued(string model) => Cli.Done("generate", "--model", model, "--prompt", "snow", "--max-new-tokens", "8", "--greedy", "--json").Output;

    private static string Fingerprint(string path) => Cli.Done("inspect", path, "--json").Json["fingerprint"]!.GetValue<string>();

    private string At(string name) => Path.Combine(folder, name);
}
