using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>A table that an optimiser's kernels read, in device memory: sent again only where a row changed.</summary>
/// <param name="store">Where it lives.</param>
/// <param name="most">Rows it may have.</param>
internal sealed class StepTable<T>(Scope store, int most) where T : unmanaged
{
    private Tensor? table;
    private T[] sent = [];

    /// <summary>Address of the rows on the device.</summary>
    public nint Of(T[] rows)
    {
        if (table is null || !MemoryMarshal.AsBytes<T>(rows).SequenceEqual(MemoryMarshal.AsBytes<T>(sent)))
        {
            table ??= store.New([Math.Max(1, most) * Unsafe.SizeOf<T>()], DType.U8);
            if (rows.Length > 0)
            {
                table.Slice(0, rows.Length * Unsafe.SizeOf<T>()).SetRaw(MemoryMarshal.AsBytes<T>(rows));
            }
            sent = rows;
        }
        return table.Data;
    }
}
