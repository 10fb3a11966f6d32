using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Oracle.Tests;

/// <summary>What torch computes for an op, operands in the op's order, absent ones null.</summary>
internal static class OpOracle
{
    /// <summary>Ops that torch has no counterpart of, and why.</summary>
    public static IReadOnlyDictionary<Type, string> Without { get; } = new Dictionary<Type, string>
    {
        [typeof(ConcreteMask)] = "its draws are Philox numbers; the sampler and its clamps are held to golden/concrete",
        [typeof(Dropout)] = "its mask comes from the engine's own random stream",
        [typeof(SparseDct)] = "the gradient of places is LoCA's own difference; its official figures are in golden/loca",
        [typeof(SparseDctLinear)] = "the gradient of places is LoCA's own difference; its official figures are in golden/loca",
        [typeof(Wavelet2)] = "torch has no wavelets; PyWavelets' own figures are in golden/wara",
        [typeof(InverseWavelet2)] = "torch has no wavelets; PyWavelets' own figures are in golden/wara",
        [typeof(WaveletLift)] = "torch has no wavelets; PyWavelets' own figures are in golden/wara",
    };

    /// <summary>The counterparts by the op's type.</summary>
    public static IReadOnlyDictionary<Type, Func<Op, Torch.Tensor?[], Torch.Tensor>> All { get; } = new Dictionary<Type, Func<Op, Torch.Tensor?[], Torch.Tensor>>
    {
        [typeof(Linear)] = (_, t) => F.linear(t[0]!, t[1]!, t.ElementAtOrDefault(2)),
        [typeof(LoraLinear)] = (op, t) => Lora(((LoraLinear)op).Scale, t),
        [typeof(MultiLoraLinear)] = (op, t) => MultiLora((MultiLoraLinear)op, t),
        [typeof(SnellWeight)] = (op, t) => t[0]! + Snell(((SnellWeight)op).Rule, t[1]!, t[2]!),
        [typeof(SnellLinear)] = (op, t) => Snell(((SnellLinear)op).Rule, t[2]!, t[3]!) is var s ? F.linear(t[0]!, t[1] is null ? s : t[1]! + s, t.ElementAtOrDefault(4)) : t[0]!,
        [typeof(AddMatMul)] = (op, t) => ((AddMatMul)op) is var o && o.Transpose ? t[0]! + (t[1]!.mm(t[2]!).t() * o.Scale) : t[0]! + (t[1]!.matmul(t[2]!) * o.Scale),
        [typeof(MatMul)] = (op, t) => ((MatMul)op) is var o ? Turn(t[0]!, o.TransposeA).mm(Turn(t[1]!, o.TransposeB)) * o.Scale : t[0]!,
        [typeof(DoraScale)] = (op, t) => t[0]! / Torch.linalg.norm(t[1]! + (t[3]!.mm(t[2]!) * ((DoraScale)op).Scale), dims: [1]),
        [typeof(LayerNorm)] = (op, t) => F.layer_norm(t[0]!, [t[0]!.shape[^1]], t.ElementAtOrDefault(1), t.ElementAtOrDefault(2), ((LayerNorm)op).Epsilon),
        [typeof(RmsNorm)] = (op, t) => Scaled(t[0]! * (t[0]!.square().mean([-1], keepdim: true) + ((RmsNorm)op).Epsilon).rsqrt(), t.ElementAtOrDefault(1)),
        [typeof(Gelu)] = (_, t) => F.gelu(t[0]!),
        [typeof(GeluTanh)] = (_, t) => GeluTanh(t[0]!),
        [typeof(QuickGelu)] = (_, t) => t[0]! * (t[0]! * 1.702).sigmoid(),
        [typeof(Exp)] = (_, t) => t[0]!.exp(),
        [typeof(Silu)] = (_, t) => F.silu(t[0]!),
        [typeof(SwiGlu)] = (_, t) => F.silu(t[0]!) * t[1]!,
        [typeof(GeGlu)] = (_, t) => GeluTanh(t[0]!) * t[1]!,
        [typeof(GatedLinear)] = (op, t) => ((GatedLinear)op) is var o && o.Gate == GateFunction.Silu
            ? F.silu(OfGated(t, 1, o.GateScale)) * OfGated(t, 2, o.UpScale)
            : GeluTanh(OfGated(t, 1, o.GateScale)) * OfGated(t, 2, o.UpScale),
        [typeof(Tanh)] = (_, t) => t[0]!.tanh(),
        [typeof(Relu)] = (_, t) => t[0]!.relu(),
        [typeof(Sigmoid)] = (_, t) => t[0]!.sigmoid(),
        [typeof(Add)] = (op, t) => t[0]! + (t[1]! * ((Add)op).Alpha),
        [typeof(Mul)] = (_, t) => t[0]! * t[1]!,
        [typeof(AddSparse)] = (_, t) => t[0]!.flatten().index_add(0, t[2]!.to(Torch.ScalarType.Int64), t[1]!, 1).view(t[0]!.shape),
        [typeof(SparseLoraLinear)] = (op, t) => F.linear(t[0]!, (t[2]!.mm(t[1]!) * ((SparseLoraLinear)op).Scale).flatten().index_add(0, t[4]!.to(Torch.ScalarType.Int64), t[3]!, 1).view(t[2]!.shape[0], t[1]!.shape[1]), t.ElementAtOrDefault(5)),
        [typeof(Sqrt)] = (_, t) => t[0]!.sqrt(),
        [typeof(ScaleRows)] = (_, t) => t[0]! * t[1]!.unsqueeze(1),
        [typeof(ScaleBases)] = (_, t) => (t[1]!.unsqueeze(2) * t[0]!.narrow(1, 0, t[2]!.shape[1]).unsqueeze(1) * t[2]!.unsqueeze(0)).reshape(-1, t[2]!.shape[1]),
        [typeof(Gather)] = (_, t) => t[0]!.index_select(0, t[1]!.flatten()).view([.. t[1]!.shape, t[0]!.shape[1]]),
        [typeof(Rope)] = (op, t) => Turned(((Rope)op).Heads, t[0]!, t[1]!, t[2]!),
        [typeof(Columns)] = (op, t) => t[0]!.narrow(-1, ((Columns)op).Start, ((Columns)op).Count),
        [typeof(Cast)] = (_, t) => t[0]!.clone(),
        [typeof(Prepend)] = (_, t) => Torch.cat([t[1]!.expand(t[0]!.shape[0], 1, t[0]!.shape[2]), t[0]!], 1),
        [typeof(Dct2)] = (op, t) => ((Dct2)op, Cosines(t[0]!.shape[0]), Cosines(t[0]!.shape[1])) is var (o, m, n) ? (o.Inverse ? m.t().mm(t[0]!).mm(n) : m.mm(t[0]!).mm(n.t())) * o.Scale : t[0]!,
        [typeof(Transpose)] = (_, t) => t[0]!.transpose(-1, -2),
        [typeof(Unfold)] = (op, t) => Patches((Unfold)op, t[0]!),
        [typeof(CrossEntropy)] = (op, t) => Loss((CrossEntropy)op, t[0]!, t[1]!),
        [typeof(LinearCrossEntropy)] = (op, t) => ((LinearCrossEntropy)op) is var o ? Loss(new(o.Ignore, o.Smoothing, o.SoftCap), F.linear(t[0]!, t[1]!, t.ElementAtOrDefault(3)).reshape(-1, t[1]!.shape[0]), t[2]!.flatten()) : t[0]!,
        [typeof(MeanEntropy)] = (op, t) => F.softmax(t[0]!, -1) is var shares ? -(shares * (shares + ((MeanEntropy)op).Epsilon).log()).sum(-1).mean().reshape(1) : t[0]!,
        [typeof(SquaredError)] = (op, t) => (F.mse_loss(t[0]!, t[1]!) * ((SquaredError)op).Scale).reshape(1),
        [typeof(BinaryCrossEntropy)] = (op, t) => (F.binary_cross_entropy_with_logits(t[0]!, t[1]!) * ((BinaryCrossEntropy)op).Scale).reshape(1),
        [typeof(Attention)] = (op, t) => Attend((Attention)op, t[0]!, t[1]!, t[2]!, t.ElementAtOrDefault(3), t.ElementAtOrDefault(4)),
    };

