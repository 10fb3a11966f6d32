using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Rows of an embedding are trained and the rest of it stays: W_eff = W with the rows of some tokens replaced. In a layer that is tied to the
/// embedding, such as the output over the vocabulary, they are replaced too.</summary>
public sealed record TrainableTokensConfig() : AdapterConfig("TRAINABLE_TOKENS")
{
    /// <summary>Ids of the tokens, in the order of the rows in the file.</summary>
    [JsonPropertyName("token_indices")]
    public IReadOnlyList<int> Tokens { get; init; } = [];

    /// <summary>The rows start as they are in W; false: uniform on 0 .. 1.</summary>
    [JsonPropertyName("init_weights")]
    public bool InitWeights { get; init; } = true;

    /// <inheritdoc/>
    internal override IReadOnlyList<string> OwnKeys => ["exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"];

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Embedding;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new TrainableTokens(Rows(site), site, rng, store);

    /// <inheritdoc/>
    internal override IEnumerable<Adapter> CreateAll(Model model, IReadOnlyList<Site> sites, Rng rng, Scope store) =>
        sites.SelectMany(site => TrainableTokens.WithTied(Rows(site), model, site, rng.Fork(site.Path), store));

    /// <inheritdoc/>
    public override long ParameterCount(Site site) => (long)Tokens.Count * site.Inputs;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        TokenRows.Require(this, "token_indices", Tokens);
    }

    private TokenRows Rows(Site site) => TokenRows.Of(this, "token_indices", Tokens, site) with { KeepsStart = InitWeights };
}

/// <summary>Which rows of an embedding are trained, and the suffix of their key in a file.</summary>
internal sealed record TokenRows(IReadOnlyList<int> Tokens, string Suffix)
{
    /// <summary>Suffix of the keys.</summary>
    public const string Key = "trainable_tokens_delta";

    /// <summary>The rows start as they are.</summary>
    public bool KeepsStart { get; init; } = true;

    /// <exception cref="AdapterConfigException">An id lies outside the vocabulary.</exception>
    public static TokenRows Of(AdapterConfig config, string setting, IReadOnlyList<int> tokens, Site site, string suffix = Key)
    {
        int outside = tokens.FirstOrDefault(token => token >= site.Outputs, -1);
        return outside < 0 ? new(tokens, suffix)
            : throw new AdapterConfigException($"{config.GetType().Name}: {setting} names token {outside}, want ids below {site.Outputs}, the rows of {site.Path}");
    }

    /// <exception cref="AdapterConfigException">There is no id, or one is negative or named twice.</exception>
    public static void Require(AdapterConfig config, string setting, IReadOnlyList<int>? tokens)
    {
        string? wrong = tokens is not { Count: > 0 } ? "is empty, want ids of tokens"
            : tokens.Any(token => token < 0) ? $"names token {tokens.First(token => token < 0)}, want ids of at least 0"
            : tokens.GroupBy(token => token).FirstOrDefault(g => g.Count() > 1) is { } twice ? $"names token {twice.Key} twice, want each once"
            : null;
        if (wrong is not null)
        {
            throw new AdapterConfigException($"{config.GetType().Name}: {setting} {wrong}");
        }
    }
}

/// <summary>W_eff = W + S·(rows - W[tokens]) with S [vocabulary,n] one where a row is a token's and rows [n,width] trained, so that neither a lookup nor a
/// product over the vocabulary has to copy W; S takes 4·vocabulary·n bytes. The file calls the rows a delta, which they are not.</summary>
internal sealed class TrainableTokens : Adapter
{
    private readonly TrainableTokens? first;
    private readonly Tensor chosen, before;     // S, W[tokens]
    private readonly Parameter rows;
    private readonly string suffix;

    public TrainableTokens(TokenRows tokens, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        (int vocabulary, int width, int n) = (site.Outputs, site.Inputs, tokens.Tokens.Count);
        var marks = new float[checked(vocabulary * n)];
        for (int i = 0; i < n; i++)
        {
            marks[(tokens.Tokens[i] * n) + i] = 1;
        }
        chosen = store.Of([vocabulary, n], marks, Precision);
        using Scope scope = site.Weight.Value.Device.BeginScope();
        before = new Gather().Apply(site.WeightMatrix(), scope.Of([n], [.. tokens.Tokens])).CopyTo(store);
        suffix = tokens.Suffix;
        var random = new float[n * width];
        rng.FillUniform(random, 0, 1);
        rows = Declare(suffix, tokens.KeepsStart ? before.CopyTo(store) : store.Of([n, width], random, Precision));
    }

    private TrainableTokens(TrainableTokens first, Site tied, Scope store)
        : base(tied, store)
    {
        this.first = first;
        (chosen, before, rows, suffix) = (first.chosen, first.before, first.rows, first.suffix);
    }

    internal override Adapter? TiedTo => first;

    private Tensor Change => new Add(-1).Apply(rows, before);

    /// <summary>The adapter of an embedding, then those of the layers that share its weight.</summary>
    public static IEnumerable<Adapter> WithTied(TokenRows tokens, Model model, Site site, Rng rng, Scope store)
    {
        var own = new TrainableTokens(tokens, site, rng, store);
        yield return own;
        foreach (Site tied in model.Sites.Where(s => s != site && s.Weight == site.Weight))
        {
            yield return new TrainableTokens(own, tied, store);
        }
    }

    public override Tensor EffectiveWeight() => new AddMatMul(1).Apply(Site.WeightMatrix(), chosen, Change);

    public override Tensor Forward(Tensor x)
    {
        if (Site.Kind != SiteKind.Embedding)
        {
            return new LoraLinear(1).Apply(x, Site.Weight, Change, chosen, Site.Bias?.Value);
        }
        return new Add().Apply(new Gather().Apply(Site.Weight, x), new Linear().Apply(new Gather().Apply(chosen, x), new Transpose().Apply(Change)));
    }

    /// <summary>A tied layer repeats the rows under its own name, as PEFT does.</summary>
    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope) => [(suffix, rows.Value)];
}
