using System.Globalization;
using System.Text.RegularExpressions;
using LowRank.Formats;

namespace LowRank.Adapters.Tests;

/// <summary>The convolutions over images of the peft goldens: y = fc(mean over the image of c2(relu(c1(x)))), strides and paddings as the case's own words say.</summary>
internal sealed partial class Images : Model
{
    private readonly List<Site> layers = [];
    private readonly Site last;

    /// <param name="device">Where it goes.</param>
    /// <param name="type">Of everything.</param>
    /// <param name="source">The weights.</param>
    /// <param name="words">For example <c>c1: Conv2d(3,6,3,pad 1); relu; c2: Conv2d(6,4,3,stride 2)</c>.</param>
    public Images(Device device, DType type, TensorSource source, string words)
        : base(device, type)
    {
        Site Load(string path, SiteKind kind, Convolution convolution) => Add(new Site(
            path, kind, Add(path + ".weight", source.Load(path + ".weight", Store, type)), Add(path + ".bias", source.Load(path + ".bias", Store, type)))
        { Convolution = convolution });
        foreach (System.Text.RegularExpressions.Match layer in Layer().Matches(words))
        {
            string settings = layer.Groups[2].Value;
            layers.Add(Load(layer.Groups[1].Value, SiteKind.Conv2d, new() { Stride = Number(settings, "stride", 1), Padding = Number(settings, "pad", 0) }));
        }
        last = Load("fc", SiteKind.Linear, new());
    }

    public Tensor Forward(Tensor x)
    {
        foreach (Site layer in layers)
        {
            x = layer.Forward(layer == layers[0] ? x : new Relu().Apply(x));
        }
        (int batch, int channels, int size) = (x.Shape[0], x.Shape[1], x.Shape[2] * x.Shape[3]);
        Tensor mean = Device.Current!.New([size, 1], x.DType);
        mean.Fill(1.0 / size);
        return last.Forward(new MatMul().Apply(x.Reshape([batch * channels, size]), mean).Reshape([batch, channels]));
    }

    private static int Number(string words, string name, int otherwise) =>
        Regex.Match(words, $@"{name} (\d+)") is { Success: true } found ? int.Parse(found.Groups[1].Value, CultureInfo.InvariantCulture) : otherwise;

    [GeneratedRegex(@"(\w+): Conv2d\(([^)]*)\)")]
    private static partial Regex Layer();
}
