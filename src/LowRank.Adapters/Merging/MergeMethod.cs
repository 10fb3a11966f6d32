namespace LowRank.Adapters;

/// <summary>Whether a merge method starts from a base model.</summary>
public enum BaseUse
{
    /// <summary>A base model is one input like the others.</summary>
    None,
    /// <summary>With one the method works on the differences to it.</summary>
    Optional,
    /// <summary>It needs one.</summary>
    Required,
}

/// <summary>A number that a merge method takes.</summary>
/// <param name="Name">As recipes write it; true is 1.</param>
/// <param name="Default">Where a recipe does not give it; null: it must.</param>
/// <param name="PerModel">True where every input has its own.</param>
public sealed record MergeParameter(string Name, double? Default, bool PerModel = false);

/// <summary>A way to make one tensor of several, by mergekit's name and rules.</summary>
/// <param name="Name">As recipes write it.</param>
/// <param name="Base">What it does with a base model.</param>
/// <param name="Least">The fewest inputs, the base not counted where it is one of its own.</param>
/// <param name="Most">The most.</param>
/// <param name="Formula">What it computes: Xᵢ the inputs, B the base, Dᵢ = Xᵢ - B, w the weights.</param>
/// <param name="Parameters">What it takes.</param>
public sealed record MergeMethod(string Name, BaseUse Base, int Least, int Most, string Formula, params IReadOnlyList<MergeParameter> Parameters)
{
    private const int Any = int.MaxValue;
    /// <summary>The method that learns a mask.</summary>
    public const string Concrete = "concrete";

    /// <summary>The method that learns weights alone.</summary>
    public const string AdaMerging = "adamerging";

    private static readonly MergeParameter Weight = new("weight", null, PerModel: true), Density = new("density", 1, PerModel: true),
        Plain = new("normalize", 0), Normalized = new("normalize", 1), Lambda = new("lambda", 1), Rescale = new("rescale", 1), NoRescale = new("rescale", 0), Int8Mask = new("int8_mask", 0),
        Gamma = new("gamma", 0.01, PerModel: true), Epsilon = new("epsilon", 0.15, PerModel: true);

    private static readonly MergeParameter[] Learned = [new("lambda", 0.3), new("layer_wise", 0), new("clamp", 0), new("adaptation_steps", 1000), new("adaptation_rate", 1e-3), new("batch", 16)];

    /// <summary>Every method.</summary>
    public static IReadOnlyList<MergeMethod> All { get; } =
    [
        new("linear", BaseUse.None, 1, Any, "Σ wX / Σ w", Weight, Normalized) { Pass = MergeRules.Linear },
        new("slerp", BaseUse.Required, 1, 1, "on the great circle from B to X; linear where they point the same way", new MergeParameter("t", null)) { Merge = MergeRules.Slerp },
        new("nuslerp", BaseUse.Optional, 2, 2, "on the great circle from X₁ to X₂ at w₂/(w₁ + w₂); with a base of the D", Weight, new MergeParameter("nuslerp_flatten", 1), new MergeParameter("nuslerp_row_wise", 0)) { Merge = MergeRules.NuSlerp },
        new("multislerp", BaseUse.Optional, 2, Any, "in the tangent plane at the weighted mean direction", Weight, new MergeParameter("normalize_weights", 1), new MergeParameter("eps", 1e-8)) { Merge = MergeRules.MultiSlerp },
        new("karcher", BaseUse.None, 2, Any, "mean on the sphere, of the mean length", new MergeParameter("max_iter", 10), new MergeParameter("tol", 1e-5)) { Merge = MergeRules.Karcher },
        new("task_arithmetic", BaseUse.Required, 1, Any, "B + λ Σ wD", Weight, Plain, Lambda, Int8Mask, NoRescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.None, elects: false) },
        new("ties", BaseUse.Required, 1, Any, "the largest of each D; a sign elected; the mean of those that agree", Weight, Density, Normalized, Lambda, Int8Mask, NoRescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.Largest, elects: true) },
        new("dare_linear", BaseUse.Required, 1, Any, "D dropped at random; Σ wD", Weight, Density, Plain, Lambda, Int8Mask, Rescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.Random, elects: false) },
        new("dare_ties", BaseUse.Required, 1, Any, "D dropped at random; signs elected", Weight, Density, Plain, Lambda, Int8Mask, Rescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.Random, elects: true) },
        new("della_linear", BaseUse.Required, 1, Any, "D dropped at random, small ones more likely; Σ wD", Weight, Density, Epsilon, Plain, Lambda, Int8Mask, Rescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.ByRank, elects: false) },
        new("della", BaseUse.Required, 1, Any, "D dropped at random, small ones more likely; signs elected", Weight, Density, Epsilon, Normalized, Lambda, Int8Mask, Rescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.ByRank, elects: true) },
        new("breadcrumbs", BaseUse.Required, 1, Any, "the largest and the smallest of each D go; Σ wD", Weight, Density, Gamma, Plain, Lambda, Int8Mask, NoRescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.Middle, elects: false) },
        new("breadcrumbs_ties", BaseUse.Required, 1, Any, "the largest and the smallest of each D go; signs elected", Weight, Density, Gamma, Plain, Lambda, Int8Mask, NoRescale) { Pass = t => TaskVectorRules.Merge(t, Sparsity.Middle, elects: true) },
        new("model_stock", BaseUse.Required, 2, Any, "B + r·mean D, r from the angles between the D", new MergeParameter("filter_wise", 0)) { Merge = TaskVectorRules.ModelStock },
        new("sce", BaseUse.Required, 1, Any, "entries that vary most; weights mean D²; signs elected", new MergeParameter("select_topk", 1), Int8Mask) { Merge = TaskVectorRules.Sce },
        new("nearswap", BaseUse.Required, 1, 1, "B + f·D, f = min(1, t/|D|)", new MergeParameter("t", null)) { Merge = TaskVectorRules.NearSwap },
        new("arcee_fusion", BaseUse.Required, 1, 1, "B + D where |D|·KL of a row lies far above the median", []) { Merge = TaskVectorRules.ArceeFusion },
        new("passthrough", BaseUse.None, 1, 1, "scale·X", new MergeParameter("scale", 1, PerModel: true)) { Merge = MergeRules.Passthrough },
        new(Concrete, BaseUse.Required, 1, Any, "B + s ⊙ Σ λD, the mask s learned from predictions on unlabelled data", [.. Learned, new("adaptive", 0), new("temperature", 0.5), new("steps", 2000), new("mask_rate", 1e-3)]) { Learns = true },
        new(AdaMerging, BaseUse.Required, 1, Any, "B + Σ λD, the λ learned from predictions on unlabelled data", Learned) { Learns = true },
    ];

    /// <summary>It learns from data: <see cref="ConcreteMerge"/> does it, not a recipe's tensors alone.</summary>
    public bool Learns { get; private init; }

    /// <summary>Writes the tensor in one pass of the merge kernel; null: <see cref="Merge"/> makes it.</summary>
    internal Func<MergeTensor, MergeFigures>? Pass { get; private init; }

    /// <summary>Makes the tensor in float64.</summary>
    internal Func<MergeTensor, double[]> Merge { get; private init; } = t => t.Parts[0].Values;

    /// <summary>The method of a name, or null.</summary>
    public static MergeMethod? Find(string name) => All.FirstOrDefault(m => m.Name == name);
}

