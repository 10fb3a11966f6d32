namespace LowRank;

/// <summary>y = x·Wᵀ + bias + s·(x·Aᵢᵀ)·Bᵢ, i the adapter that <paramref name="Choice"/> gives the row: many adapters in one batch. Operands: x [..., k],
/// W [n,k] frozen, A [R,k], B [R,n] (ranks as rows, an adapter's as <paramref name="Adapters"/> says), bias [n] or absent. A and B are parameters, or
/// frozen in the activations' type.
/// <para>A row without an adapter, or with one of rank 0, has exactly the bits of <see cref="Linear"/> on the same x on the same device. A row's bits depend
/// on its own x, its adapter's factors, W and bias, never on the other rows, their adapters, the order of either, or the row's place. On the CPU that holds
/// for any number of rows; on CUDA for batches of the same number of rows, since the base product may take another kernel for another number. F32 and BF16
/// on the CPU add the low-rank part before the one rounding of y; the CUDA kernels add it to the rounded base product in float32 and round again.</para>
/// <para>Gradients go run by run through the kernels of <see cref="LoraLinear"/>: right for training, not built for speed.</para></summary>
public sealed record MultiLoraLinear(AdapterTable Adapters, AdapterChoice Choice) : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, w, a, b) = inputs;
        (int n, int k) = RequireMatrix("W", w);
        (int rows, _) = RequireMatrix("A", a);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k)
        {
            throw Bad("x", x.Shape, $"[..., {k}]");
        }
        if (rows < Adapters.Rows || a.Shape[1] != k)
        {
            throw Bad("A", a.Shape, $"[R, {k}] with R of at least {Adapters.Rows}");
        }
        Require("B", b, [rows, n]);
        Require("bias", inputs.Optional(4), [n]);
        if (x.Shape.Rows != Choice.Tokens)
        {
            throw Bad("x", x.Shape, $"{Choice.Tokens} rows, as the choice of adapters has");
        }
        if (Choice.Adapters > Adapters.Count)
        {
            throw Bad("choice of adapters", $"of index {Choice.Adapters - 1}", $"0 .. {Adapters.Count - 1}");
        }
        RequireParameter("bias", inputs.Optional(4), x.DType);
        RequireWeightType(x, w);
        foreach ((string name, Tensor factor) in (ReadOnlySpan<(string, Tensor)>)[("A", a), ("B", b)])
        {
            RequireRowMajor(name, factor);
            if (factor.NeedsGradient || factor.DType != x.DType)
            {
                RequireParameter(name, factor, x.DType);
            }
            if (factor.DType != a.DType)
            {
                throw Bad(name, factor.DType, $"{a.DType} as A");
            }
        }
        return [x.Shape.WithCols(n)];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, w, a, b) = inputs;
        Scope scope = x.Device.Current!;
        x.Device.Launch(Kernels.MultiLoraForward, new MultiLoraArgs
        {
            X = x.Data,
            W = w.Data,
            A = a.Data,
            B = b.Data,
            Bias = inputs.Optional(4)?.Data ?? 0,
            Y = outputs[0].Data,
            Ranges = Adapters.On(scope),
            Pieces = Choice.On(scope),
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            MostRank = Adapters.LargestRank,
            PieceCount = Choice.PieceCount,
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
            AbType = a.DType,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (x, w, a, b) = inputs;
        if (w.NeedsGradient)
        {
            throw new InvalidOperationException($"{this}: W is trainable, want it frozen; train W through Linear");
        }
        var (dx, da, db, dbias) = (grads[0], grads[2], grads[3], grads[4]);
        Device device = x.Device;
        device.Launch(Kernels.LinearBackward, new LinearGradArgs
        {
            X = x.Data,
            W = w.Data,
            Dy = dy.Data,
            Dx = dx.Data,
            Dbias = dbias.Data,
            Tokens = x.Shape.Rows,
            N = w.Shape[0],
            K = w.Shape[1],
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
            Add = Grads.Place.Mask(dx, default, dbias),
        });
        Clear(device, da, a);
        Clear(device, db, b);
        if (dx.Wanted || da.Wanted || db.Wanted)
        {
            using Scope own = device.NewStore();
            DType param = x.DType.ForParameters();
            Tensor wide = db.Wanted ? x.ConvertTo(param, own) : x, wideA = a.ConvertTo(param, own), wideB = b.ConvertTo(param, own);
            foreach (IGrouping<int, AdapterSegment> segments in Choice.Segments.GroupBy(s => s.Adapter))
            {
                BackwardOf(Adapters[segments.Key], segments, own, (x, wide, w, wideA, wideB, dy), (dx, da, db));
            }
        }
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, w, a, _) = inputs;
        long tokens = x.Shape.Rows, n = w.Shape[0], k = w.Shape[1], size = x.DType.Size();
        long low = Choice.Segments.Sum(s => (long)s.Tokens * Adapters[s.Adapter].Rank), ranks = Choice.Segments.Select(s => s.Adapter).Distinct().Sum(i => Adapters[i].Rank);
        return new(2 * ((tokens * n * k) + (low * (n + k))), (size * tokens * (n + k)) + ((long)w.DType.Size() * n * k) + ((long)a.DType.Size() * ranks * (n + k)));
    }

    /// <summary>What one adapter adds to the gradients, all of them written before: dx += u·A, dA += uᵀ·x, dB += tᵀ·dy with u = s·dy·Bᵀ.</summary>
    private static void BackwardOf(
        AdapterRange range, IEnumerable<AdapterSegment> segments, Scope own, (Tensor X, Tensor Wide, Tensor W, Tensor A, Tensor B, Tensor Dy) of, (Grads.Place Dx, Grads.Place Da, Grads.Place Db) to)
    {
        (int n, int k, int r) = (of.W.Shape[0], of.W.Shape[1], range.Rank);
        if (r == 0)
        {
            return;
        }
        Device device = of.X.Device;
        DType param = of.A.DType;
        Tensor b = own.New([n, r], param), db = own.New([n, r], param);
        nint a = At(of.A.Data, range.First, k, param);
        device.Launch(Kernels.Transpose, new TransposeArgs { X = At(of.B.Data, range.First, n, param), Y = b.Data, Batch = 1, Rows = r, Cols = n, DType = param });
        uint add = 0b0110;
        foreach (AdapterSegment s in segments)
        {
            Tensor t = own.New([s.Tokens, r], param);
            if (to.Db.Wanted)
            {
                device.Launch(Kernels.MatMul, new MatMulArgs { A = At(of.Wide.Data, s.First, k, param), B = a, C = t.Data, M = s.Tokens, N = r, K = k, TransposeB = 1, Scale = range.Scale, DType = param });
            }
            nint x = At(of.X.Data, s.First, k, of.X.DType);
            device.Launch(Kernels.LoraBackward, new LoraGradArgs
            {
                X = x,
                Xa = x,
                W = of.W.Data,
                A = a,
                B = b.Data,
                T = t.Data,
                Dy = At(of.Dy.Data, s.First, n, of.Dy.DType),
                Dxa = to.Dx.Wanted ? At(to.Dx.Data, s.First, k, of.X.DType) : 0,
                Da = to.Da.Wanted ? At(to.Da.Data, range.First, k, param) : 0,
                Db = to.Db.Wanted ? db.Data : 0,
                Tokens = s.Tokens,
                N = n,
                K = k,
                R = r,
                Scale = range.Scale,
                DType = of.X.DType,
                WType = of.W.DType,
                WLayout = of.W.Layout,
                Add = add,
            });
            add |= 0b1000;
        }
        if (to.Db.Wanted)
        {
            device.Launch(Kernels.Transpose, new TransposeArgs { X = db.Data, Y = At(to.Db.Data, range.First, n, param), Batch = 1, Rows = n, Cols = r, DType = param, Add = 1 });
        }
    }

    private static nint At(nint data, int row, int cols, DType type) => data + (nint)((long)row * cols * type.Size());

    /// <summary>Zeros where a gradient is wanted and nothing stands yet: not every row of it belongs to an adapter that occurs.</summary>
    private static void Clear(Device device, Grads.Place place, Tensor of)
    {
        if (place.Wanted && Grads.Place.Mask(place) == 0)
        {
            device.Launch(Kernels.Fill, new FillArgs { Y = place.Data, Count = of.Shape.Count, DType = of.DType });
        }
    }
}
