namespace LowRank.Models.Blocks;

/// <summary>Keys and values of the tokens so far, for every layer, so that a new token costs one row. Lives in a store until disposed.</summary>
internal sealed class KeyValueCache : IDisposable
{
    private readonly Scope store;
    private readonly int rows, capacity;
    private readonly byte[] text;
    private readonly Dictionary<SelfAttention, (Tensor Keys, Tensor Values)> layers = [];
    private readonly Dictionary<int, Tensor> masks = [];
    private int added;

    /// <summary>Room for <paramref name="capacity"/> tokens in each of <paramref name="rows"/> rows.</summary>
    public KeyValueCache(Device device, int rows, int capacity)
    {
        (store, this.rows, this.capacity) = (device.NewStore(), rows, capacity);
        text = new byte[rows * capacity];
    }

    /// <summary>Tokens of the passes before this one.</summary>
    public int Length { get; private set; }

    /// <summary>True in the pass that brings the prompt.</summary>
    public bool IsFirst => Length == 0;

    /// <summary>Starts a pass of <paramref name="batch"/>.</summary>
    /// <exception cref="ShapeException">It has other rows, or there is no room; after the first pass, more than one token.</exception>
    public void Begin(TextBatch batch)
    {
        added = batch.Tokens;
        if (batch.Rows != rows || Length + added > capacity || (Length > 0 && added != 1))
        {
            throw new ShapeException($"KeyValueCache: batch is [{batch.Rows}, {added}], want [{rows}, {(Length > 0 ? 1 : capacity)}] or less: {Length} of {capacity} tokens are taken");
        }
        for (int row = 0; row < rows; row++)
        {
            for (int t = 0; t < added; t++)
            {
                text[(row * capacity) + Length + t] = batch.IsText((row * added) + t) ? (byte)1 : (byte)0;
            }
        }
        masks.Clear();
    }

    /// <summary>Takes a layer's new keys and values [rows, tokens, d]; returns all of them [rows, capacity, d] and the mask of what the last token sees.</summary>
    public (Tensor Keys, Tensor Values, Tensor? Mask) Append(SelfAttention layer, Tensor k, Tensor v, int window)
    {
        if (!layers.TryGetValue(layer, out var kept))
        {
            Shape all = [rows, capacity, k.Shape[2]];
            layers[layer] = kept = (store.NewZeros(all, k.DType), store.NewZeros(all, v.DType));
        }
        foreach ((Tensor to, Tensor from) in (ReadOnlySpan<(Tensor, Tensor)>)[(kept.Keys, k), (kept.Values, v)])
        {
            for (int row = 0; row < rows; row++)
            {
                to.Slice(row, 1).Reshape([capacity, k.Shape[2]]).Slice(Length, added).CopyFrom(from.Slice(row, 1).Reshape([added, k.Shape[2]]));
            }
        }
        if (IsFirst)
        {
            return (kept.Keys, kept.Values, null);
        }
        if (!masks.TryGetValue(window, out Tensor? mask))
        {
            byte[] seen = [.. text];
            for (int i = 0; window > 0 && i < seen.Length; i++)
            {
                seen[i] = i % capacity > Length - window ? seen[i] : (byte)0;
            }
            masks[window] = mask = k.Device.Current!.Of([rows, capacity], seen);
        }
        return (kept.Keys, kept.Values, mask);
    }

    /// <summary>Ends a pass.</summary>
    public void End() => Length += added;

    /// <inheritdoc/>
    public void Dispose() => store.Dispose();
}
