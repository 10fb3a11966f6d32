using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>PEFT's types beside LoRA: which are read, what is drawn from a key, what training drops, and what is refused.</summary>
public sealed class PeftTypeTests : IDisposable
{
    private static readonly LohaConfig Loha = new() { Targets = ["layer"], Rank = 3 };
    private static readonly LokrConfig Lokr = new() { Targets = ["layer"], Rank = 1 };
    private static readonly VeraConfig Vera = new() { Targets = ["layer"], Rank = 5, Key = 4 };
    private static readonly TrainableTokensConfig Tokens = new() { Targets = ["words"], Tokens = [2, 0] };
    private static readonly LoraConfig Lora = new() { Targets = ["inner"], Rank = 2 };
    private readonly Device device = Devices.Open("cpu");
    private readonly TemporaryFolder folder = new();

    public static TheoryData<string> Folders => Golden.Cases("peft", name => !name.StartsWith(MatchingTests.Table, StringComparison.Ordinal));

    public static TheoryData<string> VeraFolders => Golden.Cases("peft", name => name.StartsWith("vera_", StringComparison.Ordinal));

    public static TheoryData<string> Methods => [.. AdapterCatalog.Methods.Select(m => m.PeftType)];

    public static TheoryData<string, AdapterConfig> Settings => new()
    {
        { "LohaConfig: r is 0, want a whole number of at least 1", Loha with { Rank = 0 } },
        { "LohaConfig: rank_pattern x is 1.5, want a whole number", Loha with { RankPattern = new Dictionary<string, double> { ["x"] = 1.5 } } },
        { "LohaConfig: alpha is NaN, want a finite number", Loha with { Alpha = double.NaN } },
        { "LokrConfig: alpha_pattern x is Infinity, want a finite number", Lokr with { AlphaPattern = new Dictionary<string, double> { ["x"] = double.PositiveInfinity } } },
        { "LokrConfig: rank_dropout is 1, want 0 or more and less than 1", Lokr with { RankDropout = 1 } },
        { "LokrConfig: module_dropout is -1, want 0 or more", Lokr with { ModuleDropout = -1 } },
        { "LokrConfig: decompose_factor is 0, want -1 or at least 1", Lokr with { DecomposeFactor = 0 } },
        { "VeraConfig: r is 0, want a whole number of at least 1", Vera with { Rank = 0 } },
        { "VeraConfig: vera_dropout is 1, want 0 or more", Vera with { Dropout = 1 } },
        { "VeraConfig: d_initial is NaN, want a finite number", Vera with { InitialD = double.NaN } },
        { "VeraConfig: bias is all, want none", Vera with { Bias = "all" } },
        { "VeraConfig: target_modules names words, a layer of kind Embedding, want layers of kind Linear", Vera with { Targets = ["words"] } },
        { "LohaConfig: target_modules names words, a layer of kind Embedding, want layers of kind Linear, Conv2d", Loha with { Targets = ["words"] } },
        { "Ia3Config: feedforward_modules is [outer], want names of target_modules [inner], outer is none of them", new Ia3Config { Targets = ["inner"], FeedForward = ["outer"] } },
        { "Ia3Config: target_modules names words, a layer of kind Embedding", new Ia3Config { Targets = ["words"] } },
        { "LnTuningConfig: target_modules names inner, a layer of kind Linear, want layers of kind Norm", new LnTuningConfig { Targets = ["inner"] } },
        { "LoraConfig: target_modules [norm] matches no layer, nearest are words", Lora with { Targets = ["norm"] } },
        { "TrainableTokensConfig: token_indices is empty, want ids", Tokens with { Tokens = [] } },
        { "TrainableTokensConfig: token_indices names token -1, want ids of at least 0", Tokens with { Tokens = [1, -1] } },
        { "TrainableTokensConfig: token_indices names token 3 twice, want each once", Tokens with { Tokens = [3, 1, 3] } },
        { "TrainableTokensConfig: token_indices names token 6, want ids below 6, the rows of words", Tokens with { Tokens = [6] } },
        { "TrainableTokensConfig: target_modules names inner, a layer of kind Linear, want layers of kind Embedding", Tokens with { Targets = ["inner"] } },
        { "LoraConfig: trainable_token_indices is empty, want ids", Lora with { TokenIndices = TokenIndices.Of() } },
        { "LoraConfig: trainable_token_indices words names token 9, want ids below 6", Lora with { TokenIndices = ByName("words", 9) } },
        { "LoraConfig: trainable_token_indices names inner, want an embedding; this model has words", Lora with { TokenIndices = ByName("inner", 1) } },
        { "LoraConfig: trainable_token_indices names words, want an embedding that target_modules leaves alone", Lora with { Targets = ["words"], TokenIndices = TokenIndices.Of(1) } },
    };

