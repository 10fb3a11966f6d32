using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>A learned number for each head and bucket of distances, added to the scores (T5, arXiv 1910.10683): near keys have buckets of their own, farther ones
/// share buckets that grow as the logarithm of the distance, all beyond a distance share the last.</summary>
internal sealed class RelativeBias(PretrainedModel model, Place table, int buckets, int most, int heads, bool causal)
{
    private readonly Site table = model.Embedding(table, buckets, heads);

    /// <summary>[heads, tokens, tokens].</summary>
    public Tensor Of(int tokens)
    {
        int[] near = [.. Enumerable.Range(1 - tokens, (2 * tokens) - 1).Select(r => T5.Bucket(r, buckets, most, causal))];
        var ids = new int[tokens * tokens];
        for (int i = 0; i < ids.Length; i++)
        {
            ids[i] = near[(i % tokens) - (i / tokens) + tokens - 1];
        }
        Tensor rows = table.Forward(model.Device.Current!.Of([1, ids.Length], ids));     // [1, tokens², heads]
        return new Transpose().Apply(rows).Reshape([heads, tokens, tokens]);
    }
}
