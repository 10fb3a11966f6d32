namespace LowRank;

/// <summary>Blocks of device memory that are free at the moment, by size.</summary>
internal sealed class BlockCache
{
    private readonly SortedDictionary<nuint, Stack<nint>> blocks = [];

    /// <summary>Takes the smallest block of at least <paramref name="bytes"/>; (0, 0) where there is none.</summary>
    public (nint Block, nuint Size) Take(nuint bytes)
    {
        foreach ((nuint size, Stack<nint> same) in blocks)
        {
            if (size >= bytes && same.TryPop(out nint block))
            {
                return (block, size);
            }
        }
        return default;
    }

    /// <summary>Puts a block in.</summary>
    public void Put(nint block, nuint size)
    {
        if (!blocks.TryGetValue(size, out Stack<nint>? same))
        {
            blocks.Add(size, same = new Stack<nint>());
        }
        same.Push(block);
    }

    /// <summary>Takes all of them.</summary>
    public IReadOnlyList<(nint Block, nuint Size)> TakeAll()
    {
        (nint, nuint)[] all = [.. from same in blocks from block in same.Value select (block, same.Key)];
        blocks.Clear();
        return all;
    }
}
