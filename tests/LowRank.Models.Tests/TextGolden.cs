using LowRank.Testing;
using LowRank.Training;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What a text model computes for a golden case.</summary>
internal static class TextGolden
{
    public static Dictionary<string, Tensor> Results(GoldenCase c, TextModel model)
    {
        TextOutput y = model.Forward(Batch(c, "in."), keepHidden: true);
        var results = new Dictionary<string, Tensor> { ["last_hidden_state"] = y.Last };
        for (int i = 0; i < y.Hidden.Count; i++)
        {
            results.Add($"hidden.{i}", y.Hidden[i]);
        }
        for (int i = 0; i < y.Routers.Count; i++)
        {
            results.Add($"router.{i}", y.Routers[i]);
        }
        if (y.Balance is { } balance)
        {
            results.Add("aux_loss", balance);
        }
        if (y.Pooled is { } pooled)
        {
            results.Add("pooler_output", pooled);
        }
        if (y.Logits is { } logits)
        {
            results.Add("logits", logits);
            if (c.Has("in.labels"))
            {
                results.Add("loss", Loss(c, model, logits));
            }
        }
        return results;
    }

    /// <summary>Greedy generation with the cache: one prompt, a left-padded batch, the same with an end token; and the plain pass over the padded batch.</summary>
    public static void CheckGeneration(GoldenCase c, TextModel model, DType type)
    {
        foreach (string prefix in (ReadOnlySpan<string>)["", "left."])
        {
            TextBatch prompt = Batch(c, prefix.Length == 0 ? "in.prompt" : "in.left.");
            List<float[]> logits = [];
            int[][] made = model.Generate(Rows(prompt), new GenerationOptions { EndIds = [] }, logits.Add, TestContext.Current.CancellationToken);
            Assert.Equal(c.Ints($"out.{prefix}generated"), Joined(prompt, made));
            int vocabulary = model.Vocabulary;
            double[] steps = [.. from row in Enumerable.Range(0, prompt.Rows) from step in logits from v in step.Skip(row * vocabulary).Take(vocabulary) select (double)v];
            Close.CheckMax(steps, c.Doubles($"out.{prefix}generated_logits"), c.Tolerance.Rtol, c.Tolerance.Atol, $"{c}: {prefix}generated_logits");
        }
        TextBatch left = Batch(c, "in.left.");
        Assert.Equal(c.Ints("out.left.generated_eos"), Joined(left, model.Generate(Rows(left), new GenerationOptions { EndIds = c.Ints("in.left.eos") }, cancellation: TestContext.Current.CancellationToken)));
        using Scope scope = model.Device.BeginScope();
        double[] got = model.Forward(left).Logits!.ToDoubles(), want = c.Doubles("out.left.logits");
        Close.CheckMax(Text(got, left), Text(want, left), c.Tolerance.Rtol, c.Tolerance.Atol, $"{c}: left.logits in {type}");
    }

    private static double[] Text(double[] values, TextBatch batch) => [.. values.Where((_, i) => batch.IsText(i / (values.Length / batch.Ids.Length)))];

    private static int[][] Rows(TextBatch batch) =>
        [.. Enumerable.Range(0, batch.Rows).Select(row => Enumerable.Range(row * batch.Tokens, batch.Tokens).Where(batch.IsText).Select(i => batch.Ids[i]).ToArray())];

    private static int[] Joined(TextBatch prompt, int[][] made) =>
        [.. Enumerable.Range(0, prompt.Rows).SelectMany(row => prompt.Ids.Skip(row * prompt.Tokens).Take(prompt.Tokens).Concat(made[row]))];

    public static TextBatch Batch(GoldenCase c, string prefix)
    {
        string ids = prefix.EndsWith('.') ? prefix + "input_ids" : prefix;
        int[]? Optional(string name) => prefix.EndsWith('.') && c.Has(prefix + name) ? c.Ints(prefix + name) : null;
        return new TextBatch(c.Shape(ids)[0], c.Ints(ids), Optional("attention_mask") is { } mask ? [.. mask.Select(m => (byte)m)] : null, Optional("token_type_ids"), Optional("position_ids"));
    }

    private static Tensor Loss(GoldenCase c, TextModel model, Tensor logits) => (model.Head, model.Config.Text("problem_type", "")) switch
    {
        (TextHead.Classifier, "regression") => Losses.SquaredError(logits.Reshape([logits.Shape[0]]), c.Floats("in.labels")),
        (TextHead.Classifier, "multi_label_classification") => Losses.BinaryCrossEntropy(logits, c.Floats("in.labels")),
        (TextHead.CausalLanguage, _) => model.NextWordLoss(Batch(c, "in."), Losses.Shifted(c.Ints("in.labels"), logits.Shape[1])),
        _ => Losses.CrossEntropy(logits, c.Ints("in.labels")),
    };
}
