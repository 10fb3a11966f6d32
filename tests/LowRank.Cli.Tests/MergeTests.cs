using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cli.Tests;

/// <summary>Recipes: golden/mergekit, and what a user gets wrong.</summary>
[Collection(ConsoleTests.Name)]
public sealed class MergeTests : IDisposable
{
    private const string Recipe = "recipe.yml", Weights = "merged.safetensors", Masks = "masks.safetensors";
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-merge").FullName;

    public static TheoryData<string> Cases => Golden.Cases("mergekit", name => name is not ("models" or "cases"));

    /// <summary>A recipe that is wrong, and what the message says.</summary>
    public static TheoryData<string, string> Wrong => new()
    {
        { "merge_method: [", ", column " },
        { "- 1", "line 1, column 1: this is no mapping" },
        { "models: [{model: a}]", "merge_method is missing, want one of linear, slerp" },
        { "merge_method: soup\nmodels: [{model: a}]", "line 1, column 15: merge_method is soup, want one of linear, slerp" },
        { "merge_method: linear", "there are neither models nor slices" },
        { "merge_method: linear\nmodels: []", "line 2, column 9: models is empty, want a list" },
        { "merge_method: linear\nmodels:\n- modle: a", "line 3, column 3: modle is no key here, want model, parameters" },
        { "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: heavy}", "line 4, column 24: the value is heavy, want a finite number" },
        { "merge_method: linear\nmodels:\n- model: a\n  parameters: {weight: [{filter: q}]}", "line 4, column 25: value is missing" },
        { "merge_method: linear\ndtype: int8\nmodels:\n- model: a", "line 2, column 8: dtype is int8, want float32" },
        { "merge_method: passthrough\nslices:\n- sources:\n  - model: a\n    layer_range: [2, 1]", "line 5, column 18: layer_range is [2, 1], want two layers" },
        { "merge_method: passthrough\nslices:\n- sources:\n  - model: a\n    layer_range: [0, 4]", "layer_range of a is [0, 4], want a range within its 2 layers" },
        { "merge_method: linear\ntokenizer_source: union\nmodels:\n- model: a", "line 2, column 19: tokenizer_source is union" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: b", "weight of a for model.embed_tokens.weight is missing, want a number" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: nowhere", "there is no nowhere in" },
        { "merge_method: slerp\nmodels:\n- model: a\n- model: b\nparameters: {t: 0.5}", "base_model is missing, want the model that slerp starts from" },
        { "merge_method: slerp\nbase_model: a\nmodels:\n- model: b\n- model: c\nparameters: {t: 0.5}", "the number of models is 2 beside the base, want 1 for slerp" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: a\nparameters: {weight: 1}", "the input a is given twice in one slice" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: wide\nparameters: {weight: 1}", "model.layers.0.w is F32[2, 2] in a and F32[2, 3] in wide, want one shape" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: more\nparameters: {weight: 1}", "more lacks 0 tensors of a () and has 1 that it has not (more)" },
        { "merge_method: linear\nmodels:\n- model: a\n- model: nan\nparameters: {weight: 1}", "tensor 'model.layers.0.w' has NaN at [3], want finite values to merge" },
        { "merge_method: della\nbase_model: a\nmodels:\n- model: b\n  parameters: {weight: 1, density: 0.95}", "density with epsilon 0.15 of b is 0.95, want both density + epsilon below 1" },
    };

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Theory, MemberData(nameof(Cases))]
    public void Golden_mergekit(string name) => Golden.Run("mergekit", name, golden =>
    {
        string root = Path.GetDirectoryName(golden.Path)!;
        if (!Directory.Exists(Path.Combine(root, "models")))
        {
            Assert.Skip("the case's models are not beside it");
        }
        if (!File.Exists(golden.PathOf(Recipe)))
        {
            Extracted(golden, root);
            return;
        }
        string[] masks = File.Exists(golden.PathOf(Masks)) ? ["--masks", golden.PathOf(Masks)] : [];
        JsonNode done = Cli.Done(["merge", golden.PathOf(Recipe), "--models", root, "--merged", folder, "--json", "--quiet", .. masks]).Json;
        TensorSource want = golden.Open(Weights);
        using TensorSource got = TensorSource.Open(folder);
        Assert.Equal(want.Entries.Select(e => e.ToString() + e.Name).Order(), got.Entries.Select(e => e.ToString() + e.Name).Order());
        bool half = want.Entries[0].Type == SafeTensorsType.BF16;
        Assert.All(want.Entries, e => Close.CheckMax(got.ReadDouble(e.Name), want.ReadDouble(e.Name), half ? Close.MergedBFloat16 : Close.Merged, 0, $"{golden}: {e.Name}"));
        JsonNode config = JsonNode.Parse(File.ReadAllText(Path.Combine(folder, "config.json")))!;
        Assert.All(JsonNode.Parse(File.ReadAllText(golden.PathOf("config.json")))!.AsObject(), p => Assert.Equal(p.Value!.ToJsonString(), config[p.Key]!.ToJsonString()));
        Assert.Equal(config["num_hidden_layers"]!.GetValue<int>(), done["layers"]!.GetValue<int>());
    });

