using LowRank.Adapters;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>DINOv2 (arXiv 2304.07193): a vision transformer whose sub-layers are scaled channel by channel, for images of any size; feed-forwards plain or gated
/// (SwiGLU); the classifier sees the class token beside the mean of the patches.</summary>
public sealed class Dinov2 : PatchModel
{
    private const string Head = "classifier";
    private readonly Site? classifier;

    private Dinov2(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(config, device, options, source)
    {
        string name = options.Classes is null ? config.Architecture : "Dinov2ForImageClassification";
        bool bare = name is "Dinov2Model" or "";
        if (!bare && name != "Dinov2ForImageClassification")
        {
            throw config.Wrong("architectures", name, "Dinov2Model or Dinov2ForImageClassification");
        }
        Place trunk = bare ? new("", "") : new("dinov2", "dinov2"), embeddings = trunk.At("embeddings");
        var norm = new LayerNorm(config.Number("layer_norm_eps", 1e-6));
        bool gated = config.Flag("use_swiglu_ffn", false);
        Op activation = gated ? new SwiGlu() : Activation.Of(config.Text("hidden_act", "gelu"), "hidden_act");
        int inner = checked((int)(Width * config.Number("mlp_ratio", 4)));
        inner = gated ? ((int)(inner * 2L / 3) + 7) / 8 * 8 : inner;
        Parameter token = Weight(embeddings.At("cls_token"), [1, 1, Width]), positions = Weight(embeddings.At("position_embeddings"), [1, Patches + 1, Width]);
        if (config.Flag("use_mask_token", true))
        {
            Weight(embeddings.At("mask_token"), [1, Width], Init.Zeros);      // of the pre-training: nothing here reads it
        }
        Tokens = new PatchEmbedding(this, PatchConvolution(embeddings.At("patch_embeddings.projection"), Width, Channels, PatchSize), token, positions, Channels, ImageSize) { TakesAnySize = true };
        Stack(trunk.At("encoder.layer"), layer => new TransformerLayer(
            Attention(layer),
            new Norm(this, layer.At("norm1"), Width, norm),
            new FeedForward(this, layer.At(gated ? "mlp.weights_in" : "mlp.fc1"), layer.At(gated ? "mlp.weights_out" : "mlp.fc2"), Width, inner, activation, fused: gated),
            new Norm(this, layer.At("norm2"), Width, norm))
        {
            AttentionScale = Weight(layer.At("layer_scale1.lambda1"), [Width], Init.Ones),
            MlpScale = Weight(layer.At("layer_scale2.lambda1"), [Width], Init.Ones),
        });
        FinalNorm = new Norm(this, trunk.At("layernorm"), Width, norm);
        classifier = bare ? null : Linear(new Place(Head, Head), config.ClassNames.Count, 2 * Width, bias: true, isOutput: true);
        TransformersClass = bare ? "Dinov2Model" : "Dinov2ForImageClassification";
        Built();
    }

    /// <inheritdoc/>
    public override string TransformersClass { get; }

    internal static new Dinov2 Load(string folder, Device device, LoadOptions options) => (Dinov2)Load(folder, device, options, Head, (config, source) => new Dinov2(config, device, options, source));

    /// <inheritdoc/>
    private protected override Tensor Output(Tensor last) => classifier is null ? Tokens!.ClassTokens(last) : classifier.Forward(TokenAndMean(last));

    // [class token, mean of patches] of each sequence [batch, 2 d]: one product with the weights of both
    private Tensor TokenAndMean(Tensor last)
    {
        int batch = last.Shape[0], tokens = last.Shape[1];
        var weights = new double[2 * batch * batch * tokens];
        for (int b = 0; b < batch; b++)
        {
            int at = ((2 * b * batch) + b) * tokens;
            weights[at] = 1;
            Array.Fill(weights, 1.0 / (tokens - 1), at + (batch * tokens) + 1, tokens - 1);
        }
        Tensor view = Device.Current!.Of([2 * batch, batch * tokens], weights, DType);
        return new MatMul().Apply(view, last.Reshape([batch * tokens, Width])).Reshape([batch, 2 * Width]);
    }
}
