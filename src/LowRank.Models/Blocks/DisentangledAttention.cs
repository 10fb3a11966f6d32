using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>What the layers of one pass share of relative positions (DeBERTa, arXiv 2006.03654, section 3.1).</summary>
/// <param name="Table">Embeddings of distances [places, d], in the activations' type.</param>
/// <param name="OfQueries">I32 [batch·heads·tokens²]: where in [heads, batch·tokens, places] the score of (batch, head, query, key) by query and distance is.</param>
/// <param name="OfKeys">The same by key and distance.</param>
/// <param name="Barred">[batch·heads, tokens, tokens]: 0, or so low that a key is never seen; null where all is text.</param>
/// <param name="Text">[batch·tokens]: 1 for text, 0 for padding; null where all is text.</param>
internal sealed record RelativePlaces(Tensor Table, Tensor OfQueries, Tensor OfKeys, Tensor? Barred, Tensor? Text)
{
    /// <summary>x [batch, tokens, d] with zeros at padding.</summary>
    public Tensor Masked(Tensor x) => Masked(x, Text);

    /// <summary>Places and masks of a batch.</summary>
    /// <param name="scope">Of the pass.</param>
    /// <param name="table">Embeddings of distances.</param>
    /// <param name="batch">Texts.</param>
    /// <param name="heads">Heads a layer.</param>
    /// <param name="distance">The row of the table for query i and key j, by i − j.</param>
    public static RelativePlaces Of(Scope scope, Tensor table, TextBatch batch, int heads, Func<int, int> distance)
    {
        int rows = batch.Rows, tokens = batch.Tokens, places = table.Shape[0];
        int[] near = [.. Enumerable.Range(1 - tokens, (2 * tokens) - 1).Select(distance)];
        var (queries, keys) = (new int[rows * heads * tokens * tokens], new int[rows * heads * tokens * tokens]);
        double[]? barred = batch.Mask is null ? null : new double[queries.Length];
        int at = 0;
        for (int row = 0; row < rows; row++)
        {
            for (int head = 0; head < heads; head++)
            {
                int first = ((head * rows) + row) * tokens;
                for (int i = 0; i < tokens; i++)
                {
                    for (int j = 0; j < tokens; j++, at++)
                    {
                        int d = near[i - j + tokens - 1];
                        (queries[at], keys[at]) = (checked(((first + i) * places) + d), ((first + j) * places) + d);
                        if (barred is not null && !batch.IsText((row * tokens) + j))
                        {
                            barred[at] = Never;
                        }
                    }
                }
            }
        }
        DType parameters = table.DType.ForParameters();
        return new(
            table,
            scope.Of([queries.Length], queries),
            scope.Of([keys.Length], keys),
            barred is null ? null : scope.Of([rows * heads, tokens, tokens], barred, parameters),
            TextOf(scope, batch, parameters));
    }

    /// <summary>1 for text and 0 for padding [rows·tokens], or null.</summary>
    public static Tensor? TextOf(Scope scope, TextBatch batch, DType type) => batch.Mask is null ? null : scope.Of([batch.Mask.Length], [.. batch.Mask.Select(m => (double)m)], type);

    /// <summary>x [batch, tokens, d] with its rows times <paramref name="text"/>.</summary>
    public static Tensor Masked(Tensor x, Tensor? text) => text is null ? x : new ScaleRows().Apply(x.Reshape([text.Shape[0], x.Shape.Cols]), text).Reshape(x.Shape);

    private const double Never = -1e30;
}

/// <summary>Self-attention whose scores add, to those of content by content, content by distance and distance by content: with P_K and P_Q the projections of the
/// table, s_ij = (q_i·k_j + q_i·P_K[d_ij] + k_j·P_Q[d_ij]) / √(dim·(1 + terms)) (arXiv 2006.03654, equation 4). The distances' scores go through memory,
/// [heads, batch·tokens, places] and [batch·heads, tokens, tokens].</summary>
internal sealed class DisentangledAttention : ILayerAttention
{
    private readonly int heads, width;
    private readonly double scale;
    private readonly Site query, key, value, output;
    private readonly Site? ofKeys, ofQueries;

