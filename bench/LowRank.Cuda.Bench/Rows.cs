using LowRank.Testing;

namespace LowRank.Cuda.Bench;

using Operand = LowRank.Testing.Operand;

/// <summary>The table of timed rows. Floors are those of the handbook: products at 2·m·n·k operations, every operand read once and every result written once.</summary>
internal static class Rows
{
    private const double Scale = 2, Epsilon = 1e-5;
    private const string Eager = "PEFT eager", Compiled = "PEFT compiled", Base = "cuBLAS, base product alone", Captured = "PEFT eager, captured";

    /// <summary>Rows of a stage; <paramref name="tiny"/> keeps one small shape of each family, for the emulator.</summary>
    public static IReadOnlyList<CudaRow> Of(string stage, bool tiny) => [.. (tiny ? Tiny() : All()).Where(row => row.Stage == stage)];

    /// <summary>Stages that have rows.</summary>
    public static IEnumerable<string> Stages => All().Select(row => row.Stage).Distinct();

    private static IEnumerable<CudaRow> All() =>
    [
        Lora(8192, 4096, 4096, 16, autotune: true), Linear(8192, 4096, 4096), Lora(2048, 4096, 4096, 16), Lora(8192, 4096, 4096, 64), Lora(8192, 4096, 4096, 8), Lora(16384, 4096, 4096, 16),
        Lora(2048, 4096, 4096, 64), Lora(512, 768, 768, 16), Lora(512, 3072, 768, 16), Lora(1, 4096, 4096, 16), Lora(8, 4096, 4096, 16),
        Linear(2048, 4096, 4096), Linear(512, 768, 768),
        LoraBackward(8192, 4096, 4096, 16, "x", "a", "b"), LoraBackward(2048, 4096, 4096, 16, "x", "a", "b"), LoraBackward(8192, 4096, 4096, 64, "x", "a", "b"),
        LoraBackward(8192, 4096, 4096, 8, "x", "a", "b"), LoraBackward(16384, 4096, 4096, 16, "x", "a", "b"), LoraBackward(512, 768, 768, 16, "x", "a", "b"),
        LoraBackward(8192, 4096, 4096, 16, "b"), LoraBackward(8192, 4096, 4096, 16, "x"), LoraBackward(8192, 4096, 4096, 16, "a"),
        Dora(8192, 4096, 4096, 16), LayerNorm(8192, 4096), LayerNormBackward(8192, 4096), CrossEntropy(4096, 32000), CrossEntropyBackward(4096, 32000),
        Attention(4, 2048, 16, 128, causal: true), AttentionBackward(4, 2048, 16, 128, causal: true), Attention(32, 197, 12, 64, causal: false), AttentionBackward(32, 197, 12, 64, causal: false),
        AdamW(1, 1 << 24), AdamW(144, 16 * 768), Dropout(8192, 4096),
        MultiLora(64, 1, 4096, 4096, 16), MultiLora(16, 32, 4096, 4096, 16), MultiLora(16, 256, 4096, 4096, 16),
        Quantised(Quantization.NF4, 1, 4096, 4096), Quantised(Quantization.NF4, 8, 4096, 4096), Quantised(Quantization.NF4, 2048, 4096, 4096), Quantised(Quantization.Int8Rows, 1, 4096, 4096),
    ];

    private static IEnumerable<CudaRow> Tiny() =>
    [
        Lora(130, 136, 72, 5), Linear(70, 72, 40), LoraBackward(33, 40, 24, 4, "x", "a", "b"), LoraBackward(33, 40, 24, 4, "a"), Dora(33, 40, 24, 4), LayerNorm(9, 64), LayerNormBackward(9, 64),
        CrossEntropy(7, 50), CrossEntropyBackward(7, 50), Attention(1, 9, 2, 16, causal: true), AttentionBackward(1, 9, 2, 16, causal: true), AdamW(3, 64), Dropout(9, 32), MultiLora(3, 2, 40, 24, 4), Quantised(Quantization.NF4, 3, 40, 64),
    ];

