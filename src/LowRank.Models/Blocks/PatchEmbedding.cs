using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>Images [batch, channels, height, width] → tokens [batch, 1 + patches, d]: the class token, then patches row by row, plus positions.</summary>
internal sealed class PatchEmbedding(PretrainedModel model, Site patches, Parameter classToken, Parameter positions, int channels, int size)
{
    private readonly Dictionary<(int, int, int), Tensor> rowsAt = [];     // by batch, tokens and place; kept, so that a step can be recorded, which the host may not write into
    private readonly Dictionary<(int, int), Tensor> resized = [];         // by the grid's rows and columns

    /// <summary>A token between the class token and the patches, such as DeiT's.</summary>
    public Parameter? Second { get; init; }

    /// <summary>Images may have another size than the positions were trained for: their grid is then interpolated, bicubic, between its points.</summary>
    public bool TakesAnySize { get; init; }

    /// <exception cref="ShapeException">The images have another size or number of channels, or there are none.</exception>
    public Tensor Forward(Tensor images)
    {
        string name = model.GetType().Name;
        int patch = patches.Convolution.Stride.Height;
        bool fits = images.Shape.Rank == 4 && images.Shape[0] > 0 && images.Shape[1] == channels
            && (TakesAnySize ? images.Shape[2] >= patch && images.Shape[3] >= patch : images.Shape[2] == size && images.Shape[3] == size);
        if (!fits)
        {
            throw new ShapeException($"{name}: pixel_values is {images.Shape}, want [batch, {channels}, {(TakesAnySize ? $"{patch} or more, {patch} or more" : $"{size}, {size}")}]");
        }
        if (!images.DType.IsFloat())
        {
            throw new ShapeException($"{name}: pixel_values is {images.DType}, want {model.DType}");
        }
        Tensor x = images.DType == model.DType ? images : images.ConvertTo(model.DType, model.Device.Current ?? throw new InvalidOperationException($"{name}: no scope is open; call BeginScope or BeginTape first"));
        int batch = x.Shape[0], d = patches.Outputs, rows = x.Shape[2] / patch, cols = x.Shape[3] / patch;
        // The product of patches is in the order wanted already; an adapted convolution gives an image of tokens.
        Tensor h = !patches.IsAdapted
            ? new Linear().Apply(patches.Patches(x), patches.Weight.Value.Reshape([d, patches.Inputs]), patches.Bias?.Value).Reshape([batch, rows * cols, d])
            : new Transpose().Apply(patches.Forward(x).Reshape([batch, d, rows * cols]));
        h = Second is null ? h : new Prepend().Apply(h, Second);
        return new Add().Apply(new Prepend().Apply(h, classToken), PositionsOf(rows, cols));
    }

    /// <summary>The class tokens [batch, d] of a hidden state.</summary>
    public Tensor ClassTokens(Tensor hidden) => Tokens(hidden, 0);

    /// <summary>The token at one place of each sequence of a hidden state: [batch, tokens, d] → [batch, d].</summary>
    public Tensor Tokens(Tensor hidden, int place)
    {
        int batch = hidden.Shape[0], tokens = hidden.Shape[1];
        if (!rowsAt.TryGetValue((batch, tokens, place), out Tensor? ids))
        {
            rowsAt.Add((batch, tokens, place), ids = model.Store.Of([batch], [.. Enumerable.Range(0, batch).Select(b => (b * tokens) + place)]));
        }
        return new Gather().Apply(hidden.Reshape([batch * tokens, hidden.Shape.Cols]), ids);
    }

    private Tensor PositionsOf(int rows, int cols)
    {
        int side = size / patches.Convolution.Stride.Height;
        if (rows == side && cols == side)
        {
            return positions;
        }
        if (!resized.TryGetValue((rows, cols), out Tensor? weights))
        {
            resized.Add((rows, cols), weights = model.Store.Of([1 + (rows * cols), 1 + (side * side)], Bicubic.Grid(side, rows, cols), model.DType.ForParameters()));
        }
        return new MatMul().Apply(weights, positions.Value.Reshape([1 + (side * side), patches.Outputs]));
    }
}