/// <summary>One input of a tensor's merge.</summary>
/// <param name="Model">Its name.</param>
/// <param name="Tensor">In its own type.</param>
/// <param name="Settings">Its own numbers.</param>
internal sealed record MergePart(string Model, Tensor Tensor, IReadOnlyDictionary<string, double> Settings)
{
    private double[]? values;

    /// <summary>In float64; the method may overwrite them.</summary>
    public double[] Values => values ??= Tensor.ToDoubles();
}

/// <summary>What a method's formula sees of one tensor.</summary>
/// <param name="Name">Of the tensor that comes out.</param>
/// <param name="Rows">Of the tensor seen as a matrix of its last dimension; 1 for a vector.</param>
/// <param name="Start">The base model's, or null.</param>
/// <param name="Parts">The inputs, the base not among them where the method starts from it.</param>
/// <param name="Settings">Numbers of the whole merge.</param>
/// <param name="Draws">What random methods keep of an input: by the probability of each entry, or where that is null the same for all.</param>
/// <param name="Y">Where a pass writes the result.</param>
internal sealed record MergeTensor(string Name, int Rows, Tensor? Start, IReadOnlyList<MergePart> Parts, IReadOnlyDictionary<string, double> Settings, Func<MergePart, Func<int, double>?, double, MergeTerm> Draws, Tensor Y)
{
    private double[]? values;

    /// <summary>The base in float64, or null.</summary>
    public double[]? Base => values ??= Start?.ToDoubles();

    /// <summary>How the models agree is wanted too.</summary>
    public bool Compares { get; init; }

    public int Count => (int)Parts[0].Tensor.Shape.Count;

    public int Cols => Rows == 0 ? 0 : Count / Rows;

    public bool Flag(string name) => Settings[name] != 0;

    /// <summary>Xᵢ - B, in place of the inputs.</summary>
    public double[][] Differences() => [.. Parts.Select(Difference)];

    /// <summary>X - B, in place of the input.</summary>
    public double[] Difference(MergePart part)
    {
        for (int i = 0; i < part.Values.Length; i++)
        {
            part.Values[i] -= Base![i];
        }
        return part.Values;
    }

    public double[] Weights() => [.. Parts.Select(p => p.Settings["weight"])];

    public AdapterConfigException Bad(string what, double got, string want) => new($"{Name}: {what} is {got}, want {want}");
}