    private static CudaRow Lora(int t, int n, int k, int r, bool autotune = false) => new(
        "forward", "lora forward", $"T {t}, {n}x{k}, r {r}", set => set.Forward("y", new LoraLinear(Scale), "x", "w", "a", "b"), X("x", t, k), W("w", n, k), P("a", r, k), P("b", n, r))
    {
        Passes = [new Cost(2L * t * (((long)n * k) + (r * (n + k))), 2L * ((t * (long)(n + k)) + ((long)n * k)))],
        Attributes = new Dictionary<string, double>(Scaled) { ["autotune"] = autotune ? 1 : 0 },
        Targets = t < 2048 ? (t > 8 ? [new(Eager, 2, 2), new(Captured, 1.3, 1.3)] : [])
            : [new(Base, 1 / 1.03, 1 / 1.03), new(Eager, 1.35, 1.20), new(Compiled, 1.25, 1.12), new("addmm order", 1.13, 1.13), new("Triton, fused", 1.10, 1.10), new("concat-K, cuBLAS", 1.03, 1.03)],
    };

    private static CudaRow Linear(int t, int n, int k) => new(
        "forward", "linear", $"T {t}, {n}x{k}", set => set.Forward("y", new Linear(), "x", "w"), X("x", t, k), W("w", n, k))
    {
        Passes = [new Cost(2L * t * n * k, 2L * ((t * (long)(n + k)) + ((long)n * k)))],
        Targets = t < 2048 ? [] : [new("cuBLAS", 0.97, 0.97)],
    };

    /// <summary>Backward of the LoRA layer: all of it, or what one gradient alone costs.</summary>
    private static CudaRow LoraBackward(int t, int n, int k, int r, params string[] wanted)
    {
        bool all = wanted.Length > 1, dx = wanted.Contains("x");
        long tn = (long)t * n, tk = (long)t * k, nk = (long)n * k;
        List<Cost> passes = [];
        if (all || !dx)
        {
            passes.Add(new((all ? 4 : 2) * tn * r, 2 * tn));        // over dY: u, dB
        }
        if (dx)
        {
            passes.Add(new(2 * ((tn * k) + (tk * r) + (all ? 0 : tn * r)), 2 * (tn + tk + nk)));
        }
        if (wanted.Contains("a"))
        {
            passes.Add(new(2 * tk * r, 2 * tk));
        }
        return new CudaRow(
            "backward", all ? "lora backward" : $"lora backward, d{wanted[0]} alone", $"T {t}, {n}x{k}, r {r}", set => set.Backward(new LoraLinear(Scale), "dy", wanted, "x", "w", "a", "b"),
            X("x", t, k), W("w", n, k), P("a", r, k), P("b", n, r), X("dy", t, n))
        {
            Passes = passes,
            Attributes = new Dictionary<string, double>(Scaled) { ["dx"] = dx ? 1 : 0, ["da"] = wanted.Contains("a") ? 1 : 0, ["db"] = wanted.Contains("b") ? 1 : 0 },
            Targets = !all ? [] : t < 2048 ? [new(Eager, 2, 2)] : [new(Eager, 1.30, 1.20), new(Compiled, 1.15, 1.15)],
        };
    }

    private static CudaRow Dora(int t, int n, int k, int r) => new(
        "rest", "dora forward", $"T {t}, {n}x{k}, r {r}",
        set =>
        {
            Tensor w2 = set.Operand("w2")!;
            DoraScale.Norms(set.Operand("w")!, null, null, 0, w2, set.Store.New(w2.Shape, w2.DType));
            set.Forward("c", new DoraScale(Scale), "m", "w", "a", "b", "w2");
            set.Forward("y", new LoraLinear(Scale), "x", "w", "a", "b", null, "c");
        },
        X("x", t, k), W("w", n, k), P("a", r, k), P("b", n, r), P("m", n), P("w2", n))
    {
        Passes = [new Cost(2L * t * (((long)n * k) + (r * (n + k))), 2L * ((t * (long)(n + k)) + ((long)n * k))), new Cost(2L * n * k * r, 2L * n * k)],
        Attributes = Scaled,
        Targets = [new(Eager, 1.35, 1.20)],
    };

    private static CudaRow LayerNorm(int rows, int d) => new(
        "rest", "layer norm forward", $"{rows}x{d}", set => set.Forward("y", new LayerNorm(Epsilon), "x", "weight", "bias"), X("x", rows, d), P("weight", d), P("bias", d))
    {
        Passes = [new Cost(8L * rows * d, 4L * rows * d)],
        Attributes = new Dictionary<string, double> { ["eps"] = Epsilon },
        Targets = [new("torch", 1.2, 1.2)],
    };

