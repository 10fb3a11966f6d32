using System.Text;
using LowRank.Adapters;
using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>The shipped decoder is the one its card speaks of, foretells what the card says, and can be adapted.</summary>
public sealed class TextBaseModelTests : IDisposable
{
    private static readonly ModelCard Card = new(BaseModel.TextFolder);
    private readonly Device device = Devices.Open("cpu");
    private readonly TextModel model;

    public TextBaseModelTests() => model = (TextModel)PretrainedModel.Load(BaseModel.Folder(BaseModel.TextName), device);

    public void Dispose()
    {
        model.Dispose();
        device.Dispose();
    }

    [Fact]
    public void Weights_are_those_of_the_card() => Card.CheckWeights(model);

    [Fact]
    public void Its_tokens_are_bytes()
    {
        Tokenizer tokenizer = Tokenizer.Load(BaseModel.TextFolder);
        const string text = "In the beginning, naïve ☃ 🙂\n\n\tend\0 ";
        int[] ids = tokenizer.Encode(text).Ids;
        Assert.Equal(ByteTokenizer.Count, tokenizer.Count);
        Assert.Equal([.. Encoding.UTF8.GetBytes(text)], ids);
        Assert.Equal(text, tokenizer.Decode(ids));
        Assert.Equal([.. Enumerable.Range(0, ByteTokenizer.Count)], Enumerable.Range(0, ByteTokenizer.Count).Select(b => tokenizer.IdOf(tokenizer.TokenOf(b)!)));
    }

    [Fact]
    public void A_sample_that_it_was_not_trained_on_has_the_bits_of_the_card()
    {
        double want = Card.Number(@"([\d.]+) bits a byte on held-out.txt");
        Assert.True(want <= 1.9);
        Assert.Equal(want, Bits(Bytes("held-out.txt")), Close.Bits);
    }

    [Fact]
    public void Text_follows_from_prompt_and_seed()
    {
        int[] prompt = [.. Encoding.UTF8.GetBytes("And it came to pass")];
        var options = new GenerationOptions { MaxNewTokens = 40, Temperature = 0.8, Seed = 3 };
        string Text(GenerationOptions with) => Encoding.UTF8.GetString([.. model.Generate([prompt], with, cancellation: TestContext.Current.CancellationToken)[0].Select(id => (byte)id)]);
        string first = Text(options);
        Assert.Equal(first, Text(options));
        Assert.NotEqual(first, Text(options with { Seed = 4 }));
        Assert.All(first, c => Assert.True(char.IsAsciiLetter(c) || " ,;:.!?'()-\n".Contains(c, StringComparison.Ordinal), first));
    }

    [Fact]
    public void Lora_adapts_it_to_a_ships_log()
    {
        const int window = 128, steps = 20;
        int[] log = Bytes("ship-log.txt");
        int[] learnt = log[..(log.Length * 4 / 5)], kept = log[learnt.Length..];
        double before = Bits(kept);
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 8, Alpha = 16, Targets = Names.AllLinear });
        using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 1e-2 };
        var rng = new Rng(1);
        for (int step = 0; step < steps; step++)
        {
            using Tape tape = device.BeginTape();
            int[] ids = [.. Enumerable.Range(0, 4).SelectMany(_ => learnt.AsSpan(rng.Below(learnt.Length - window), window).ToArray())];
            tape.Backward(Losses.NextToken(model.Forward(new TextBatch(4, ids)).Logits!, ids));
            adapted.Step(optimizer);
        }
        Assert.True(Bits(kept) < before - 1, $"{before} bits a byte before, {Bits(kept)} after {steps} steps");
    }

    private double Bits(int[] ids) => model.BitsPerToken(ids, cancellation: TestContext.Current.CancellationToken);

    private static int[] Bytes(string file) => [.. File.ReadAllBytes(Path.Combine(BaseModel.TextFolder, file))];
}
