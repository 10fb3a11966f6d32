using LowRank.Models;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle;

/// <summary>The classifier of <see cref="VisionTransformer"/> in torch, on weights named as in the model file. It is the library's functions in a row, without
/// its module objects: nothing is computed twice and nothing is copied that need not be.</summary>
public sealed class TorchVisionTransformer(VisionTransformerConfig config, IReadOnlyDictionary<string, Torch.Tensor> weights)
{
    /// <summary>Stands in for a linear layer where it returns a tensor: name of the module in the file and its input.</summary>
    public Func<string, Torch.Tensor, Torch.Tensor?>? Adapted { get; init; }

    /// <summary>Images [batch, channels, height, width] → logits [batch, classes].</summary>
    public Torch.Tensor Forward(Torch.Tensor images)
    {
        const string Embeddings = "vit.embeddings.";
        long batch = images.shape[0];
        Torch.Tensor patches = F.conv2d(images, weights[Embeddings + "patch_embeddings.projection.weight"], weights[Embeddings + "patch_embeddings.projection.bias"], [config.PatchSize, config.PatchSize]);
        Torch.Tensor first = weights[Embeddings + "cls_token"].expand(batch, 1, config.HiddenSize);
        Torch.Tensor h = Torch.cat([first, patches.flatten(2).transpose(1, 2)], 1) + weights[Embeddings + "position_embeddings"];
        for (int i = 0; i < config.Layers; i++)
        {
            string layer = $"vit.encoder.layer.{i}.";
            Torch.Tensor x = Norm(layer + "layernorm_before", h);
            Torch.Tensor attended = F.scaled_dot_product_attention(
                Heads(Linear(layer + "attention.attention.query", x)),
                Heads(Linear(layer + "attention.attention.key", x)),
                Heads(Linear(layer + "attention.attention.value", x)));
            h = Linear(layer + "attention.output.dense", attended.transpose(1, 2).reshape(h.shape)) + h;
            x = Norm(layer + "layernorm_after", h);
            h = Linear(layer + "output.dense", F.gelu(Linear(layer + "intermediate.dense", x))) + h;
        }
        return Linear("classifier", Norm("vit.layernorm", h.select(1, 0)));
    }

    private Torch.Tensor Linear(string name, Torch.Tensor x) =>
        Adapted?.Invoke(name, x) ?? F.linear(x, weights[name + ".weight"], weights.GetValueOrDefault(name + ".bias"));

    private Torch.Tensor Norm(string name, Torch.Tensor x) =>
        F.layer_norm(x, [config.HiddenSize], weights[name + ".weight"], weights[name + ".bias"], config.LayerNormEpsilon);

    private Torch.Tensor Heads(Torch.Tensor x) => x.view(x.shape[0], x.shape[1], config.Heads, config.HiddenSize / config.Heads).transpose(1, 2);
}
