using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>A plain multi-layer perceptron: x [..., widths[0]] → [..., widths[^1]], an activation between the layers, none after the last.</summary>
public sealed class Mlp : PretrainedModel
{
    private readonly Site[] layers;
    private readonly Op activation;
    private readonly int inputs;

    /// <summary>Random weights as torch's Linear draws them: uniform on ±1/√inputs, biases too.</summary>
    /// <param name="widths">At least input and output width.</param>
    /// <param name="device">Where it lives.</param>
    /// <param name="rng">The same seed gives the same weights.</param>
    /// <param name="activation">gelu, gelu_new, relu, sigmoid or tanh.</param>
    /// <param name="type">Type of the activations.</param>
    /// <exception cref="ShapeException">Fewer than two widths, or one that is not positive.</exception>
    public Mlp(IReadOnlyList<int> widths, Device device, Rng rng, string activation = "gelu", DType type = DType.F32)
        : base(device, type, new RandomWeights(rng), pack: false, initializerRange: 0)
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
            var place = new Place($"layers.{i}", $"layers.{i}");
            Init init = Init.Uniform(1 / Math.Sqrt(widths[i]));
            layers[i] = Add(new Site(
                place.Path,
                SiteKind.Linear,
                Weight(place.At("weight"), [widths[i + 1], widths[i]], init, matrix: true),
                Weight(place.At("bias"), [widths[i + 1]], init))
            {
                IsOutput = i == layers.Length - 1,
            });
        }
        Built();
    }

    /// <inheritdoc/>
    public override Tensor Forward(Tensor input)
    {
        if (input.Shape.Rank == 0 || input.Shape.Cols != inputs)
        {
            throw new ShapeException($"Mlp: input is {input.Shape}, want [..., {inputs}]");
        }
        Tensor x = input;
        for (int i = 0; i < layers.Length; i++)
        {
            x = layers[i].Forward(i == 0 ? x : activation.Apply(x));
        }
        return x;
    }
}
