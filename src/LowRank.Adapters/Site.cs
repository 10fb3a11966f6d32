namespace LowRank.Adapters;

/// <summary>What a layer computes from its weight.</summary>
public enum SiteKind
{
    /// <summary>y = x·Wᵀ + b, W [out,in].</summary>
    Linear,
    /// <summary>Convolution along one axis, W [out, in, kernel width].</summary>
    Conv1d,
    /// <summary>2-D convolution, W [out, in, kernel height, kernel width].</summary>
    Conv2d,
    /// <summary>3-D convolution, W [out, in, kernel depth, kernel height, kernel width].</summary>
    Conv3d,
    /// <summary>Row lookup, W [vocabulary, width].</summary>
    Embedding,
    /// <summary>Norm over the last dimension, weight [d] and perhaps a bias [d].</summary>
    Norm,
    /// <summary>A bare parameter: matrices W [count, rows, cols] that the model multiplies itself, such as the experts of a mixture.</summary>
    Stack,
}

/// <summary>A layer that can be adapted: its path, frozen weight and bias, and the adapters in place, if any. Models are built of these.</summary>
public sealed class Site
{
    private readonly List<Adapter> adapters = [];

    /// <summary>Describes a layer.</summary>
    /// <param name="path">Module path as PEFT names it, for example <c>vit.layers.0.attention.q_proj</c>; of a stack, the parameter's own.</param>
    /// <param name="kind">What it computes.</param>
    /// <param name="weight">Weight; for a linear layer [out,in].</param>
    /// <param name="bias">Bias [out], or null.</param>
    public Site(string path, SiteKind kind, Parameter weight, Parameter? bias)
    {
        (Path, KeyPath, Kind, Weight, Bias) = (path, path, kind, weight, bias);
    }

    /// <summary>Module path as PEFT names it.</summary>
    public string Path { get; }

    /// <summary>Where files of adapters keep what is trained for this layer: its path, but that of the module for a stack.</summary>
    internal string KeyPath { get; set; }

    /// <summary>Other module paths that name this layer, such as the one in the weight file, or that of a module which is adapted as a whole.</summary>
    public IReadOnlyList<string> Aliases { get; init; } = [];

    /// <summary>What the layer computes.</summary>
    public SiteKind Kind { get; }

    /// <summary>Frozen weight, or trained in full fine-tuning; its value may be packed. Tied layers share it.</summary>
    public Parameter Weight { get; internal set; }

    /// <summary>Bias, or null.</summary>
    public Parameter? Bias { get; }

    /// <summary>True for convolutions along any number of axes.</summary>
    public bool IsConvolution => Kind is SiteKind.Conv1d or SiteKind.Conv2d or SiteKind.Conv3d;

    /// <summary>Geometry of a convolution.</summary>
    public Convolution Convolution { get; init; } = new();

    /// <summary>The op where <see cref="Kind"/> is Norm.</summary>
    public Normalization? Normalization { get; init; }

    /// <summary>True for the output layer, which <c>all-linear</c> leaves out.</summary>
    public bool IsOutput { get; init; }

    /// <summary>True where the stored weight is [in,out] (GPT-2's Conv1D): the value here is transposed to [out,in], files are not.</summary>
    public bool IsTransposed { get; init; }

    /// <summary>Rows of the weight seen as a matrix: out, or the vocabulary.</summary>
    public int Outputs => Weight.Value.Shape[0];

    /// <summary>Columns of the weight seen as a matrix [out, in·kh·kw].</summary>
    public int Inputs => checked((int)(Weight.Value.Shape.Count / Math.Max(1, Weight.Value.Shape[0])));

    /// <summary>The adapter in place, the first of several; null: the plain layer.</summary>
    public Adapter? Adapter => adapters.Count == 0 ? null : adapters[0];

    /// <summary>True where something stands between the weight and the output now: an active adapter, or a batch whose rows choose theirs.</summary>
    public bool IsAdapted => Rows is not null || adapters.Exists(a => a.IsActive);

    /// <summary>The adapters that the layer's output passes through.</summary>
    internal IEnumerable<Adapter> Active => adapters.Where(a => a.IsActive);

    /// <summary>True where the weight does not hold the base's own values now.</summary>
    internal bool IsChanged => adapters.Exists(a => a.Merged || (a.ChangesBase && a.Enabled));

    /// <summary>What stands in for the layer while the rows of a batch choose their adapters.</summary>
    internal Func<Site, Tensor, Tensor>? Rows { get; set; }