    // C [n,n] of the orthonormal DCT-II
    private static Torch.Tensor Cosines(long n)
    {
        Torch.Tensor i = Torch.arange(n, Torch.ScalarType.Float64).unsqueeze(1), j = Torch.arange(n, Torch.ScalarType.Float64);
        return (i * ((j * 2) + 1) * (Math.PI / (2 * n))).cos() * ((i.eq(0).to_type(Torch.ScalarType.Float64) * (Math.Sqrt(1.0 / n) - Math.Sqrt(2.0 / n))) + Math.Sqrt(2.0 / n));
    }

    private static Torch.Tensor Snell(SnellRule rule, Torch.Tensor p, Torch.Tensor q)
    {
        Torch.Tensor distances = Torch.cdist(p, q, rule.Norm, TorchSharp.compute_mode.donot_use_mm_for_euclid_dist), d = (distances.select(0, 0) - distances.select(0, 1)) * rule.Scale, size = d.detach().abs();
        if (rule.Mode == SnellMode.Distances)
        {
            return d.t();
        }
        Torch.Tensor tau = rule.Mode == SnellMode.PaperSoft ? size.flatten().sort().Values[(long)Math.Ceiling(rule.Sparsity * size.numel()) - 1] : Torch.quantile(size, Torch.tensor(rule.Sparsity, size.dtype));
        return (d * Torch.where(size > tau, rule.Mode == SnellMode.PaperSoft ? size - tau : size, Torch.zeros_like(size))).t();
    }