    [Theory, MemberData(nameof(Folders))]
    public void A_type_is_read_or_refused_by_its_name(string name)
    {
        string path = Golden.Find($"peft/{name}")!;
        foreach (string file in Directory.GetFiles(path, PeftFolder.ConfigFile, SearchOption.AllDirectories))
        {
            string type = JsonNode.Parse(File.ReadAllText(file))!["peft_type"]!.GetValue<string>();
            if (AdapterCatalog.Methods.All(m => m.PeftType != type))
            {
                Assert.Contains(type, AdapterCatalog.NotBuilt);
                var error = Assert.Throws<ModelFormatException>(() => AdapterCatalog.Read(File.ReadAllBytes(file), file));
                Assert.Contains($"'peft_type' is {type}, a method of PEFT's that is not built here yet; built are LORA, ", error.Message, StringComparison.Ordinal);
                continue;
            }
            try
            {
                Assert.Equal(type, AdapterCatalog.Read(File.ReadAllBytes(file), file).Method);
            }
            catch (ModelFormatException error)      // a variant of LoRA
            {
                Assert.Contains("not built", error.Message, StringComparison.Ordinal);
            }
        }
    }

    [Theory, MemberData(nameof(Methods))]
    public void A_null_for_any_setting_is_read_or_refused(string type)
    {
        JsonObject settings = JsonNode.Parse(AdapterCatalog.Write(AdapterCatalog.Methods.Single(m => m.PeftType == type).Default))!.AsObject();
        foreach (string key in settings.Select(p => p.Key).Where(key => key != "peft_type"))
        {
            JsonObject changed = settings.DeepClone().AsObject();
            changed[key] = null;
            Exception? error = Record.Exception(() => AdapterCatalog.Write(AdapterCatalog.Read(JsonSerializer.SerializeToUtf8Bytes(changed))));
            Assert.True(error is null or ModelFormatException, $"{type}: {key}: {error}");
        }
    }

    [Theory, MemberData(nameof(VeraFolders))]
    public void The_matrices_of_vera_are_those_of_its_key(string name) => Golden.Run("peft", name, golden =>
    {
        using var network = PeftNetwork.Open(golden, device, DType.F32);
        var config = (VeraConfig)AdapterCatalog.Read(File.ReadAllBytes(golden.PathOf(PeftFolder.ConfigFile)));
        using AdaptedModel drawn = network.Model.Attach(config with { SaveProjection = true });
        TensorSource source = config.SaveProjection ? golden.Open(PeftFolder.ModelFile) : golden.Tensors;
        Assert.All(drawn.Adapters[0].Shared, s => Assert.Equal(source.Bytes($"{(config.SaveProjection ? "base_model." : "buffer.")}{s.Name}").ToArray(), s.Value.ToBytes()));
    });

    [Fact]
    public void Matrices_that_a_vera_file_lacks_are_named_and_those_it_need_not_have_are_passed_over()
    {
        using OneLayer model = Layer();
        Save(model, Vera with { SaveProjection = false }, "without");
        Save(model, Vera, "with");
        SetKey("without", "save_projection", true);
        Assert.Contains("lacks 2 of 4 tensors that the config asks for on this model: base_model.vera_A [5, 14]", Assert.Throws<ModelFormatException>(() => model.AttachPeft(folder.Path, "without")).Message, StringComparison.Ordinal);
        SetKey("with", "save_projection", false);
        using AdaptedModel read = model.AttachPeft(folder.Path, "with");
        Assert.Equal(["base_model.vera_A", "base_model.vera_B"], read.Warnings);
    }

