using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>SNELL (arXiv 2411.01800): W_eff = W + Sᵀ, S made of the distances between the rows of two tables, of which only the largest stay. What is trained has
/// the size of LoRA at the same rank; the rank of S is not limited. The start is near W, not at it. The official training drops a tenth of the inputs and
/// a tenth of the samples, decays the tables by 1e-2 and adapts every linear layer of every block.</summary>
public sealed record SnellConfig() : AdapterConfig("SNELL")
{
    /// <summary>r: columns of both heads of a table together, r/2 each; an odd one counts as r - 1.</summary>
    [JsonPropertyName("r")]
    public int Rank { get; init; } = 8;

    /// <summary>Share of the entries of S that the threshold drops.</summary>
    [JsonPropertyName("sparsity"), JsonConverter(typeof(FloatConverter))]
    public double Sparsity { get; init; } = 0.9;

    /// <summary>What is made of the distances: official, paper-soft, or klora (all of them, as they are).</summary>
    [JsonPropertyName("mode"), JsonConverter(typeof(SnellModeConverter))]
    public SnellMode Mode { get; init; } = SnellMode.Official;

    /// <summary>p of the distance.</summary>
    [JsonPropertyName("norm_p"), JsonConverter(typeof(NumberConverter))]
    public double Norm { get; init; } = 2;

    /// <summary>The official code makes the un-sparsified kernel of sparsity 0, and so does mode official here; true: it thresholds at 0 too, which drops the
    /// smallest entry and squares the others.</summary>
    [JsonPropertyName("threshold_at_zero")]
    public bool ThresholdAtZero { get; init; }

    /// <summary>Share of the adapter's inputs dropped in training.</summary>
    [JsonPropertyName("snell_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <summary>Share of the samples (first dimension of the input) that a step of training takes past the adapter; the others count by 1/(1 - share).</summary>
    [JsonPropertyName("drop_path"), JsonConverter(typeof(FloatConverter))]
    public double DropPath { get; init; }

    /// <summary>How the tables become S.</summary>
    public SnellRule Rule => new(Sparsity, Mode == SnellMode.Official && Sparsity == 0 && !ThresholdAtZero ? SnellMode.Distances : Mode, Norm);

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Snell(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => 2L * (Rank / 2) * (site.Inputs + site.Outputs);

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        if (Rank < 2)
        {
            throw Bad("r", Rank, "at least 2 (SNELL has two heads)");
        }
        if (Rule.FindFault() is var (operand, got, want))
        {
            throw Bad(operand switch { nameof(SnellRule.Sparsity) => "sparsity", nameof(SnellRule.Norm) => "norm_p", _ => "mode" }, got, want);
        }
        RequireShare("snell_dropout", Dropout);
        RequireShare("drop_path", DropPath);
    }
}

/// <summary>P [2, in, r/2] and Q [2, out, r/2], uniform on ±1/√(elements of a head). What training does not drop is one product with W + Sᵀ.</summary>
internal sealed class Snell : Adapter
{
    private readonly SnellConfig config;
    private readonly SnellRule rule;
    private readonly InputDropout dropout;
    private readonly Rng draws;
    private readonly Parameter p, q;
    private long calls;

    public Snell(SnellConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        (this.config, rule, draws) = (config, config.Rule, rng.Fork("drop path"));
        dropout = DropInputs(config.Dropout, rng);
        Parameter Table(string suffix, int rows) => Declare(suffix, Init.KaimingUniform(Math.Sqrt(5)).Make(store, rng.Fork(suffix), [2, rows, config.Rank / 2], Precision));
        p = Table("snell_P", site.Inputs);
        q = Table("snell_Q", site.Outputs);
    }

    internal override string? Remark => config.Rank % 2 == 0 ? null : $"{Path}: r is {config.Rank}, of which SNELL's two heads use {config.Rank - 1}";

    /// <summary>Sᵀ [out,in].</summary>
    internal override Tensor SparseDelta() => Checked(() => new SnellWeight(rule).Apply(Site.Weight.Value.Device.Current!.NewZeros([Site.Outputs, Site.Inputs], Precision), p, q));

    public override Tensor EffectiveWeight() => Checked(() => new SnellWeight(rule).Apply(Site.WeightMatrix(), p, q));

    public override Tensor Forward(Tensor x)
    {
        Tensor? own = DropSamples(dropout.Apply(x), x);
        return own is null
            ? Checked(() => new SnellLinear(rule).Apply(x, Site.Weight, p, q, Site.Bias?.Value))
            : new Add().Apply(Site.BaseForward(x), Checked(() => new SnellLinear(rule).Apply(own, null, p, q)));
    }

    internal override void StartStep(long step)
    {
        base.StartStep(step);
        calls = 0;
    }

    private Tensor? DropSamples(Tensor? dropped, Tensor x)
    {
        if (config.DropPath == 0 || x.Device.Current is not Tape tape)
        {
            return dropped;
        }
        Rng call = draws.Fork($"{Step}.{tape.Next(ref calls)}");
        int samples = x.Shape.Rank == 1 ? 1 : x.Shape[0];
        Tensor kept = tape.Of([samples], [.. Enumerable.Range(0, samples).Select(i => call.Uniform(i) < config.DropPath ? 0 : 1 / (1 - config.DropPath))], Precision);
        return new ScaleRows().Apply((dropped ?? x).Reshape(x.Shape.Rank == 1 ? [1, x.Shape[0]] : x.Shape), kept).Reshape(x.Shape);
    }

    private Tensor Checked(Func<Tensor> compute)
    {
        try
        {
            return compute();
        }
        catch (NumericException error)
        {
            throw new InvalidOperationException($"Snell: on {Path}: {error.Message}", error);
        }
    }
}

/// <summary>The words of the official code and of its paper.</summary>
internal sealed class SnellModeConverter : JsonConverter<SnellMode>
{
    private static readonly (SnellMode Mode, string Word)[] Words = [(SnellMode.Official, "official"), (SnellMode.PaperSoft, "paper-soft"), (SnellMode.Distances, "klora")];

    public override SnellMode Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        string? word = reader.TokenType == JsonTokenType.String ? reader.GetString() : null;
        int i = Array.FindIndex(Words, w => w.Word == word);
        return i >= 0 ? Words[i].Mode : throw new JsonException($"{word ?? reader.TokenType.ToString()}, want one of {string.Join(", ", Words.Select(w => w.Word))}");
    }

    public override void Write(Utf8JsonWriter writer, SnellMode value, JsonSerializerOptions options) => writer.WriteStringValue(Words.First(w => w.Mode == value).Word);
}