    private static Torch.Tensor Turn(Torch.Tensor x, bool turned) => turned ? x.t() : x;

    private static Torch.Tensor Scaled(Torch.Tensor x, Torch.Tensor? weight) => weight is null ? x : x * weight;

    private static Torch.Tensor GeluTanh(Torch.Tensor x) => x * 0.5 * (Torch.tanh((x + (x.pow(3) * 0.044715)) * Math.Sqrt(2 / Math.PI)) + 1);

    private static Torch.Tensor Turned(long heads, Torch.Tensor x, Torch.Tensor table, Torch.Tensor positions)
    {
        long half = table.shape[1];
        Torch.Tensor split = x.reshape(-1, heads, x.shape[^1] / heads), angles = table.index_select(0, positions.flatten()).unsqueeze(1);
        Torch.Tensor a = split.narrow(2, 0, half), b = split.narrow(2, half, half), cosine = angles.select(3, 0), sine = angles.select(3, 1);
        return Torch.cat([(a * cosine) - (b * sine), (b * cosine) + (a * sine), split.narrow(2, 2 * half, split.shape[2] - (2 * half))], 2).reshape(x.shape);
    }

    // Layer 1 or 2 of a gated feed-forward, its factors from operand 1 + 2 layer on, its bias at 6 + layer
    private static Torch.Tensor OfGated(Torch.Tensor?[] t, int layer, double scale) =>
        t.ElementAtOrDefault(1 + (2 * layer)) is { } a ? Lora(scale, [t[0], t[layer], a, t[2 + (2 * layer)], t.ElementAtOrDefault(6 + layer)]) : F.linear(t[0]!, t[layer]!, t.ElementAtOrDefault(6 + layer));

