using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Training.Tests;

/// <summary>How an architecture computes the outputs and the loss of a golden training case from a micro-batch. Another model is one more line of <see cref="All"/>.</summary>
/// <param name="Logits">The outputs that the case stores, from the batch's inputs.</param>
/// <param name="Loss">Mean loss over the counted targets, from those outputs.</param>
/// <param name="Counted">Number of counted targets, by which micro-batches weigh where a case averages over all targets of a step.</param>
internal sealed record Architecture(Func<Model, MicroBatch, Tensor> Logits, Func<Tensor, MicroBatch, Tensor> Loss, Func<MicroBatch, int> Counted)
{
    /// <summary>By model_type.</summary>
    public static IReadOnlyDictionary<string, Architecture> All { get; } = new Dictionary<string, Architecture>(StringComparer.Ordinal)
    {
        ["vit"] = new((model, batch) => ((VisionTransformer)model).Forward(batch.Floats("pixel_values")), Classes, batch => batch.Ints("labels").Length),
        ["bert"] = new(Text, Classes, batch => batch.Ints("labels").Length),
        ["gpt2"] = new(Text, NextTokens, Predicted),
        ["llama"] = new(Text, NextTokens, Predicted),
    };

    private static Tensor Text(Model model, MicroBatch batch)
    {
        int[] ids = batch.Ints("input_ids");
        return ((TextModel)model).Forward(new TextBatch(batch.Rows("input_ids"), ids, [.. batch.Ints("attention_mask").Select(m => (byte)m)], batch.Optional("token_type_ids"))).Logits!;
    }

    private static Tensor NextTokens(Tensor logits, MicroBatch batch) => Losses.NextToken(logits, batch.Ints("labels"));

    private static int Predicted(MicroBatch batch) => Losses.Shifted(batch.Ints("labels"), batch.Ints("labels").Length / batch.Rows("labels")).Count(label => label != Losses.Ignored);

    private static Tensor Classes(Tensor logits, MicroBatch batch) => Losses.CrossEntropy(logits, batch.Ints("labels"));
}

/// <summary>The inputs <c>{prefix}{name}</c> of one pass.</summary>
internal sealed class MicroBatch(GoldenCase golden, string prefix, Scope scope, DType type)
{
    public Tensor Floats(string name) => golden.Load(prefix + name, scope, type);

    public int[] Ints(string name) => golden.Ints(prefix + name);

    public int[]? Optional(string name) => golden.Has(prefix + name) ? golden.Ints(prefix + name) : null;

    public int Rows(string name) => golden.Shape(prefix + name)[0];
}
