using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>Images [batch, channels, size, size] → tokens [batch, 1 + patches, d]: the class token, then patches row by row, plus positions.</summary>
internal sealed class PatchEmbedding(PretrainedModel model, Site patches, Parameter classToken, Parameter positions, int channels, int size)
{
    private readonly Dictionary<int, Tensor> firstRows = [];     // by batch; kept, so that a step can be recorded, which the host may not write into
    private readonly int tokens = checked((int)(positions.Value.Shape.Count / patches.Outputs));

    /// <exception cref="ShapeException">The images have another size or number of channels, or there are none.</exception>
    public Tensor Forward(Tensor images)
    {
        string name = model.GetType().Name;
        if (images.Shape.Rank != 4 || images.Shape[0] == 0 || images.Shape[1] != channels || images.Shape[2] != size || images.Shape[3] != size)
        {
            throw new ShapeException($"{name}: pixel_values is {images.Shape}, want [batch, {channels}, {size}, {size}]");
        }
        if (!images.DType.IsFloat())
        {
            throw new ShapeException($"{name}: pixel_values is {images.DType}, want {model.DType}");
        }
        Tensor x = images.DType == model.DType ? images : images.ConvertTo(model.DType, model.Device.Current ?? throw new InvalidOperationException($"{name}: no scope is open; call BeginScope or BeginTape first"));
        int batch = x.Shape[0], d = patches.Outputs;
        // The product of patches is in the order wanted already; an adapted convolution gives an image of tokens.
        Tensor rows = !patches.IsAdapted
            ? new Linear().Apply(patches.Patches(x), patches.Weight.Value.Reshape([d, patches.Inputs]), patches.Bias?.Value).Reshape([batch, tokens - 1, d])
            : new Transpose().Apply(patches.Forward(x).Reshape([batch, d, tokens - 1]));
        return new Add().Apply(new Prepend().Apply(rows, classToken), positions);
    }

    /// <summary>The class tokens [batch, d] of a hidden state.</summary>
    public Tensor ClassTokens(Tensor hidden)
    {
        int batch = hidden.Shape[0];
        if (!firstRows.TryGetValue(batch, out Tensor? ids))
        {
            firstRows.Add(batch, ids = model.Store.Of([batch], [.. Enumerable.Range(0, batch).Select(b => b * tokens)]));
        }
        return new Gather().Apply(hidden.Reshape([batch * tokens, hidden.Shape.Cols]), ids);
    }
}
