namespace LowRank;

/// <summary>Frozen matrices in the layout the CPU's matrix kernels read; done once, at load.</summary>
public static class Packing
{
    /// <summary>A packed copy of w [n,k] in <paramref name="target"/> where the device packs weights, else a plain copy.</summary>
    public static Tensor Pack(Tensor w, Scope target)
    {
        if (!w.Device.PacksWeights || w.DType is DType.F64 || w.IsPacked)
        {
            return w.CopyTo(target);
        }
        Tensor packed = target.New(w.Shape, w.DType, Layout.Panels);
        Launch(w, packed, unpack: 0);
        return packed;
    }

    /// <summary>A row-major copy in <paramref name="target"/>, bit for bit the matrix that was packed; of a quantised one its values, in its type.</summary>
    public static Tensor Unpack(Tensor packed, Scope target)
    {
        if (packed.Layout != Layout.Panels)
        {
            return packed.IsQuantized ? packed.ConvertTo(packed.DType, target) : packed.CopyTo(target);
        }
        Tensor w = target.New(packed.Shape, packed.DType);
        Launch(packed, w, unpack: 1);
        return w;
    }

    private static void Launch(Tensor from, Tensor to, int unpack) => from.Device.Launch(
        Kernels.Pack,
        new PackArgs { Src = from.Data, Dst = to.Data, N = from.Shape.Rows, K = from.Shape.Cols, Unpack = unpack, DType = from.DType });
}
