namespace LowRank;

/// <summary>The function of a gate.</summary>
public enum GateFunction
{
    /// <summary>SiLU.</summary>
    Silu,
    /// <summary>GELU by tanh.</summary>
    GeluTanh,
}

/// <summary>y = f(g) ⊙ u with g = x·Wgᵀ + GateScale·x·Agᵀ·Bgᵀ + bias_g and u = x·Wuᵀ + UpScale·x·Auᵀ·Buᵀ + bias_u: the first half of a gated feed-forward
/// (arXiv 2002.05202) with LoRA (2106.09685) on either layer or none, in one pass over x; on the CPU f(g) ⊙ u is formed while the tile of g is in cache. Operands:
/// x [..., k], Wg and Wu [n,k] of one type and layout, not quantised, Ag [r,k] and Bg [n,r] or absent, Au and Bu likewise, bias_g and bias_u [n] or absent
/// → y [..., n]. Bits of y and of every gradient are those of <see cref="Linear"/> or <see cref="LoraLinear"/> twice and <see cref="Gated"/>. Saves both
/// t [..., r], and g and u on a tape.</summary>
public sealed record GatedLinear(GateFunction Gate, double GateScale = 1, double UpScale = 1) : Op
{
    private const int Adapters = 3, Biases = 7;     // the operands from there on come in pairs: of the gate, of up

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, wg, wu) = inputs;
        (int n, int k) = RequireMatrix("Wg", wg);
        if (x.Shape.Rank == 0 || x.Shape.Cols != k)
        {
            throw Bad("x", x.Shape, $"[..., {k}]");
        }
        Require("Wu", wu, wg.Shape);
        RequireWeightType(x, wg);
        RequireWeightType(x, wu);
        if (wg.IsQuantized || wu.DType != wg.DType || wu.Layout != wg.Layout)
        {
            throw Bad("Wu", wu, $"one with the type and layout of Wg {wg}, neither of them quantised");
        }
        int rg = RankOf(inputs, Adapters, "g", n, k, x), ru = RankOf(inputs, Adapters + 2, "u", n, k, x);
        foreach ((string name, int i) in (ReadOnlySpan<(string, int)>)[("bias_g", Biases), ("bias_u", Biases + 1)])
        {
            Require(name, inputs.Optional(i), [n]);
            RequireParameter(name, inputs.Optional(i), x.DType);
        }
        Shape y = x.Shape.WithCols(n);
        return [y, x.Shape.WithCols(rg), x.Shape.WithCols(ru), y, y];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => output is 1 or 2 ? inputs[0].DType.ForParameters() : inputs[0].DType;

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (x, wg, wu) = inputs;
        x.Device.Launch(Kernels.GatedLinearForward, new GatedLinearArgs
        {
            X = x.Data,
            Wg = wg.Data,
            Wu = wu.Data,
            Ag = At(inputs, Adapters),
            Bg = At(inputs, Adapters + 1),
            Au = At(inputs, Adapters + 2),
            Bu = At(inputs, Adapters + 3),
            BiasG = At(inputs, Biases),
            BiasU = At(inputs, Biases + 1),
            Y = outputs[0].Data,
            Tg = outputs[1].Data,
            Tu = outputs[2].Data,
            G = outputs[3].Data,
            U = outputs[4].Data,
            ScaleG = GateScale,
            ScaleU = UpScale,
            Tokens = x.Shape.Rows,
            N = wg.Shape[0],
            K = wg.Shape[1],
            Rg = outputs[1].Shape.Cols,
            Ru = outputs[2].Shape.Cols,
            Gate = Gate,
            Save = x.Device.Current is Tape ? 1 : 0,
            DType = x.DType,
            WType = wg.DType,
            WLayout = wg.Layout,
        });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Tensor x = inputs[0], g = outputs[3], u = outputs[4];
        Scope scope = x.Device.Current!;
        Tensor dg = scope.New(g.Shape, g.DType), du = scope.New(u.Shape, u.DType);
        x.Device.Launch(Gate == GateFunction.Silu ? Kernels.SiluMulBackward : Kernels.GeluTanhMulBackward, new BinaryGradArgs
        {
            X = g.Data,
            Z = u.Data,
            Dy = dy.Data,
            Dx = dg.Data,
            Dz = du.Data,
            Count = g.Shape.Count,
            Period = g.Shape.Count,
            Alpha = 1,
            DType = g.DType,
            ZType = u.DType,
        });
        Grads.Place dx = grads[0];
        // As a tape does it that records the two layers in turn: the later one first.
        Layer(inputs, outputs[2], 1, UpScale, du, (dx, Grads.Place.Mask(dx)), grads);
        Layer(inputs, outputs[1], 0, GateScale, dg, (dx, 1), grads);
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (x, wg, _) = inputs;
        long tokens = x.Shape.Rows, n = wg.Shape[0], k = wg.Shape[1], size = x.DType.Size();
        long ranks = (inputs.Optional(Adapters)?.Shape[0] ?? 0) + (inputs.Optional(Adapters + 2)?.Shape[0] ?? 0);
        return new(2 * tokens * ((2 * n * k) + (ranks * (n + k))), (size * tokens * (n + k)) + (2 * (long)wg.Bytes) + (4 * ranks * (n + k)));
    }

    private static nint At(Inputs inputs, int i) => inputs.Optional(i)?.Data ?? 0;

    private int RankOf(Inputs inputs, int at, string layer, int n, int k, Tensor x)
    {
        (Tensor? a, Tensor? b) = (inputs.Optional(at), inputs.Optional(at + 1));
        if (a is null || b is null)
        {
            return a is null && b is null ? 0 : throw Bad(a is null ? $"A{layer}" : $"B{layer}", "absent", $"both factors of layer {layer}, or neither");
        }
        (int r, _) = RequireMatrix($"A{layer}", a);
        if (a.Shape[1] != k || r == 0)
        {
            throw Bad($"A{layer}", a.Shape, $"[r, {k}] with r of at least 1");
        }
        Require($"B{layer}", b, [n, r]);
        RequireParameter($"A{layer}", a, x.DType);
        RequireParameter($"B{layer}", b, x.DType);
        return r;
    }

    private void Layer(Inputs inputs, Tensor t, int layer, double scale, Tensor dy, (Grads.Place Place, uint Add) dx, Grads grads)
    {
        int a = Adapters + (2 * layer), bias = Biases + layer;
        Tensor x = inputs[0], w = inputs[1 + layer];
        (int n, int k) = (w.Shape[0], w.Shape[1]);
        if (inputs.Optional(a) is null)
        {
            var (dw, dbias) = (grads[1 + layer], grads[bias]);
            x.Device.Launch(Kernels.LinearBackward, new LinearGradArgs { X = x.Data, W = w.Data, Dy = dy.Data, Dx = dx.Place.Data, Dw = dw.Data, Dbias = dbias.Data, Tokens = x.Shape.Rows, N = n, K = k, DType = x.DType, WType = w.DType, WLayout = w.Layout, Add = dx.Add | Grads.Place.Mask(default, dw, dbias) });
            return;
        }
        if (w.NeedsGradient)
        {
            throw new InvalidOperationException($"{this}: {(layer == 0 ? "Wg" : "Wu")} is trainable beside an adapter, want it frozen");
        }
        var (da, db, dlayer) = (grads[a], grads[a + 1], grads[bias]);
        x.Device.Launch(Kernels.LoraBackward, new LoraGradArgs
        {
            X = x.Data,
            W = w.Data,
            A = At(inputs, a),
            B = At(inputs, a + 1),
            T = t.Data,
            Dy = dy.Data,
            Dx = dx.Place.Data,
            Da = da.Data,
            Db = db.Data,
            Dbias = dlayer.Data,
            Tokens = x.Shape.Rows,
            N = n,
            K = k,
            R = t.Shape.Cols,
            Scale = scale,
            DType = x.DType,
            WType = w.DType,
            WLayout = w.Layout,
            Add = dx.Add | Grads.Place.Mask(default, default, da, db, dlayer),
        });
    }
}