    [Theory]
    [InlineData(256, -1, 16, 16)]
    [InlineData(128, -1, 8, 16)]
    [InlineData(127, -1, 1, 127)]
    [InlineData(1, -1, 1, 1)]
    [InlineData(128, 4, 4, 32)]
    [InlineData(12, 6, 6, 2)]
    [InlineData(360, 7, 6, 60)]
    public void Lokr_splits_sizes_as_peft_does(int n, int most, int small, int large) => Assert.Equal((small, large), LokrShape.Factors(n, most));

    [Fact]
    public void Ia3_takes_any_end_of_a_path_for_a_feed_forward_layer()
    {
        using OneLayer model = Layer();
        int Inputs(Names names) => new Ia3Config { Targets = ["layer"], FeedForward = names }.Channels(model.Site);
        Assert.Equal((14, 14, 9, 14, 9), (Inputs(["layer"]), Inputs(["yer"]), Inputs(["lay"]), Inputs("l.*"), Inputs("lay")));
    }

    [Fact]
    public void What_training_drops_follows_from_the_step()
    {
        foreach (AdapterConfig config in (AdapterConfig[])[Loha with { RankDropout = 0.5 }, Lokr with { RankDropout = 0.5, RescalesRows = true }, Lokr with { ModuleDropout = 0.5 }, Vera with { Dropout = 0.5 }])
        {
            using OneLayer model = Layer();
            double[] plain = Forward(model);
            using AdaptedModel adapted = model.Attach(config);
            AdapterTests.Move(adapted.Adapters[0]);
            double[] whole = Forward(model), mean = new double[whole.Length];
            double[][] steps = [.. Enumerable.Range(0, Steps).Select(step => Taped(adapted, model, step))];
            Assert.Contains(steps, y => !y.SequenceEqual(whole));
            Assert.Contains(steps, y => !y.SequenceEqual(steps[0]));
            Assert.Equal(steps[3], Taped(adapted, model, 3));
            foreach (double[] y in steps)
            {
                mean = [.. mean.Zip(y, (a, b) => a + (b / Steps))];
            }
            double share = config is LycorisConfig { ModuleDropout: > 0 } ? 0.5 : 1;
            Close.Check(mean, [.. plain.Zip(whole, (a, b) => a + (share * (b - a)))], Close.Average, $"mean of {config.Method}");
        }
    }

    [Fact]
    public void Dropped_rows_are_those_of_the_base_and_a_dropped_module_is_the_base()
    {
        using OneLayer model = Layer();
        double[] plain = Forward(model);
        foreach (LycorisConfig config in (LycorisConfig[])[Loha, Lokr])
        {
            using (AdaptedModel rows = model.Attach(config with { RankDropout = 0.5 }))
            {
                AdapterTests.Move(rows.Adapters[0]);
                double[] y = Taped(rows, model, 0);
                int[] kept = [.. Enumerable.Range(0, model.Site.Outputs).Where(column => Enumerable.Range(0, y.Length / model.Site.Outputs).Any(row => y[(row * model.Site.Outputs) + column] != plain[(row * model.Site.Outputs) + column]))];
                Assert.InRange(kept.Length, 1, model.Site.Outputs - 1);
            }
            using AdaptedModel modules = model.Attach(config with { ModuleDropout = 0.5 });
            AdapterTests.Move(modules.Adapters[0]);
            double[] whole = Forward(model);
            double[][] calls = [.. Enumerable.Range(0, 32).Select(step => Taped(modules, model, step))];
            Assert.Contains(calls, y => y.SequenceEqual(plain));
            Assert.Contains(calls, y => y.SequenceEqual(whole));
            Assert.All(calls, y => Assert.True(y.SequenceEqual(plain) || y.SequenceEqual(whole)));
        }
    }

