using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What an encoder and its decoder compute for a golden case.</summary>
internal static class SequenceGolden
{
    public static Dictionary<string, Tensor> Results(GoldenCase c, T5 model)
    {
        TextBatch source = TextGolden.Batch(c, "in.");
        TextOutput read = model.Encode(source, keepHidden: true);
        bool both = c.Has("in.labels");
        var results = new Dictionary<string, Tensor> { [both ? "encoder_last_hidden_state" : "last_hidden_state"] = read.Last };
        Add(results, both ? "enc_hidden" : "hidden", read);
        return both ? Written(c, model, read.Last, model.MaskOf(source), results) : results;
    }

    public static Dictionary<string, Tensor> Results(GoldenCase c, Whisper model, Scope scope, DType type)
    {
        TextOutput heard = model.Encode(c.Load("in.input_features", scope, type), keepHidden: true);
        var results = new Dictionary<string, Tensor> { ["encoder_last_hidden_state"] = heard.Last };
        Add(results, "enc_hidden", heard);
        return Written(c, model, heard.Last, null, results);
    }

    /// <summary>Greedy texts, with T5 for a padded batch and once more with an end token.</summary>
    public static void CheckGeneration(GoldenCase c, EncoderDecoder model, DType type)
    {
        using Scope scope = model.Device.NewStore();
        TextBatch? source = model is T5 ? TextGolden.Batch(c, "in.left.") : null;
        Tensor? features = source is null ? c.Load("in.input_features", scope, type) : null;
        string prefix = source is null ? "" : "left.";
        int[][] Written(int[] ends, Action<float[]>? observe) => model is T5 t5
            ? t5.Generate(source!, endIds: ends, observe: observe, cancellation: TestContext.Current.CancellationToken)
            : ((Whisper)model).Generate(features!, endIds: ends, observe: observe, cancellation: TestContext.Current.CancellationToken);
        List<float[]> logits = [];
        int[][] made = Written([], logits.Add);
        Assert.Equal(c.Ints($"out.{prefix}generated"), made.SelectMany(m => m));
        int vocabulary = model.Vocabulary;
        double[] steps = [.. from row in Enumerable.Range(0, made.Length) from step in logits from v in step.Skip(row * vocabulary).Take(vocabulary) select (double)v];
        Close.CheckMax(steps, c.Doubles($"out.{prefix}generated_logits"), c.Tolerance.Rtol, c.Tolerance.Atol, $"{c}: {prefix}generated_logits");
        if (source is not null)
        {
            Assert.Equal(c.Ints("out.left.generated_eos"), Written(c.Ints("in.left.eos"), null).SelectMany(m => m));
        }
    }

    private static Dictionary<string, Tensor> Written(GoldenCase c, EncoderDecoder model, Tensor read, Tensor? mask, Dictionary<string, Tensor> results)
    {
        int[] labels = c.Ints("in.labels");
        TextOutput written = model.Decode(read, mask, model.Shifted(labels, read.Shape[0]), keepHidden: true);
        Add(results, "dec_hidden", written);
        results.Add("logits", written.Logits!);
        results.Add("loss", Losses.CrossEntropy(written.Logits!, labels));
        return results;
    }

    private static void Add(Dictionary<string, Tensor> results, string name, TextOutput output)
    {
        for (int i = 0; i < output.Hidden.Count; i++)
        {
            results.Add($"{name}.{i}", output.Hidden[i]);
        }
    }
}
