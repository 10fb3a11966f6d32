using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>A small constant array that plans read on the host and kernels on the device. Its copy is made once for each scope that asks first.</summary>
internal sealed class DeviceTable<T>(T[] values) where T : unmanaged
{
    private Tensor? copy;

    public ReadOnlySpan<T> Values => values;

    /// <summary>Address of the copy on the scope's device; it lives in <paramref name="scope"/> unless an earlier one still does.</summary>
    public nint On(Scope scope)
    {
        Tensor? known = copy;       // another device's thread may put its own there
        if (known is not { IsAlive: true } || known.Device != scope.Device)
        {
            ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(values.AsSpan());
            copy = known = scope.OfRaw([bytes.Length], DType.U8, bytes);
        }
        return known.Data;
    }
}