    /// <summary>The layer's output: what the active adapters add is summed.</summary>
    public Tensor Forward(Tensor x)
    {
        Observer?.Invoke(x);
        if (Rows is { } rows)
        {
            return rows(this, x);
        }
        Tensor? y = null;
        foreach (Adapter adapter in adapters)
        {
            if (adapter.IsActive)
            {
                y = y is null ? adapter.Output(x) : adapter.AddTo(y, x);
            }
        }
        return y ?? BaseForward(x);
    }

    /// <summary>f(gate(x)) ⊙ up(x) of two linear layers: in one pass (<see cref="GatedLinear"/>) where each is plain or has low-rank factors alone, else one after
    /// the other; the bits are the same.</summary>
    public static Tensor Gated(Site gate, Site up, Gated op, Tensor x)
    {
        Tensor wg = gate.Weight.Value, wu = up.Weight.Value;
        if (gate.FactorsFor(x) is not { } g || up.FactorsFor(x) is not { } u || wg.IsQuantized || wg.DType != wu.DType || wg.IsPacked != wu.IsPacked)
        {
            return op.Apply(gate.Forward(x), up.Forward(x));
        }
        gate.Observer?.Invoke(x);
        up.Observer?.Invoke(x);
        return new GatedLinear(op.Function, g.Scale, u.Scale).Apply(x, gate.Weight, up.Weight, g.A, g.B, u.A, u.B, gate.Bias?.Value, up.Bias?.Value);
    }

    // What stands beside W·x: nothing, or factors; null: something else
    private (Tensor? A, Tensor? B, double Scale)? FactorsFor(Tensor x)
    {
        Adapter[] active = [.. Active];
        return Kind != SiteKind.Linear || Rows is not null ? null
            : active.Length == 0 ? (null, null, 1)
            : active.Length == 1 && active[0].FactorsFor(x) is { } factors ? (factors.A, factors.B, factors.Scale)
            : null;
    }

    internal void Put(Adapter adapter) => adapters.Add(adapter);

    internal void Take(Adapter adapter) => adapters.Remove(adapter);

    /// <summary>The weight as the layer uses it now, with what active adapters add: for models that multiply it themselves.</summary>
    public Tensor CurrentWeight()
    {
        Adapter[] active = [.. Active];
        return active.Length == 0 ? Weight.Value : Adapter.Sum(active).Weight;
    }

    /// <summary>The weight as a row-major matrix [out, in·kh·kw] in parameter precision, in the current scope where it has to be unpacked or widened.</summary>
    public Tensor WeightMatrix()
    {
        Tensor w = Weight.Value;
        Scope scope = w.Device.Current ?? throw new InvalidOperationException($"Site {Path}: no scope is open; call BeginScope or BeginTape first");
        w = w.IsPacked ? Packing.Unpack(w, scope) : w;
        w = w.DType == w.DType.ForParameters() ? w : w.ConvertTo(w.DType.ForParameters(), scope);
        return w.Shape.Rank == 2 ? w : w.Reshape([Outputs, Inputs]);
    }

    /// <summary>The layer's output without an adapter.</summary>
    public Tensor BaseForward(Tensor x)
    {
        if (Kind == SiteKind.Embedding)
        {
            return new Gather().Apply(Weight, x);
        }
        if (Kind == SiteKind.Norm)
        {
            return Normalization!.Apply(x, Weight, Bias?.Value);
        }
        if (Kind == SiteKind.Linear)
        {
            return new Linear().Apply(x, Weight, Bias?.Value);
        }
        if (Kind == SiteKind.Stack)
        {
            throw new InvalidOperationException($"Site {Path}: a stack of matrices computes nothing by itself; multiply by CurrentWeight");
        }
        return FromPatches(new Linear().Apply(Patches(x), Weight.Value.Reshape([Outputs, Inputs]), Bias?.Value), x);
    }

    /// <summary>The rows a convolution multiplies by its weight matrix, one a patch: x [batch, c, h, w] → [batch·oh·ow, c·kh·kw], and so along one axis or three.</summary>
    public Tensor Patches(Tensor x) => Convolution.Patches(x, Weight.Value.Shape);

    /// <summary>A convolution's rows back as an image: [batch·oh·ow, out] → [batch, out, oh, ow], x being the layer's input.</summary>
    public Tensor FromPatches(Tensor rows, Tensor x)
    {
        int batch = x.Shape[0], outputs = rows.Shape.Cols;
        Tensor y = new Transpose().Apply(rows.Reshape([batch, rows.Shape[0] / batch, outputs]));
        return y.Reshape(Shape.Of([batch, outputs, .. Convolution.OutputSize(x.Shape, Weight.Value.Shape)]));
    }

    /// <summary>Sees every input while a calibration runs.</summary>
    internal Action<Tensor>? Observer { get; set; }
}
