using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>How SALT's low-rank part starts.</summary>
[JsonConverter(typeof(SaltVariantConverter))]
public enum SaltVariant
{
    /// <summary>Of the code for SAM 2: X uniform on ±√(6/r_lora), Y zero, so that W_eff = W.</summary>
    V2,
    /// <summary>Of the code for SAM: X and Y normal with a deviation of 0.01, so that W_eff differs from W a little.</summary>
    V1,
}

/// <summary>SALT (arXiv 2503.16055): with W = U·diag(S)·Vᵀ the largest r singular values become a ⊙ S + b and the block of the other q gets a low-rank change:
/// W_eff = U·relu(C)·Vᵀ, C diagonal in its first r rows and columns and diag(S_rest) + X·Y in the rest, relu element by element; X [q,l], Y [l,q]. U, S and V are
/// frozen and go into the file: X and Y mean nothing beside the factors of another decomposition. There is no scale alpha/r. A convolution's weight is taken
/// as [out, in·kh·kw]. Where the official code seeds every layer with 42, starts here depend on the layer's path.</summary>
public sealed record SaltConfig() : AdapterConfig("SALT")
{
    /// <summary>r: how many of the largest singular values are scaled and shifted; null: by <see cref="Ratio"/>.</summary>
    [JsonPropertyName("r")]
    public int? Rank { get; init; }

    /// <summary>rho: r as a share of min(out, in), rounded down, at least 1.</summary>
    [JsonPropertyName("rho")]
    public double Ratio { get; init; } = 0.1;

    /// <summary>l: rank of X·Y.</summary>
    [JsonPropertyName("r_lora")]
    public int LowRank { get; init; } = 8;

    /// <summary>First values.</summary>
    [JsonPropertyName("variant")]
    public SaltVariant Variant { get; init; }

    /// <summary>Factor of the penalty ‖a ⊙ S + b − S‖ + ‖X·Y‖ (norms, not squares) over all layers; 0: none.</summary>
    [JsonPropertyName("reg_lambda")]
    public double Regularization { get; init; } = 0.01;

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind is SiteKind.Linear or SiteKind.Conv2d;

    /// <summary>r of a layer.</summary>
    /// <exception cref="AdapterConfigException">It has fewer singular values.</exception>
    public int Top(Site site)
    {
        int all = Math.Min(site.Outputs, site.Inputs), top = Rank ?? Math.Max(1, (int)(all * Ratio));
        return top <= all ? top : throw Bad("r", $"{top} for {site.Path}, whose weight is [{site.Outputs}, {site.Inputs}]", $"1 .. {all}, as many as it has singular values");
    }

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => new Salt(this, site, rng, store);

    /// <inheritdoc/>
    public override long ParameterCount(Site site)
    {
        long top = Top(site), rest = Math.Min(site.Outputs, site.Inputs) - top;
        return 2 * (top + (rest * LowRank));
    }

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("r", Rank ?? 1);
        RequireRank("r_lora", LowRank);
        if (!(Ratio > 0 && Ratio <= 1))
        {
            throw Bad("rho", Ratio, "more than 0, up to 1");
        }
        if (!(Regularization >= 0 && double.IsFinite(Regularization)))
        {
            throw Bad("reg_lambda", Regularization, "a finite number of 0 or more");
        }
    }
}

internal sealed class SaltVariantConverter : JsonConverter<SaltVariant>
{
    public override SaltVariant Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        reader.TokenType == JsonTokenType.String && reader.ValueTextEquals("V1") ? SaltVariant.V1
        : reader.TokenType == JsonTokenType.String && reader.ValueTextEquals("V2") ? SaltVariant.V2
        : throw new JsonException("want V1 or V2");

    public override void Write(Utf8JsonWriter writer, SaltVariant value, JsonSerializerOptions options) => writer.WriteStringValue(value == SaltVariant.V1 ? "V1" : "V2");
}