    private static CudaRow LayerNormBackward(int rows, int d) => new(
        "rest", "layer norm backward", $"{rows}x{d}", set => set.Backward(new LayerNorm(Epsilon), "dy", ["x", "weight", "bias"], "x", "weight", "bias"), X("x", rows, d), P("weight", d), P("bias", d), X("dy", rows, d))
    {
        Passes = [new Cost(14L * rows * d, 6L * rows * d)],
        Attributes = new Dictionary<string, double> { ["eps"] = Epsilon },
        Targets = [new("torch", 1.2, 1.2)],
    };

    private static CudaRow CrossEntropy(int rows, int classes) => new(
        "rest", "cross-entropy forward", $"{rows}x{classes}", set => set.Forward("loss", new CrossEntropy(), "logits", "labels"), X("logits", rows, classes), Ids("labels", rows, classes))
    {
        Passes = [new Cost(5L * rows * classes, 2L * rows * classes)],
        Targets = [new("torch", 1, 1)],
    };

    private static CudaRow CrossEntropyBackward(int rows, int classes) => new(
        "rest", "cross-entropy backward", $"{rows}x{classes}", set => set.Backward(new CrossEntropy(), "one", ["logits"], "logits", "labels"), X("logits", rows, classes), Ids("labels", rows, classes), P("one", 1))
    {
        Passes = [new Cost(5L * rows * classes, 4L * rows * classes)],
        Targets = [new("torch", 1, 1)],
    };

    private static CudaRow Attention(int batch, int tokens, int heads, int dim, bool causal) => new(
        "rest", "attention forward", Form(batch, tokens, heads, dim, causal), set => set.Forward("y", new Attention(heads, causal), "q", "k", "v"),
        X("q", batch, tokens, heads * dim), X("k", batch, tokens, heads * dim), X("v", batch, tokens, heads * dim))
    {
        Passes = [new Cost((causal ? 2L : 4L) * batch * heads * tokens * tokens * dim, 8L * batch * tokens * heads * dim)],
        Attributes = new Dictionary<string, double> { ["heads"] = heads, ["causal"] = causal ? 1 : 0 },
        Targets = [new("SDPA, flash", 1, 1), new("SDPA, cuDNN", 0.8, 0.8)],
    };

    private static CudaRow AttentionBackward(int batch, int tokens, int heads, int dim, bool causal) => new(
        "rest", "attention backward", Form(batch, tokens, heads, dim, causal), set => set.Backward(new Attention(heads, causal), "dy", ["q", "k", "v"], "q", "k", "v"),
        X("q", batch, tokens, heads * dim), X("k", batch, tokens, heads * dim), X("v", batch, tokens, heads * dim), X("dy", batch, tokens, heads * dim))
    {
        Passes = [new Cost((causal ? 5L : 10L) * batch * heads * tokens * tokens * dim, 16L * batch * tokens * heads * dim)],
        Attributes = new Dictionary<string, double> { ["heads"] = heads, ["causal"] = causal ? 1 : 0 },
        Targets = [new("SDPA, flash", 1, 1)],
    };

    private static CudaRow AdamW(int tensors, int each) => new(
        "rest", "adamw", $"{tensors} x {each}",
        set =>
        {
            Tensor p = set.Operand("p")!;
            Parameter[] parameters = [.. Enumerable.Range(0, tensors).Select(i => new Parameter($"{i}", p.Slice(i * each, each).CopyTo(set.Store)))];
            var optimizer = set.Own(new AdamW(parameters) { LearningRate = 1e-3, WeightDecay = 0.01 });
            optimizer.Pack.Gradients.CopyFrom(set.Operand("g")!);
            set.Add(
                () =>
                {
                    foreach (Parameter parameter in parameters)
                    {
                        parameter.Value.TakeGradient();     // as a backward pass leaves it
                    }
                    optimizer.Step();
                },
                ("p", optimizer.Pack.Values));
        },
        ("p", new Operand([tensors * each])), ("g", new Operand([tensors * each])))
    {
        Type = DType.F32,
        Passes = [new Cost(12L * tensors * each, 28L * tensors * each)],
        Attributes = new Dictionary<string, double> { ["tensors"] = tensors, ["lr"] = 1e-3, ["weight_decay"] = 0.01 },
        Targets = [new("torch, fused", tensors > 1 ? 1.3 : 1, tensors > 1 ? 1.3 : 1)],
        Sets = 1,      // its state is part of the work, and 28 bytes an element lie beyond the cache
        Bound = Close.Layer,
    };