    /// <param name="model">Where the weights go.</param>
    /// <param name="layer">The layer's attention.</param>
    /// <param name="width">d.</param>
    /// <param name="heads">A divisor of it.</param>
    /// <param name="shared">The table goes through the projections of the content; false: through its own.</param>
    /// <param name="contentToPlace">q_i·P_K counts.</param>
    /// <param name="placeToContent">k_j·P_Q counts.</param>
    public DisentangledAttention(PretrainedModel model, Place layer, int width, int heads, bool shared, bool contentToPlace, bool placeToContent)
    {
        (this.heads, this.width) = (heads, width);
        scale = 1 / Math.Sqrt((double)width / heads * (1 + (contentToPlace ? 1 : 0) + (placeToContent ? 1 : 0)));
        Site Projection(string name) => model.Linear(layer.At($"self.{name}"), width, width, bias: true);
        (query, key, value) = (Projection("query_proj"), Projection("key_proj"), Projection("value_proj"));
        ofKeys = !contentToPlace ? null : shared ? key : Projection("pos_key_proj");
        ofQueries = !placeToContent ? null : shared ? query : Projection("pos_query_proj");
        output = model.Linear(layer.At("output.dense"), width, width, bias: true);
    }

    public Tensor Forward(Tensor x, AttentionContext context)
    {
        (RelativePlaces relative, int batch, int tokens) = (context.Relative!, x.Shape[0], x.Shape[1]);
        Tensor q = query.Forward(x), k = key.Forward(x), v = value.Forward(x);
        Tensor? bias = relative.Barred;
        foreach ((Tensor content, Site? places, Tensor at) in (ReadOnlySpan<(Tensor, Site?, Tensor)>)[(q, ofKeys, relative.OfQueries), (k, ofQueries, relative.OfKeys)])
        {
            if (places is not null)
            {
                Tensor term = new Gather().Apply(Scores(content, places.Forward(relative.Table)), at).Reshape([batch * heads, tokens, tokens]);
                bias = bias is null ? term : new Add().Apply(term, bias);
            }
        }
        // Each text has scores of its own to add: its heads are heads of one attention over all texts.
        Shape folded = [1, tokens, batch * width];
        Tensor Fold(Tensor t) => Swapped(t, batch, tokens).Reshape(folded);
        Tensor y = new Attention(batch * heads) { Scale = scale }.Apply(Fold(q), Fold(k), Fold(v), null, bias);
        return output.Forward(Swapped(y, tokens, batch).Reshape(x.Shape));
    }

    /// <summary>scale·content·placesᵀ by head: content [batch, tokens, d] and places [n, d] → [heads·batch·tokens·n, 1].</summary>
    private Tensor Scores(Tensor content, Tensor places)
    {
        int rows = checked((int)(content.Shape.Count / width)), n = places.Shape[0], dim = width / heads;
        DType type = content.DType.ForParameters();
        Tensor Wide(Tensor t) => t.DType == type ? t : new Cast(type).Apply(t);
        Tensor byHead = new Transpose().Apply(new Transpose().Apply(Wide(content).Reshape([rows, width])).Reshape([heads, dim, rows]));     // [heads, rows, dim]
        Tensor across = new Transpose().Apply(Wide(places)).Reshape([heads, dim, n]);
        Tensor zero = content.Device.Current!.NewZeros([heads, rows, n], type);
        return new AddMatMul(scale).Apply(zero, byHead, across).Reshape([checked(heads * rows * n), 1]);
    }

    /// <summary>[a, b, d] → [b, a, d].</summary>
    private Tensor Swapped(Tensor x, int a, int b) =>
        new Transpose().Apply(new Transpose().Apply(x.Reshape([a, b * width])).Reshape([b, width, a]));
}
