using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>How an architecture's attention differs in size and kind from the next.</summary>
internal sealed record AttentionShape(int Width, int Heads, bool Bias, bool Causal = false)
{
    /// <summary>Channels a head.</summary>
    public int HeadDim { get; init; } = Width / Heads;

    /// <summary>Heads of keys and values.</summary>
    public int KvHeads { get; init; } = Heads;

    /// <summary>Bias of the keys' projection.</summary>
    public bool KeyBias { get; init; } = Bias;

    /// <summary>Bias of the output projection.</summary>
    public bool OutputBias { get; init; } = true;

    /// <summary>Keys that a query sees at most; 0: all.</summary>
    public int Window { get; init; }

    /// <summary>Turns queries and keys by their positions; null: they stay.</summary>
    public RotaryAngles? Rotary { get; init; }

    /// <summary>Epsilon of an RMSNorm over each head of queries and keys; null: none.</summary>
    public double? HeadNorm { get; init; }

    /// <summary>The weights of that norm count from one.</summary>
    public bool HeadNormFromOne { get; init; }

    /// <summary>Soft cap of the scores; 0: none.</summary>
    public double SoftCap { get; init; }

    /// <summary>Factor of the scores; null: 1/√HeadDim.</summary>
    public double? Scale { get; init; }

    public Attention Op => new(Heads, Causal, KvHeads, Window) { Scale = Scale ?? 0, SoftCap = SoftCap };
}

/// <summary>Names of the projections: module path and path in the file, each beside the block's own. A fused one holds queries, keys and values in this order.</summary>
internal sealed record AttentionNames(Place Query, Place Key, Place Value, Place Output)
{
    /// <summary>A single projection in place of the three.</summary>
    public Place? Fused { get; init; }

    /// <summary>That projection holds query, key and value of the first head, then those of the second, and so on.</summary>
    public bool ByHead { get; init; }

    /// <summary>Norms of the heads of queries and keys, where the shape asks for them.</summary>
    public Place QueryNorm { get; init; }

    /// <inheritdoc cref="QueryNorm"/>
    public Place KeyNorm { get; init; }
}

/// <summary>The attention of a layer: x [batch, tokens, d] → the same shape.</summary>
internal interface ILayerAttention
{
    Tensor Forward(Tensor x, AttentionContext context);
}

/// <summary>Multi-head self-attention: x [batch, tokens, d] → the same shape, y = concat_h softmax(q_h·k_hᵀ/√dim) v_h · W_oᵀ + b_o.</summary>
internal sealed class SelfAttention : ILayerAttention
{
    private readonly AttentionShape shape;
    private readonly Site? query, key, value, fused;
    private readonly Site output;
    private readonly bool byHead;
    private readonly Norm? queryNorm, keyNorm;
    private readonly Attention op;

    /// <param name="model">Where the weights go.</param>
    /// <param name="names">Of the projections.</param>
    /// <param name="shape">Sizes and kind.</param>
    /// <param name="transposed">The file holds the projections as [in, out].</param>
    public SelfAttention(PretrainedModel model, AttentionNames names, AttentionShape shape, bool transposed = false)
    {
        this.shape = shape;
        int wide = shape.Heads * shape.HeadDim, narrow = shape.KvHeads * shape.HeadDim;
        if (names.Fused is { } all)
        {
            byHead = names.ByHead;
            fused = model.Linear(all, wide + (2 * narrow), shape.Width, shape.Bias, transposed: transposed);
        }
        else
        {
            query = model.Linear(names.Query, wide, shape.Width, shape.Bias);
            key = model.Linear(names.Key, narrow, shape.Width, shape.KeyBias);
            value = model.Linear(names.Value, narrow, shape.Width, shape.Bias);
        }
        output = model.Linear(names.Output, shape.Width, wide, shape.OutputBias, transposed: transposed);
        if (shape.HeadNorm is { } epsilon)
        {
            queryNorm = new Norm(model, names.QueryNorm, shape.HeadDim, new RmsNorm(epsilon), shape.HeadNormFromOne);
            keyNorm = new Norm(model, names.KeyNorm, shape.HeadDim, new RmsNorm(epsilon), shape.HeadNormFromOne);
        }
        op = shape.Op;
    }

