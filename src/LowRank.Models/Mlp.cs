using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>A plain multi-layer perceptron: x [..., widths[0]] → [..., widths[^1]], an activation between the layers, none after the last.</summary>
public sealed class Mlp : Model
{
    private readonly Site[] layers;
    private readonly Op activation;
    private readonly int inputs;

    /// <summary>Random weights as torch's Linear draws them: uniform on ±1/√inputs, biases too. Parameters are <c>layers.{i}.weight</c> and <c>.bias</c>.</summary>
    /// <param name="widths">At least input and output width.</param>
    /// <param name="device">Where it lives.</param>
    /// <param name="rng">The same seed gives the same weights.</param>
    /// <param name="activation">gelu, gelu_new, relu, sigmoid or tanh.</param>
    /// <param name="type">Type of the activations.</param>
    /// <exception cref="ShapeException">Fewer than two widths, or one that is not positive.</exception>
    public Mlp(IReadOnlyList<int> widths, Device device, Rng rng, string activation = "gelu", DType type = DType.F32)
        : base(device, type)
    {
        if (widths.Count < 2 || widths.Any(w => w < 1))
        {
            throw new ShapeException($"Mlp: widths is [{string.Join(", ", widths)}], want at least two positive widths");
        }
        inputs = widths[0];
        this.activation = Activation.Of(activation, "activation");
        layers = new Site[widths.Count - 1];
        for (int i = 0; i < layers.Length; i++)
        {
            Init init = Init.Uniform(1 / Math.Sqrt(widths[i]));
            Parameter Draw(string name, Shape shape) => Add(name, init.Make(Store, rng.Fork(name), shape, type.ForParameters()));
            layers[i] = Add(new Site($"layers.{i}", SiteKind.Linear, Draw($"layers.{i}.weight", [widths[i + 1], widths[i]]), Draw($"layers.{i}.bias", [widths[i + 1]]))
            {
                IsOutput = i == layers.Length - 1,
            });
        }
    }

    /// <summary>x [..., widths[0]] → [..., widths[^1]].</summary>
    /// <exception cref="ShapeException">The last dimension is another.</exception>
    public Tensor Forward(Tensor x)
    {
        if (x.Shape.Rank == 0 || x.Shape.Cols != inputs)
        {
            throw new ShapeException($"Mlp: x is {x.Shape}, want [..., {inputs}]");
        }
        for (int i = 0; i < layers.Length; i++)
        {
            x = layers[i].Forward(i == 0 ? x : activation.Apply(x));
        }
        return x;
    }
}
