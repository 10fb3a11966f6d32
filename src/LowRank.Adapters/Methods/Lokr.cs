using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>How w1 and w2 of LoKr start, as PEFT writes it: true, false or "lycoris".</summary>
[JsonConverter(typeof(LokrInitConverter))]
public enum LokrInit
{
    /// <summary>w1 zero: W_eff = W.</summary>
    Default,
    /// <summary>All random.</summary>
    None,
    /// <summary>w2 zero, as LyCORIS has it.</summary>
    Lycoris,
}

/// <summary>LoKr (LyCORIS, arXiv 2309.14859): dW = kron(w1, w2), w1 [p,q], w2 [out/p, in/q] with p and q near the roots of out and in. A factor whose
/// sides exceed twice the rank is itself a product of two of that rank: w2 always, w1 on request.</summary>
public sealed record LokrConfig() : LycorisConfig("LOKR")
{
    /// <summary>w1 may be a product too.</summary>
    [JsonPropertyName("decompose_both")]
    public bool DecomposeBoth { get; init; }

    /// <summary>p and q where they divide out and in, else the most they may be; -1: the divisor nearest below the root.</summary>
    [JsonPropertyName("decompose_factor")]
    public int DecomposeFactor { get; init; } = -1;

    /// <summary>Rows that <see cref="LycorisConfig.RankDropout"/> keeps are divided by their share.</summary>
    [JsonPropertyName("rank_dropout_scale")]
    public bool RescalesRows { get; init; }

    /// <summary>First values.</summary>
    [JsonPropertyName("init_weights")]
    public LokrInit Init { get; init; }

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Lokr(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site)
    {
        LokrShape s = LokrShape.Of(this, site);
        long rank = RankOf(site), first = s.SplitsFirst ? rank * (s.P + s.Q) : (long)s.P * s.Q;
        return first + (!s.SplitsSecond ? (long)s.Rows * s.Cols * s.Taps : IsEffective(site) ? rank * (s.Rows + s.Cols + (rank * s.Taps)) : rank * (s.Rows + (s.Cols * s.Taps)));
    }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (DecomposeFactor is not (-1 or > 0))
        {
            throw Bad("decompose_factor", DecomposeFactor, "-1 or at least 1");
        }
    }
}

/// <summary>Sizes of the factors: w1 [P,Q], w2 [Rows, Cols] with <paramref name="Taps"/> numbers each, and which are split.</summary>
internal readonly record struct LokrShape(int P, int Rows, int Q, int Cols, int Taps, bool SplitsFirst, bool SplitsSecond)
{
    public static LokrShape Of(LokrConfig config, Site site)
    {
        int rank = config.RankOf(site);
        (int p, int rows) = Factors(site.Outputs, config.DecomposeFactor);
        (int q, int cols) = Factors(site.Weight.Value.Shape[1], config.DecomposeFactor);
        return new(p, rows, q, cols, LycorisConfig.Taps(site), config.DecomposeBoth && 2L * rank < Math.Max(p, q), 2L * rank < Math.Max(rows, cols));
    }

    /// <summary>Two factors of n. As PEFT (and LyCORIS) has it: a sum below 1 + n is good enough, so the last divisor under the root is taken.</summary>
    public static (int Small, int Large) Factors(int n, int most)
    {
        if (most > 0 && n % most == 0)
        {
            return (most, n / most);
        }
        (int small, int large) = (1, n);
        while (small < large)
        {
            int next = small + 1;
            while (n % next != 0)
            {
                next++;
            }
            if (next + (n / next) > 1 + n || (most > 0 && next > most))
            {
                break;
            }
            (small, large) = (next, n / next);
        }
        return (Math.Min(small, large), Math.Max(small, large));
    }
}

/// <summary>w1 [p,q] or w1_a [p,r]·w1_b [r,q]; w2 [rows,cols], of a convolution [rows,cols,kh,kw], or w2_a [rows,r]·w2_b [r, cols·kh·kw], or in the effective
/// form w2_a [r,rows], w2_b [r,cols], t2 [r,r,kh,kw]. dW is never formed: x seen as [q, cols] a row gives y = w1·x·w2ᵀ [p, rows].</summary>
internal sealed class Lokr : Lycoris
{
    private readonly LokrShape shape;
    private readonly Parameter? w1, a1, b1, w2, a2, b2, t2;