    public Tensor Forward(Tensor x, AttentionContext context)
    {
        int wide = shape.Heads * shape.HeadDim, narrow = shape.KvHeads * shape.HeadDim;
        Tensor q, k, v;
        if (fused is null)
        {
            (q, k, v) = (query!.Forward(x), key!.Forward(x), value!.Forward(x));
        }
        else
        {
            Tensor all = fused.Forward(x);
            (q, k, v) = byHead
                ? (OfHeads(all, 0), OfHeads(all, 1), OfHeads(all, 2))
                : (new Columns(0, wide).Apply(all), new Columns(wide, narrow).Apply(all), new Columns(wide + narrow, narrow).Apply(all));
        }
        (q, k) = (Normed(q, queryNorm), Normed(k, keyNorm));
        if (shape.Rotary is { } angles)
        {
            Tensor table = angles.Table(context.PositionCount);
            q = new Rope(shape.Heads).Apply(q, table, context.Positions);
            k = new Rope(shape.KvHeads).Apply(k, table, context.Positions);
        }
        if (context.Cache is not { } cache)
        {
            return output.Forward(op.Apply(q, k, v, context.Mask, context.Bias));
        }
        (Tensor keys, Tensor values, Tensor? mask) = cache.Append(this, k, v, shape.Window);
        // The first pass is an ordinary one; after it the mask says what a single query sees.
        return output.Forward(cache.IsFirst ? op.Apply(q, k, v, context.Mask) : (op with { Causal = false, Window = 0 }).Apply(q, keys, values, mask));
    }

    /// <summary>Attention of x to another sequence: queries of x [batch, tokens, d], keys and values of what the context remembers [batch, other tokens, d].</summary>
    public Tensor Across(Tensor x, AttentionContext context) =>
        output.Forward(op.Apply(query!.Forward(x), key!.Forward(context.Memory!), value!.Forward(context.Memory!), context.MemoryMask));

    // The i-th of the three vectors that each head has in a row of `all`
    private Tensor OfHeads(Tensor all, int i)
    {
        Shape heads = [checked((int)(all.Shape.Count / (3 * shape.HeadDim))), 3 * shape.HeadDim];
        return new Columns(i * shape.HeadDim, shape.HeadDim).Apply(all.Reshape(heads)).Reshape(all.Shape.WithCols(shape.Heads * shape.HeadDim));
    }

    private Tensor Normed(Tensor x, Norm? norm)
    {
        if (norm is null)
        {
            return x;
        }
        Shape heads = [checked((int)(x.Shape.Count / shape.HeadDim)), shape.HeadDim];
        return norm.Forward(x.Reshape(heads)).Reshape(x.Shape);
    }
}

/// <summary>What every layer of one forward pass shares.</summary>
/// <param name="Mask">U8 [batch, tokens], 0 bars a token; null lets all be seen.</param>
/// <param name="Positions">I32 [batch, tokens]; null where nothing asks for them.</param>
/// <param name="PositionCount">All positions are below it.</param>
/// <param name="Cache">Keys and values of the tokens before.</param>
internal sealed record AttentionContext(Tensor? Mask, Tensor? Positions = null, int PositionCount = 0, KeyValueCache? Cache = null)
{
    /// <summary>Added to the scores of every layer [heads, queries, keys]; null: nothing.</summary>
    public Tensor? Bias { get; init; }

    /// <summary>What the routers of the layers passed so far decided.</summary>
    public List<Routing> Routings { get; } = [];

    /// <summary>Tables and places of relative positions that depend on the content; null: none.</summary>
    public RelativePlaces? Relative { get; init; }

    /// <summary>What an encoder made [batch, other tokens, d], for layers that look at it.</summary>
    public Tensor? Memory { get; init; }

    /// <summary>U8 [batch, other tokens], as <see cref="Mask"/>.</summary>
    public Tensor? MemoryMask { get; init; }
}
