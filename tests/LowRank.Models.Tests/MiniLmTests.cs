using System.Text.Json;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>A real encoder of 22 M parameters, read in place from LOWRANK_MODELS: token ids, embeddings, hidden states, and twenty steps of LoRA.</summary>
public sealed class MiniLmTests : IDisposable
{
    private const string Model = "minilm";
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Fact]
    public void Golden_minilm_tokens() => With(sentences =>
    {
        Tokenizer tokenizer = Tokenizer.Load(Folder());
        foreach (JsonElement one in JsonElement.Parse(File.ReadAllText(Golden.Find("minilm/sentences.json")!)).EnumerateArray())
        {
            TokenEncoding got = tokenizer.Encode(one.GetProperty("text").GetString()!);
            Assert.Equal(one.GetProperty("ids").EnumerateArray().Select(i => i.GetInt32()), got.Ids);
            Assert.Equal(one.GetProperty("tokens").EnumerateArray().Select(i => i.GetString()), got.Tokens.Select(t => t.Text));
        }
    });

    [Fact]
    public void Golden_minilm_embeddings() => With(c =>
    {
        using TextModel model = Load();
        using Scope scope = device.BeginScope();
        var batch = new TextBatch(c.Shape("in.ids")[0], c.Ints("in.ids"), [.. c.Ints("in.mask").Select(m => (byte)m)]);
        float[][] got = SentenceEmbedding.Of(model, batch);
        Close.CheckMax([.. got.SelectMany(row => row.Select(v => (double)v))], c.Doubles("out.embedding"), c.Tolerance.Rtol, c.Tolerance.Atol, "embeddings");
        Assert.All(got, row => Assert.Equal(1, Math.Sqrt(row.Sum(v => (double)v * v)), 5));
    });

    [Fact]
    public void Golden_minilm_twenty_steps_of_lora() => With(
        c =>
        {
            using TextModel model = Load(new LoadOptions { Classes = ["0", "1", "2", "3"] });
            using AdaptedModel adapted = model.AttachPeft(Golden.Find("minilm/seqcls_lora_r8_qv_adapter")!);
            PutStart(adapted);
            using var optimizer = new AdamW(adapted.Parameters) { LearningRate = 1e-3, WeightDecay = 0.01 };
            int[][] sentences = Sentences();
            Assert.Equal(c.Shape("out.loss")[0], c.Shape("in.order")[0]);
            int[] order = c.Ints("in.order");
            int each = c.Shape("in.order")[1];
            List<double> losses = [];
            for (int step = 0; step < c.Shape("in.order")[0]; step++)
            {
                int[] chosen = order[(step * each)..((step + 1) * each)];
                using Tape tape = device.BeginTape();
                Tensor loss = Losses.CrossEntropy(model.Forward(TextBatch.Pad([.. chosen.Select(i => sentences[i])], model.PadId)).Logits!, [.. chosen.Select(i => i / 12)]);
                losses.Add(loss.Item());
                tape.Backward(loss);
                adapted.Step(optimizer);
            }
            double[] want = c.Doubles("out.loss");
            for (int i = 0; i < want.Length; i++)
            {
                Assert.Equal(want[i], losses[i], Close.MiniLmLoss);
            }
        },
        "seqcls_lora_r8_qv");

    private static void PutStart(AdaptedModel adapted)
    {
        using SafeTensorsFile start = SafeTensorsFile.Open(Golden.Find("minilm/seqcls_lora_r8_qv_init.safetensors")!);
        foreach (Parameter parameter in adapted.Parameters)
        {
            string key = "base_model.model." + adapted.Model.ModulePath(parameter.Name);
            parameter.Value.Set(start.ReadSingle(start.Contains(key) ? key : start.Entries.Single(e => e.Name.EndsWith(key["base_model.model.".Length..], StringComparison.Ordinal)).Name));
        }
    }

    private static int[][] Sentences()
    {
        const int most = 16;
        Tokenizer tokenizer = Tokenizer.Load(Folder());
        return [.. JsonElement.Parse(File.ReadAllText(Golden.Find("minilm/seqcls_lora_r8_qv_texts.json")!)).EnumerateArray().Select(t => tokenizer.Encode(t.GetString()!, truncation: new Truncation(most)).Ids)];
    }

    private TextModel Load(LoadOptions? options = null) => (TextModel)PretrainedModel.Load(Folder(), device, options);

    private static string Folder() => Path.Combine(Environment.GetEnvironmentVariable("LOWRANK_MODELS")!, Model);

    private static void With(Action<GoldenCase> body, string name = "embeddings")
    {
        Assert.SkipWhen(Environment.GetEnvironmentVariable("LOWRANK_MODELS") is not { Length: > 0 }, "LOWRANK_MODELS is not set: it names the folder with the real model minilm");
        Golden.Run("minilm", name, body);
    }
}