    public Lokr(LokrConfig config, Site site, Rng rng, Scope store)
        : base(config, site, rng, store, config.RescalesRows)
    {
        shape = LokrShape.Of(config, site);
        (int p, int rows, int q, int cols, int taps, bool splitsFirst, bool splitsSecond) = shape;
        int rank = config.RankOf(site);
        bool firstZero = config.Init == LokrInit.Default, secondZero = config.Init == LokrInit.Lycoris;
        if (splitsFirst)
        {
            a1 = Declare("lokr_w1_a", [p, rank], firstZero, rng);
            b1 = Declare("lokr_w1_b", [rank, q], zero: false, rng);
        }
        else
        {
            w1 = Declare("lokr_w1", [p, q], firstZero, rng);
        }
        Shape w = site.Weight.Value.Shape;
        if (!splitsSecond)
        {
            w2 = Declare("lokr_w2", site.Kind == SiteKind.Conv2d ? [rows, cols, w[2], w[3]] : [rows, cols], secondZero, rng);
            return;
        }
        a2 = Declare("lokr_w2_a", IsEffective ? [rank, rows] : [rows, rank], zero: false, rng);
        b2 = Declare("lokr_w2_b", IsEffective ? [rank, cols] : [rank, cols * taps], secondZero, rng);
        t2 = IsEffective ? Declare("lokr_t2", [rank, rank, w[2], w[3]], zero: false, rng) : null;
    }

    /// <summary>w1 [p,q].</summary>
    private Tensor First => w1?.Value ?? new MatMul().Apply(a1!, b1!);

    /// <summary>w2 [rows, cols·kh·kw].</summary>
    private Tensor Second => w2?.Value.Reshape([shape.Rows, shape.Cols * shape.Taps]) ?? (t2 is null ? new MatMul().Apply(a2!, b2!) : Effective(t2, a2!, b2!));

    // Row (i, a) of dW holds w1[i,j]·w2[a,:] for j = 0 .. q-1, each scaled row of w2 beside the next.
    protected override Tensor Add(Tensor w, Tensor? kept)
    {
        (int p, int rows, int q) = (shape.P, shape.Rows, shape.Q);
        Scope scope = w.Device.Current!;
        int[] places = [.. Enumerable.Range(0, p * rows * q)];
        Tensor ids1 = scope.Of([places.Length], [.. places.Select(at => (at / (rows * q) * q) + (at % q))]), ids2 = scope.Of([places.Length], [.. places.Select(at => at / q % rows)]);
        Tensor factors = new Gather().Apply(First.Reshape([p * q, 1]), ids1).Reshape([places.Length]);
        return new Add(Scale).Apply(w, new ScaleRows().Apply(new Gather().Apply(Second, ids2), factors).Reshape(w.Shape));
    }

    protected override Tensor Rows(Tensor x, Tensor? kept)
    {
        (int p, int rows, int q, int cols) = (shape.P, shape.Rows, shape.Q, shape.Cols * shape.Taps);
        int tokens = x.Shape.Rows;
        Tensor right = new Linear().Apply(x.Reshape([tokens * q, cols]), Second).Reshape([tokens, q, rows]);                  // x·w2ᵀ
        Tensor both = new Linear().Apply(new Transpose().Apply(right), First);                                              // [tokens, rows, p]
        Tensor delta = new Transpose().Apply(both).Reshape(x.Shape.WithCols(p * rows));
        Tensor w = Site.Kind == SiteKind.Conv2d ? Site.Weight.Value.Reshape([Site.Outputs, Site.Inputs]) : Site.Weight.Value;
        return new Add(Scale).Apply(new Linear().Apply(x, w, Site.Bias?.Value), kept is null ? delta : new Mul().Apply(delta, kept));
    }
}

internal sealed class LokrInitConverter : JsonConverter<LokrInit>
{
    private const string LycorisName = "lycoris";

    public override LokrInit Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) => reader.TokenType switch
    {
        JsonTokenType.True => LokrInit.Default,
        JsonTokenType.False => LokrInit.None,
        JsonTokenType.String when reader.GetString() == LycorisName => LokrInit.Lycoris,
        _ => throw new JsonException($"want true, false or {LycorisName}"),
    };

    public override void Write(Utf8JsonWriter writer, LokrInit value, JsonSerializerOptions options)
    {
        if (value == LokrInit.Lycoris)
        {
            writer.WriteStringValue(LycorisName);
            return;
        }
        writer.WriteBooleanValue(value == LokrInit.Default);
    }
}