    /// <summary>The pairs are compared by their products: signs of singular vectors are free.</summary>
    private void Extracted(GoldenCase golden, string root)
    {
        TensorSource want = golden.Open(PeftFolder.ModelFile);
        JsonNode config = JsonNode.Parse(File.ReadAllText(golden.PathOf(PeftFolder.ConfigFile)))!;
        Cli.Done("extract", "--model", Path.Combine(root, "models", "a"), "--base", Path.Combine(root, "models", "base"), "--rank", config["r"]!.ToJsonString(), "--output", folder);
        using PeftFolder got = PeftFolder.Open(folder);
        Assert.Equal(want.Entries.Select(e => e.ToString() + e.Name).Order(), got.Tensors.Entries.Select(e => e.ToString() + e.Name).Order());
        Assert.Equal(config["target_modules"]!.AsArray().Select(n => n!.GetValue<string>()).Order(), got.Config.Targets!.Order());
        Assert.Equal(config["modules_to_save"]!.AsArray().Select(n => n!.GetValue<string>()).Order(), got.Config.ModulesToSave!.Order());
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        foreach (string name in want.Entries.Select(e => e.Name).Where(n => !n.Contains(".lora_B.", StringComparison.Ordinal)))
        {
            double[] Value(TensorSource source) => !name.Contains(".lora_A.", StringComparison.Ordinal) ? source.ReadDouble(name)
                : new MatMul().Apply(source.Load(name.Replace(".lora_A.", ".lora_B.", StringComparison.Ordinal), scope, DType.F64), source.Load(name, scope, DType.F64)).ToDoubles();
            Close.CheckMax(Value(got.Tensors), Value(want), Close.Layer, 0, $"{golden}: {name}");
        }
    }

    [Theory, MemberData(nameof(Wrong))]
    public void A_recipe_that_is_wrong_says_where_and_leaves_nothing(string recipe, string message)
    {
        Models();
        File.WriteAllText(At(Recipe), recipe);
        Cli.Fails(ExitCode.Usage, [message], "merge", At(Recipe), "--merged", At("out"), "--quiet");
        Assert.False(Directory.Exists(At("out")) && Directory.EnumerateFiles(At("out")).Any());
    }

    [Fact]
    public void A_cancelled_merge_leaves_nothing()
    {
        Models();
        File.WriteAllText(At(Recipe), "merge_method: linear\nmodels:\n- model: a\n- model: b\nparameters: {weight: 1}");
        using var stop = new CancellationTokenSource();
        stop.Cancel();
        CliResult result = Cli.Run(stop.Token, "merge", At(Recipe), "--merged", At("out"), "--quiet", "--shard-bytes", "20");
        Assert.Equal(ExitCode.Cancelled, result.Code);
        Assert.Empty(Directory.EnumerateFiles(At("out")));
    }

