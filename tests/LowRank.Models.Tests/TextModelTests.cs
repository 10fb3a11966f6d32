using LowRank.Adapters;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Text models in memory: what they refuse, what they take up and give back, how they generate.</summary>
public sealed class TextModelTests : IDisposable
{
    private const int Few = 8;
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;
    private readonly Device device = Devices.Open("cpu");

    public static TheoryData<string> Models => ["bert_mlm", "gpt2_lm", "qwen3"];

    public void Dispose()
    {
        device.Dispose();
        Directory.Delete(folder, recursive: true);
    }

    [Theory, MemberData(nameof(Models))]
    public void A_merge_adds_the_adapter_and_unmerging_gives_every_bit_back(string name)
    {
        using TextModel model = Load(name);
        byte[][] before = [.. model.Parameters.Values.Select(p => p.Value.ToBytes())];
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 2, Targets = Names.AllLinear });
        var rng = new Rng(3);
        foreach (Parameter p in adapted.Parameters)
        {
            var values = new float[p.Value.Shape.Count];
            rng.Fork(p.Name).FillUniform(values, -0.2f, 0.2f);
            p.Value.Set(values);
        }
        double[] want = Logits(model);
        adapted.Merge();
        Close.Check(Logits(model), want, Close.Model, "merged");
        adapted.Unmerge();
        Assert.Equal(before, model.Parameters.Values.Select(p => p.Value.ToBytes()));
    }

    [Theory, MemberData(nameof(Models))]
    public void Bfloat16_computes_close_to_float32(string name)
    {
        using TextModel wide = Load(name), small = Load(name, new LoadOptions { Type = DType.BF16 });
        Close.Check(Logits(small), Logits(wide), Close.ModelBFloat16, name);
    }

    [Theory, MemberData(nameof(Models))]
    public void New_classes_take_the_place_of_another_head(string name)
    {
        var options = new LoadOptions { Classes = ["no", "yes", "perhaps"], Seed = 5 };
        using TextModel model = Load(name, options), again = Load(name, options), other = Load(name, options with { Seed = 6 });
        Assert.Equal(TextHead.Classifier, model.Head);
        Assert.EndsWith("ForSequenceClassification", model.TransformersClass, StringComparison.Ordinal);
        Assert.Equal(Logits(model), Logits(again));
        Assert.NotEqual(Logits(model), Logits(other));
        Assert.Equal(3 * 2, Logits(model).Length);
        model.Save(folder);
        using var saved = (TextModel)PretrainedModel.Load(folder, device);
        Assert.Equal(Logits(model), Logits(saved));
        Assert.Equal(options.Classes, saved.Config.ClassNames);
    }

    [Fact]
    public void Ids_positions_and_shapes_out_of_range_are_named()
    {
        using TextModel model = Load("qwen3");
        using Scope scope = device.BeginScope();
        string Refusal(Func<object> run) => Assert.Throws<ShapeException>(run).Message;
        Assert.Equal($"Llama: input_ids[1, 0] is {model.Vocabulary}, want 0 .. {model.Vocabulary - 1}", Refusal(() => model.Forward(new TextBatch(2, [1, 2, model.Vocabulary, 4]))));
        Assert.Contains($"reaches position {model.MostTokens}, want at most {model.MostTokens} tokens", Refusal(() => model.Forward(new TextBatch(1, new int[model.MostTokens + 1]))), StringComparison.Ordinal);
        Assert.Contains("input_ids is F32[2, 3], want I32 [rows, tokens]", Refusal(() => model.Forward(scope.NewZeros([2, 3], DType.F32))), StringComparison.Ordinal);
        Assert.Contains("mask has 2 entries, want 4", Refusal(() => new TextBatch(2, [1, 2, 3, 4], [1, 1])), StringComparison.Ordinal);
        Assert.Contains("ids has 3 entries for 2 rows", Refusal(() => new TextBatch(2, [1, 2, 3])), StringComparison.Ordinal);
        Assert.Contains("a text is empty", Refusal(() => TextBatch.Pad([[1], []], 0)), StringComparison.Ordinal);
        Assert.Contains($"want at most {model.MostTokens} together", Refusal(() => Continue(model, [[1, 2]], new GenerationOptions { MaxNewTokens = model.MostTokens })), StringComparison.Ordinal);
        using TextModel encoder = Load("bert_mlm");
        Assert.Contains("no language head", Assert.Throws<InvalidOperationException>(() => Continue(encoder, [[1, 2]], new())).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_mean_that_is_trained_is_the_embedding_of_its_own_length()
    {
        using TextModel model = Load("bert_mlm");
        TextBatch batch = TextBatch.Pad([[1, 2, 3, 4, 5], [7], [8, 9]], model.PadId);
        double[] want = [.. SentenceEmbedding.Of(model, batch, normalize: false).SelectMany(r => r).Select(v => (double)v)];
        using Scope scope = device.BeginScope();
        Close.Check(SentenceEmbedding.Mean(model, batch).ToDoubles(), want, Close.Bound(DType.F32), "mean");
    }

    [Fact]
    public void Draws_repeat_with_their_seed_and_narrow_choices_are_greedy()
    {
        using TextModel model = Load("gpt2_lm");
        int[] prompt = [3, 1, 4];
        int[] Made(GenerationOptions options) => Continue(model, [prompt], options with { MaxNewTokens = Few, EndIds = [] })[0];
        int[] greedy = Made(new());
        Assert.Equal(greedy, Made(new() { Temperature = 1, TopK = 1 }));
        Assert.Equal(greedy, Made(new() { Temperature = 1, TopP = 1e-9 }));
        var hot = new GenerationOptions { Temperature = 100, Seed = 1 };
        Assert.Equal(Made(hot), Made(hot));
        Assert.NotEqual(Made(hot), Made(hot with { Seed = 2 }));
    }

    [Fact]
    public void A_row_generates_the_same_alone_and_beside_others()
    {
        using TextModel model = Load("qwen3");
        var options = new GenerationOptions { MaxNewTokens = Few, EndIds = [] };
        int[][] together = Continue(model, [[5, 6, 7, 8, 9], [11], [3, 2]], options);
        Assert.Equal(together, [Continue(model, [[5, 6, 7, 8, 9]], options)[0], Continue(model, [[11]], options)[0], Continue(model, [[3, 2]], options)[0]]);
    }

    [Fact]
    public void Generation_ends_when_it_is_cancelled()
    {
        using TextModel model = Load("qwen3");
        using var cancel = new CancellationTokenSource();
        int steps = 0;
        Assert.Throws<OperationCanceledException>(() => model.Generate([[1, 2]], new GenerationOptions { EndIds = [] }, _ =>
        {
            if (++steps == 2)
            {
                cancel.Cancel();
            }
        }, cancel.Token));
        Assert.Equal(2, steps);
    }

    [Theory, MemberData(nameof(Models))]
    public async Task A_server_gives_every_text_the_bits_it_has_alone(string name)
    {
        CancellationToken test = TestContext.Current.CancellationToken;
        using TextModel model = Load(name);
        using var adapters = new NamedAdapters(model);
        for (int i = 0; i < Few; i++)
        {
            foreach (Parameter p in adapters.Add($"{i}", new LoraConfig { Rank = 2, Targets = Names.AllLinear }, (ulong)i).Parameters)
            {
                var values = new float[p.Value.Shape.Count];
                new Rng((ulong)i).Fork(p.Name).FillUniform(values, -0.2f, 0.2f);
                p.Value.Set(values);
            }
        }
        double[] plain = Logits(model);
        using (AdapterServer<int[], float[]> server = model.Serve(adapters))
        {
            int[][] texts = [.. Enumerable.Range(0, Few).Select(i => new[] { 1, 5, 9, 7, 2, 3 + i, 8 }[..(5 + (i % 3))])];
            var alone = new float[Few][];
            for (int i = 0; i < Few; i++)
            {
                alone[i] = await server.RunAsync($"{i}", texts[i], test);
            }
            using var gate = new ManualResetEventSlim();
            Task held = server.InvokeAsync(_ => gate.Wait(test), test);
            Task<float[]>[] together = [.. texts.Select((text, i) => server.RunAsync($"{i}", text, test))];
            gate.Set();
            Assert.Equal(alone, await Task.WhenAll(together));
            await held;
            Assert.Contains("input_ids", (await Assert.ThrowsAsync<ShapeException>(() => server.RunAsync("0", [model.Vocabulary], test))).Message, StringComparison.Ordinal);
        }
        Assert.Equal(plain, Logits(model));
    }

    private static int[][] Continue(TextModel model, int[][] prompts, GenerationOptions options) =>
        model.Generate(prompts, options, cancellation: TestContext.Current.CancellationToken);

    private TextModel Load(string name, LoadOptions? options = null) => (TextModel)PretrainedModel.Load(PathOf(name), device, options);

    private static string PathOf(string name) => Path.Combine(Golden.Repository, "tests", "golden", "models", name);

    private static double[] Logits(TextModel model)
    {
        using Scope scope = model.Device.BeginScope();
        return model.Forward(new TextBatch(2, [1, 5, 9, 7, 2, 3, 8, 6], [1, 1, 1, 1, 1, 1, 1, 0])).Logits!.ToDoubles();
    }
}
