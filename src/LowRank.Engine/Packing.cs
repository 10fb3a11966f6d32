namespace LowRank;

/// <summary>Frozen matrices in the layout the CPU's matrix kernels read; done once, at load.</summary>
public static class Packing
{
    private const int PanelRows = 32;
    private const long SlabBytes = 1 << 20;

    /// <summary>A packed copy of w [n,k] in <paramref name="target"/> where the device packs weights, else a plain copy.</summary>
    public static Tensor Pack(Tensor w, Scope target)
    {
        if (!w.Device.PacksWeights || w.DType is DType.F64 || w.IsPacked)
        {
            return w.CopyTo(target);
        }
        Tensor packed = target.New(w.Shape, w.DType, Layout.Panels);
        Launch(w, packed.Data, unpack: 0);
        return packed;
    }

    /// <summary>The same of a matrix [n,k] that comes by slabs of rows, so that it need not lie in memory a second time as a whole.</summary>
    /// <param name="device">Where it goes.</param>
    /// <param name="shape">[n,k].</param>
    /// <param name="type">Its type.</param>
    /// <param name="rows">Rows from the first number on, so many, as a tensor in the given scope.</param>
    /// <param name="target">What the packed matrix lives in.</param>
    public static Tensor Pack(Device device, Shape shape, DType type, Func<int, int, Scope, Tensor> rows, Scope target)
    {
        (int n, int k) = (shape[0], shape[1]);
        bool packs = device.PacksWeights && type is not DType.F64;
        Tensor packed = packs ? target.New(shape, type, Layout.Panels) : target.New(shape, type);
        int most = (int)Math.Max(1, SlabBytes / Math.Max(1, (long)k * type.Size() * PanelRows)) * PanelRows;
        using Scope slabs = device.NewStore();
        for (int first = 0; first < n; first += most)
        {
            int count = Math.Min(most, n - first);
            Tensor slab = rows(first, count, slabs);
            if (packs)
            {
                Launch(slab, packed.Data + (nint)(Matrix.PanelCount(first, k, type) * type.Size()), unpack: 0);
            }
            else
            {
                packed.Slice(first, count).CopyFrom(slab);
            }
            device.Synchronize();
            slabs.Reset();
        }
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
        Launch(packed, w.Data, unpack: 1);
        return w;
    }

    private static void Launch(Tensor from, nint to, int unpack) => from.Device.Launch(
        Kernels.Pack,
        new PackArgs { Src = from.Data, Dst = to, N = from.Shape.Rows, K = from.Shape.Cols, Unpack = unpack, DType = from.DType });
}