    [Fact]
    public void Words_that_contradict_each_other_are_refused()
    {
        Cli.Fails(ExitCode.Usage, ["neither a recipe nor --adapter"], "merge", "--merged", At("out"));
        Cli.Fails(ExitCode.Usage, ["a recipe and --adapter"], "merge", "r.yml", "--adapter", "x", "--merged", At("out"));
        Cli.Fails(ExitCode.Usage, ["a recipe has dtype and models"], "merge", "r.yml", "--type", "f16", "--merged", At("out"));
        Cli.Fails(ExitCode.Usage, ["there is no recipe r.yml"], "merge", "r.yml", "--merged", At("out"));
        Models();
        File.WriteAllText(At(Recipe), "merge_method: linear\nmodels:\n- model: a\n- model: b\nparameters: {weight: 1}");
        Cli.Fails(ExitCode.Usage, ["want a name that ends with .json or .md"], "merge", At(Recipe), "--merged", At("out"), "--report", "r.txt");
        Cli.Fails(ExitCode.Usage, ["want another folder than those that are read"], "merge", At(Recipe), "--merged", At("a"));
    }

    [Fact]
    public void A_report_tells_how_models_agree_and_a_setting_of_no_use_is_told()
    {
        Models();
        File.WriteAllText(At(Recipe), "merge_method: task_arithmetic\nbase_model: a\nmodels:\n- model: b\n- model: c\nparameters: {weight: 0.5, densty: 1}");
        CliResult result = Cli.Done("merge", At(Recipe), "--merged", At("out"), "--report", At("report.json"), "--quiet", "--shard-bytes", "20", "--json");
        Assert.Contains("line 6: densty of the recipe is no parameter of task_arithmetic", result.Error, StringComparison.Ordinal);
        Assert.True(Directory.GetFiles(At("out"), "*.safetensors").Length > 1);
        JsonNode row = JsonNode.Parse(File.ReadAllText(At("report.json")))!["tensors"]!.AsArray().Single(r => r!["tensor"]!.GetValue<string>() == "model.layers.1.w")!;
        // b - a = (1, 1, 0, 0) and c - a = (1, -1, 0, 0): one entry of four in conflict, at a right angle; half their sum is (1, 0, 0, 0)
        Assert.Equal(0.25, row["sign_conflicts"]!.GetValue<double>());
        Assert.Equal(0, row["mean_cosine"]!.GetValue<double>(), 12);
        Assert.Equal(Math.Sqrt(0.5), row["kept"]!.GetValue<double>(), 12);
        Cli.Done("merge", At(Recipe), "--merged", At("out"), "--report", At("report.md"), "--quiet");
        Assert.Contains("| model.layers.1.w | 2 | 25.0 % | 0.000 | 0.000 | 0.707 | 0 | 0 |", File.ReadAllText(At("report.md")), StringComparison.Ordinal);
        using TensorSource merged = TensorSource.Open(At("out"));
        Assert.Equal([2, 0, 0, 0], merged.ReadDouble("model.layers.1.w"));
        Assert.Equal([7L], merged.ReadInt64("model.steps"));
    }

