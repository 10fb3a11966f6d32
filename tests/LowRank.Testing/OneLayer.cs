using LowRank.Adapters;

namespace LowRank.Testing;

/// <summary>A model of one adaptable layer named <c>layer</c>.</summary>
public sealed class OneLayer : Model
{
    private const double Epsilon = 1e-5;

    /// <summary>A layer with the given weights, rounded to <paramref name="type"/>; the bias has parameter precision.</summary>
    public OneLayer(Device device, DType type, SiteKind kind, Shape shape, ReadOnlySpan<double> w, double[]? bias = null, Convolution? convolution = null, bool pack = false)
        : base(device, type)
    {
        Tensor weight = Store.Of(shape, w, kind == SiteKind.Norm ? type.ForParameters() : type);
        Site = Add(new Site(
            "layer",
            kind,
            Add("layer.weight", pack && kind == SiteKind.Linear ? Packing.Pack(weight, Store) : weight),
            bias is null ? null : Add("layer.bias", Store.Of([bias.Length], bias, type.ForParameters())))
        {
            Convolution = convolution ?? new(),
            Normalization = kind != SiteKind.Norm ? null : bias is null ? new RmsNorm(Epsilon) : new LayerNorm(Epsilon),
        });
    }

    /// <summary>The layer.</summary>
    public Site Site { get; }
}