    [Fact]
    public void Rows_of_tied_words_change_in_both_layers()
    {
        using var model = new TiedWords(device);
        byte[] before = model.Parameters["words.weight"].Value.ToBytes();
        double[] plain = model.Output();
        foreach (AdapterConfig config in (AdapterConfig[])[Tokens, Lora with { TokenIndices = TokenIndices.Of(2, 0) }, Lora with { TokenIndices = ByName("words", 2, 0) }])
        {
            using AdaptedModel adapted = model.Attach(config);
            Close.Check(model.Output(), plain, Close.Layer, "start");
            adapted.Adapters.ToList().ForEach(AdapterTests.Move);
            double[] moved = model.Output();
            adapted.SavePeft(folder.Path);
            adapted.Merge();
            Close.Check(model.Output(), moved, Close.Layer, "merged");
            adapted.Unmerge();
            Assert.Equal(before, model.Parameters["words.weight"].Value.ToBytes());
            using var other = new TiedWords(device);
            using AdaptedModel read = other.AttachPeft(folder.Path);
            Assert.Empty(read.Warnings);
            Assert.Equal(moved, other.Output());
            adapted.Disable();
            Assert.Equal(plain, model.Output());
        }
        using AdaptedModel head = model.Attach(Lora with { Targets = ["head"] });
        Assert.Contains("Attach: head has an adapter already", Assert.Throws<InvalidOperationException>(() => model.Attach(Tokens)).Message, StringComparison.Ordinal);
        Assert.Null(model.Sites.Single(s => s.Path == "words").Adapter);
    }

    [Theory, MemberData(nameof(Settings), DisableDiscoveryEnumeration = true)]
    public void Impossible_settings_are_named_and_nothing_is_attached(string message, AdapterConfig config)
    {
        using OneLayer layer = Layer();
        using var model = new TiedWords(device);
        Model asked = config.Targets!.Contains("layer") ? layer : model;
        Assert.Contains(message, Assert.Throws<AdapterConfigException>(() => asked.Attach(config)).Message, StringComparison.Ordinal);
        Assert.All(asked.Sites, s => Assert.Null(s.Adapter));
    }

    public void Dispose()
    {
        folder.Dispose();
        device.Dispose();
    }

    private const int Steps = 2000;

    private static TokenIndices ByName(string name, params int[] tokens) => TokenIndices.Of(new Dictionary<string, IReadOnlyList<int>> { [name] = tokens });

    private OneLayer Layer() => new AdapterRow(Loha, SiteKind.Linear, [9, 14], 0).Model(device, DType.F32);

    private double[] Forward(OneLayer model)
    {
        using Scope scope = device.BeginScope();
        return model.Site.Forward(Input(scope)).ToDoubles();
    }

    private double[] Taped(AdaptedModel adapted, OneLayer model, long step)
    {
        adapted.Steps = step;
        using Tape tape = device.BeginTape();
        return model.Site.Forward(Input(tape)).ToDoubles();
    }

    private static Tensor Input(Scope scope) => scope.Of([4, 14], AdapterRow.Draw(new Rng(2), 4 * 14), DType.F32);

    private void Save(OneLayer model, AdapterConfig config, string name)
    {
        using AdaptedModel adapted = model.Attach(config);
        adapted.SavePeft(folder.Path, name);
    }

    private void SetKey(string name, string key, JsonNode value)
    {
        string path = Path.Combine(folder.Path, name, PeftFolder.ConfigFile);
        JsonObject json = JsonNode.Parse(File.ReadAllText(path))!.AsObject();
        json[key] = value;
        File.WriteAllText(path, json.ToJsonString());
    }

    /// <summary>y = head(norm(inner(words[ids]))), the head's weight that of the words [6,4].</summary>
    private sealed class TiedWords : Model
    {
        private readonly Site words, inner, norm, head;

        public TiedWords(Device device)
            : base(device, DType.F32)
        {
            Parameter Draw(string name, Shape shape) => Add(name, Init.Normal(1).Make(Store, new Rng(1).Fork(name), shape, DType.F32));
            words = Add(new Site("words", SiteKind.Embedding, Draw("words.weight", [6, 4]), null));
            inner = Add(new Site("inner", SiteKind.Linear, Draw("inner.weight", [4, 4]), Draw("inner.bias", [4])));
            norm = Add(new Site("norm", SiteKind.Norm, Draw("norm.weight", [4]), Draw("norm.bias", [4])) { Normalization = new LayerNorm(1e-5) });
            head = Add(new Site("head", SiteKind.Linear, words.Weight, null) { IsOutput = true });
        }

        public double[] Output()
        {
            using Scope scope = Device.BeginScope();
            return head.Forward(norm.Forward(inner.Forward(words.Forward(scope.Of([2, 3], [0, 5, 2, 2, 1, 3]))))).ToDoubles();
        }
    }
}
