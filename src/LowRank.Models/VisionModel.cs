namespace LowRank.Models;

/// <summary>A transformer over the patches of images.</summary>
public abstract class VisionModel : PretrainedModel
{
    private protected VisionModel(Device device, DType type, Blocks.WeightSource source, bool pack, double initializerRange)
        : base(device, type, source, pack, initializerRange)
    {
    }

    /// <summary>Images [batch, channels, height, width] → every hidden state [batch, tokens, d]: the embeddings, then each layer's output before the final norm.</summary>
    /// <param name="input">The images.</param>
    /// <param name="last">The last of them after the final norm.</param>
    /// <param name="output">As <see cref="PretrainedModel.Forward"/> gives it.</param>
    /// <exception cref="ShapeException">As for <see cref="PretrainedModel.Forward"/>.</exception>
    public abstract IReadOnlyList<Tensor> HiddenStates(Tensor input, out Tensor last, out Tensor output);
}