    private static CudaRow Dropout(int rows, int d) => new(
        "rest", "dropout", $"{rows}x{d}", set => set.Forward("y", new Dropout(0.1, 1, 1), "x"), X("x", rows, d))
    {
        Passes = [new Cost(10L * rows * d, 4L * rows * d)],
        Attributes = new Dictionary<string, double> { ["p"] = 0.1 },
        Targets = [new("torch", 1, 1)],
        Bound = Close.Average,      // another generator: the shares of zeros are compared
    };

    /// <summary>Runs of tokens, each with an adapter of its own.</summary>
    private static CudaRow MultiLora(int adapters, int each, int n, int k, int r)
    {
        long t = (long)adapters * each;
        var table = new AdapterTable([.. Enumerable.Range(0, adapters).Select(i => new AdapterRange(i * r, r, Scale))]);
        AdapterChoice choice = AdapterChoice.PerRow([.. Enumerable.Range(0, adapters * each).Select(i => i / each)]);
        return new(
            "rest", "multi-adapter forward", $"{adapters} adapters x {each} tokens, {n}x{k}, r {r}", set => set.Forward("y", new MultiLoraLinear(table, choice), "x", "w", "a", "b"),
            X("x", (int)t, k), W("w", n, k), P("a", adapters * r, k), P("b", adapters * r, n))
        {
            Passes = [new Cost(2 * t * (((long)n * k) + (r * (long)(n + k))), 2 * ((t * (n + k)) + ((long)n * k) + ((long)adapters * r * (n + k))))],
            Attributes = new Dictionary<string, double>(Scaled) { ["adapters"] = adapters },
            Targets = [new("PEFT order", 2, 2), new("baddbmm", 1.2, 1.2)],
        };
    }

    /// <summary>A frozen weight in codes; the peer has the values that they stand for.</summary>
    private static CudaRow Quantised(Quantization kind, int t, int n, int k) => new(
        "rest", "quantised linear", $"{kind}, T {t}, {n}x{k}",
        set =>
        {
            Tensor w = set.Operand("w")!;
            Tensor codes = QuantizedMatrix.Quantize(w.ToArray(), w.Shape, kind).ToTensor(set.Store);
            w.CopyFrom(codes.ConvertTo(w.DType, set.Store));
            Tensor x = set.Operand("x")!;
            var op = new Linear();
            Tensor?[] items = [x, codes];
            Tensor[] y = [set.Store.New([t, n], x.DType)];
            set.Add(() => op.Run(items, y), ("y", y[0]));
        },
        X("x", t, k), W("w", n, k))
    {
        Passes = [new Cost(2L * t * n * k, (2L * t * (n + k)) + ((long)n * k / (kind == Quantization.Int8Rows ? 1 : 2)) + (4L * n * k / (kind == Quantization.Int8Rows ? k : 64)))],
        Targets = [new("cuBLAS, bf16 weight", t <= 8 ? 2 : 0.9, t <= 8 ? 2 : 0.9)],
    };

    private static Dictionary<string, double> Scaled => new() { ["scale"] = Scale };

    private static string Form(int batch, int tokens, int heads, int dim, bool causal) => $"{batch} x {tokens}, {heads} heads of {dim}{(causal ? ", causal" : "")}";

    private static (string, Operand) X(string name, params int[] shape) => (name, new Operand(Shape.Of(shape)));

    private static (string, Operand) W(string name, int n, int k) => (name, new Operand([n, k], Role.Frozen));

    private static (string, Operand) P(string name, params int[] shape) => (name, new Operand(Shape.Of(shape), Role.Parameter));

    private static (string, Operand) Ids(string name, int rows, int limit) => (name, new Operand([rows], Role.Ids, limit));
}