    private static Torch.Tensor Lora(double scale, Torch.Tensor?[] t)
    {
        (Torch.Tensor? bias, Torch.Tensor? c, Torch.Tensor x) = (t.ElementAtOrDefault(4), t.ElementAtOrDefault(5), t.ElementAtOrDefault(6) ?? t[0]!);
        Torch.Tensor y = F.linear(t[0]!, t[1]!) + (F.linear(F.linear(x, t[2]!), t[3]!) * scale);
        y = c is null ? y : y * c;
        return bias is null ? y : y + bias;
    }

    private static Torch.Tensor MultiLora(MultiLoraLinear op, Torch.Tensor?[] t)
    {
        Torch.Tensor x = t[0]!.reshape(-1, t[0]!.shape[^1]), y = F.linear(x, t[1]!, t.ElementAtOrDefault(4)) + ((t[2]!.sum() + t[3]!.sum()) * 0);      // a gradient where no row has an adapter
        foreach (AdapterSegment s in op.Choice.Segments)
        {
            AdapterRange r = op.Adapters[s.Adapter];
            Torch.Tensor low = F.linear(x.narrow(0, s.First, s.Tokens), t[2]!.narrow(0, r.First, r.Rank)).mm(t[3]!.narrow(0, r.First, r.Rank)) * r.Scale;
            y = y + F.pad(low, [0, 0, s.First, x.shape[0] - s.First - s.Tokens]);
        }
        return y.view([.. t[0]!.shape[..^1], t[1]!.shape[0]]);
    }

    private static Torch.Tensor Patches(Unfold op, Torch.Tensor x)
    {
        Torch.Tensor columns = F.unfold(x, (op.KernelHeight, op.KernelWidth), (op.Dilation, op.Dilation), (op.Padding, op.Padding), (op.Stride, op.Stride));
        return columns.transpose(1, 2).reshape(-1, columns.shape[1]);
    }

    private static Torch.Tensor Loss(CrossEntropy op, Torch.Tensor logits, Torch.Tensor labels) =>
        F.cross_entropy(Capped(logits, op.SoftCap), labels, ignore_index: op.Ignore, label_smoothing: op.Smoothing).reshape(1);

    private static Torch.Tensor Capped(Torch.Tensor x, double cap) => cap == 0 ? x : (x / cap).tanh() * cap;

    private static Torch.Tensor Attend(Attention op, Torch.Tensor q, Torch.Tensor k, Torch.Tensor v, Torch.Tensor? mask, Torch.Tensor? bias)
    {
        (long batch, long queries, long keys, long dim) = (q.shape[0], q.shape[1], k.shape[1], q.shape[2] / op.Heads);
        long shared = op.KvHeads == 0 ? 1 : op.Heads / op.KvHeads;
        Torch.Tensor Heads(Torch.Tensor x, long repeats) => x.view(batch, x.shape[1], -1, dim).transpose(1, 2).repeat_interleave(repeats, 1);
        Torch.Tensor seen = Torch.ones(queries, keys, dtype: Torch.ScalarType.Bool);
        seen = op.Causal ? seen.tril(keys - queries) : seen;
        seen = op.Window == 0 ? seen : seen.triu(keys - queries - op.Window + 1);
        seen = mask is null ? seen : seen.logical_and(mask.to(Torch.ScalarType.Bool).view(batch, 1, 1, keys));
        if (op.SoftCap == 0 && bias is null)
        {
            return F.scaled_dot_product_attention(Heads(q, 1), Heads(k, shared), Heads(v, shared), attn_mask: seen).transpose(1, 2).reshape(q.shape);
        }
        Torch.Tensor scores = Capped(Heads(q, 1).matmul(Heads(k, shared).transpose(-1, -2)) / Math.Sqrt(dim), op.SoftCap);
        scores = (bias is null ? scores : scores + bias).masked_fill(seen.logical_not(), double.NegativeInfinity);
        return scores.softmax(-1).matmul(Heads(v, shared)).transpose(1, 2).reshape(q.shape);
    }
}