    [Theory, InlineData("concrete", "steps: 2, adaptive: true, adaptation_steps: 1"), InlineData("adamerging", "layer_wise: true, adaptation_steps: 2")]
    public void What_learns_takes_images_of_each_model_and_keeps_their_heads(string method, string settings)
    {
        foreach ((string name, double change) in new[] { ("a", 0.01), ("b", -0.02) })
        {
            Directory.CreateDirectory(At(name));
            foreach (string file in Directory.GetFiles(BaseModel.ShippedFolder, "*.json"))
            {
                File.Copy(file, Path.Combine(At(name), Path.GetFileName(file)));
            }
            using TensorSource from = TensorSource.Open(BaseModel.ShippedFolder);
            SafeTensorsFile.Save(Path.Combine(At(name), TensorSource.ModelFile), from.Entries.Select(e => TensorData.Of(e.Name, e.Shape, [.. from.ReadSingle(e.Name).Select(v => v + (float)change)])));
        }
        File.WriteAllText(At(Recipe), $"merge_method: {method}\nbase_model: {BaseModel.ShippedFolder}\nmodels:\n- model: a\n- model: b\nparameters: {{{settings}, batch: 3}}");
        Cli.Fails(ExitCode.Usage, ["want --data once for each of the 2 models in the recipe's order (a, b), got 1"], "merge", At(Recipe), "--merged", At("out"), "--quiet", "--data", "digits");
        JsonNode done = Cli.Done("merge", At(Recipe), "--merged", At("out"), "--report", At("report.json"), "--data", "digits", "--data", "digits", "--quiet", "--json").Json;
        Assert.True(done["entropy_first"]!.GetValue<double>() > 0 && done["entropy_last"]!.GetValue<double>() > 0);
        JsonArray rows = JsonNode.Parse(File.ReadAllText(At("report.json")))!["tensors"]!.AsArray();
        using TensorSource start = TensorSource.Open(BaseModel.ShippedFolder), merged = TensorSource.Open(At("out")), heads = TensorSource.Open(Path.Combine(At("out"), "heads.safetensors"));
        Assert.Equal(start.Entries.Select(e => e.Name).Order(), merged.Entries.Select(e => e.Name).Order());
        Assert.Equal(start.ReadSingle("classifier.bias"), merged.ReadSingle("classifier.bias"));
        Assert.Equal(start.ReadSingle("classifier.bias").Select(v => v + 0.01f), heads.ReadSingle("a.classifier.bias"));
        Assert.Equal(start.Entries.Count - 2, rows.Count);
        Assert.NotEqual(start.ReadSingle("vit.layernorm.weight"), merged.ReadSingle("vit.layernorm.weight"));
        // one went up everywhere and the other down
        Assert.All(rows, r => Assert.Equal((1.0, -1.0), (r!["sign_conflicts"]!.GetValue<double>(), Math.Round(r["mean_cosine"]!.GetValue<double>(), 3))));
    }

    [Fact]
    public void Data_goes_with_what_learns()
    {
        Models();
        File.WriteAllText(At(Recipe), "merge_method: linear\nmodels:\n- model: a\nparameters: {weight: 1}");
        Cli.Fails(ExitCode.Usage, ["--data goes with concrete and adamerging; linear learns nothing"], "merge", At(Recipe), "--merged", At("out"), "--data", "digits");
    }

    [Fact]
    public void Draws_depend_on_the_seed_alone()
    {
        Models();
        File.WriteAllText(At(Recipe), "merge_method: dare_linear\nbase_model: a\nmodels:\n- model: big\n  parameters: {weight: 1, density: 0.5}");
        Directory.CreateDirectory(At("big"));
        Save("big", [1, 2, 3, 4]);
        byte[] Merged(string to, string seed)
        {
            Cli.Done("merge", At(Recipe), "--merged", At(to), "--quiet", "--seed", seed);
            return File.ReadAllBytes(Path.Combine(At(to), TensorSource.ModelFile));
        }
        Assert.Equal(Merged("one", "1"), Merged("two", "1"));
        Assert.NotEqual(Merged("one", "1"), Merged("three", "2"));
    }

    private void Models()
    {
        Save("a", [1, 0, 0, 0]);
        Save("b", [2, 1, 0, 0]);
        Save("c", [2, -1, 0, 0]);
        Save("nan", [1, 0, 0, float.NaN]);
        Save("wide", [1, 0, 0, 0, 0, 0]);
        Save("more", [1, 0, 0, 0], TensorData.Of("more", [1], (float[])[1]));
    }

    private void Save(string name, float[] values, params IEnumerable<TensorData> more)
    {
        Directory.CreateDirectory(At(name));
        SafeTensorsFile.Save(Path.Combine(At(name), TensorSource.ModelFile), [
            TensorData.Of("model.embed_tokens.weight", [3, 1], (float[])[1, 2, 3]),
            TensorData.Of("model.layers.0.w", [2, values.Length / 2], values),
            TensorData.Of("model.layers.1.w", [2, values.Length / 2], values),
            TensorData.Of("model.steps", [1], (long[])[7]), .. more]);
    }

    private string At(string name) => Path.Combine(folder, name);
}
