namespace LowRank;

/// <summary>One adapter's factors at a layer as PEFT holds them: A [r,k], B [n,r], ΔW = Scale·B·A.</summary>
public sealed record AdapterFactors(Tensor A, Tensor B, double Scale);

/// <summary>Adapters of one layer, packed once, of which every row of a batch may take another: <c>set.Forward(x, w, AdapterChoice.PerRow([0, 2, -1]))</c>.
/// Ranks may differ. The set owns no memory: its scope does.</summary>
public sealed class AdapterSet
{
    private AdapterSet(AdapterTable table, Tensor a, Tensor b) => (Table, A, B) = (table, a, b);

    /// <summary>The adapters by index, in the order they were packed.</summary>
    public AdapterTable Table { get; }

    /// <summary>The factors A of all, one under the other: [R,k].</summary>
    public Tensor A { get; }

    /// <summary>The factors B of all, transposed, one under the other: [R,n].</summary>
    public Tensor B { get; }

    /// <summary>Copies the factors of all adapters into <paramref name="target"/>, on the factors' own device.</summary>
    /// <param name="target">Where the packed factors live.</param>
    /// <param name="type">F32, or the type of the activations: half the bytes, and a token's adapter is what it costs.</param>
    /// <param name="adapters">Rank 1 to 128 each; null for an adapter that has no part in this layer.</param>
    /// <exception cref="ShapeException">No adapter has factors, factors do not fit each other or the first ones, or a rank is above 128.</exception>
    public static AdapterSet Pack(Scope target, DType type, params ReadOnlySpan<AdapterFactors?> adapters)
    {
        (int n, int k, int rows) = (-1, -1, 0);
        var ranges = new AdapterRange[adapters.Length];
        for (int i = 0; i < adapters.Length; i++)
        {
            if (adapters[i] is not { } f)
            {
                continue;
            }
            (k, n) = k < 0 && f.A.Shape.Rank == 2 && f.B.Shape.Rank == 2 ? (f.A.Shape[1], f.B.Shape[0]) : (k, n);
            int r = f.A.Shape.Rank == 2 ? f.A.Shape[0] : 0;
            Require(i, "A", f.A, r is >= 1 and <= AdapterTable.MostRank && f.A.Shape[1] == k, $"[r, {(k < 0 ? "k" : k)}] with r of 1 .. {AdapterTable.MostRank}");
            Require(i, "B", f.B, f.B.Shape.Rank == 2 && f.B.Shape[0] == n && f.B.Shape[1] == r, $"[{(n < 0 ? "n" : n)}, {r}]");
            if (f.A.Device != target.Device || f.B.Device != target.Device)
            {
                throw new ShapeException($"AdapterSet: adapter {i} is on {f.A.Device.Name} and {f.B.Device.Name}, want {target.Device.Name}");
            }
            ranges[i] = new(rows, r, f.Scale);
            rows = checked(rows + r);
        }
        if (rows == 0)
        {
            throw new ShapeException($"AdapterSet: none of {adapters.Length} adapters has factors, want at least one");
        }
        var table = new AdapterTable(ranges);
        Tensor a = target.New([rows, k], type), b = target.New([rows, n], type);
        using Scope own = target.Device.NewStore();
        for (int i = 0; i < adapters.Length; i++)
        {
            if (adapters[i] is { } f)
            {
                (int first, int r, _) = ranges[i];
                Tensor turned = own.New([r, n], f.B.DType);
                target.Device.Launch(Kernels.Transpose, new TransposeArgs { X = f.B.Data, Y = turned.Data, Batch = 1, Rows = n, Cols = r, DType = f.B.DType });
                a.Slice(first, r).CopyFrom(f.A.ConvertTo(type, own));
                b.Slice(first, r).CopyFrom(turned.ConvertTo(type, own));
            }
        }
        _ = table.On(target);
        return new(table, a, b);

        static void Require(int i, string name, Tensor tensor, bool fits, string want)
        {
            if (!fits || tensor.IsPacked || !tensor.DType.IsFloat())
            {
                throw new ShapeException($"AdapterSet: {name} of adapter {i} is {tensor}, want {want}");
            }
        }
    }

    /// <summary>y = x·Wᵀ + bias, plus s·(x·Aᵀ)·Bᵀ of each row's adapter; x [..., k], w [n,k] frozen, bias [n] → [..., n]. What is exact about a row stands at
    /// <see cref="MultiLoraLinear"/>.</summary>
    /// <exception cref="ShapeException">Operands do not fit, or <paramref name="rows"/> names an adapter the set has not.</exception>
    /// <exception cref="InvalidOperationException">No scope or tape is open.</exception>
    public Tensor Forward(Tensor x, Tensor w, AdapterChoice rows, Tensor? bias = null) => new MultiLoraLinear(Table, rows).Apply(x, w, A, B, bias);
}
