using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Decoders from a config alone, and how well they foretell a text.</summary>
public sealed class TextLikelihoodTests : IDisposable
{
    private const string Config = """
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 12, "max_position_embeddings": 16, "initializer_range": 0.5}
        """;

    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Fact]
    public void A_new_model_follows_from_config_and_seed_and_loads_as_it_was_saved()
    {
        string folder = Directory.CreateTempSubdirectory("lowrank-").FullName;
        try
        {
            using TextModel model = New(7), same = New(7), other = New(8);
            model.Save(folder);
            using var loaded = (TextModel)PretrainedModel.Load(folder, device);
            double[] Values(TextModel of) => [.. of.Parameters.Values.SelectMany(p => p.Value.ToDoubles())];
            Assert.Equal(Values(model), Values(same));
            Assert.Equal(Values(model), Values(loaded));
            Assert.NotEqual(Values(model), Values(other));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Theory]
    [InlineData(9)]      // one window
    [InlineData(38)]     // several, the last moved back
    public void Bits_are_those_of_each_token_given_the_window_before_it(int count)
    {
        using TextModel model = New(7);
        int[] ids = [.. Enumerable.Range(0, count).Select(i => i * i % 11)];
        const int window = 16;
        double bits = 0;
        for (int done = 0; done < ids.Length - 1;)
        {
            int tokens = Math.Min(window, ids.Length - 1), start = Math.Min(done == 0 ? 0 : done - (tokens / 2), ids.Length - 1 - tokens);
            using Scope scope = device.BeginScope();
            double[] logits = model.Forward(new TextBatch(1, ids[start..(start + tokens)])).Logits!.ToDoubles();
            for (int t = done - start; t < tokens; t++, done++)
            {
                double[] row = logits[(t * 11)..((t + 1) * 11)];
                bits -= Math.Log2(Math.Exp(row[ids[start + t + 1]]) / row.Sum(Math.Exp));
            }
        }
        Assert.Equal(bits / (count - 1), Bits(model, ids, window), Close.Model);
    }

    [Fact]
    public void What_does_not_fit_is_named()
    {
        using TextModel model = New(7);
        Assert.Contains("ids has 1 tokens and window is 16", Assert.Throws<ShapeException>(() => Bits(model, [3])).Message, StringComparison.Ordinal);
        Assert.Contains("window is 17, want at least 2 and 2 .. 16", Assert.Throws<ShapeException>(() => Bits(model, [3, 4], 17)).Message, StringComparison.Ordinal);
        using TextModel bare = TextModel.Create(ModelConfig.Parse(Config.Replace("LlamaForCausalLM", "LlamaModel", StringComparison.Ordinal)), device);
        Assert.Contains("BitsPerToken: LlamaModel has no language head", Assert.Throws<InvalidOperationException>(() => Bits(bare, [3, 4])).Message, StringComparison.Ordinal);
        Assert.Contains("model_type is vit, want one of bert,", Assert.Throws<ModelFormatException>(() => TextModel.Create(ModelConfig.Parse("""{"model_type": "vit"}"""), device)).Message, StringComparison.Ordinal);
        Assert.Contains("config.json: ", Assert.Throws<ModelFormatException>(() => ModelConfig.Parse("{")).Message, StringComparison.Ordinal);
    }

    private static double Bits(TextModel model, int[] ids, int window = 0) => model.BitsPerToken(ids, window, TestContext.Current.CancellationToken);

    private TextModel New(ulong seed) => TextModel.Create(ModelConfig.Parse(Config), device, new LoadOptions { Seed = seed });
}
