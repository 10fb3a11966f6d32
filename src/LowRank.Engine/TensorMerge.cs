using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>Merges of tensors of one shape, each in one pass over the models in their own types: sums are float32 (F64 where one of them is), the result is
/// rounded once. Bits do not depend on the number of threads.
/// <code>
/// using Scope scope = device.BeginScope();
/// Tensor merged = TensorMerge.Ties(start, [math, code], keep: 20, lambda: 1);
/// </code></summary>
public static class TensorMerge
{
    /// <summary>mean θₜ of models θₜ [..], in the type of the first.</summary>
    /// <exception cref="ShapeException">There is no model, or they differ in shape.</exception>
    public static Tensor Average(params IReadOnlyList<Tensor> models) => Apply(null, [.. models.Select(m => new MergeTerm(m) { Weight = 1.0 / models.Count })], MergeRule.Sum, 1);

    /// <summary>θ₀ + λ·Σ (θₜ - θ₀) (arXiv 2212.04089); θ₀ and θₜ [..], the result in the type of θ₀, and θ₀ itself where λ is 0.</summary>
    /// <exception cref="ShapeException">As for <see cref="Average"/>.</exception>
    public static Tensor TaskArithmetic(Tensor start, IReadOnlyList<Tensor> models, double lambda = 0.3) => Apply(start, [.. models.Select(m => new MergeTerm(m))], MergeRule.Sum, lambda);

    /// <summary>TIES (arXiv 2306.01708) of tensors taken as whole models: see <c>ModelMerge.Ties</c>, which takes all tensors of a model as one row.</summary>
    /// <param name="start">θ₀ [..].</param>
    /// <param name="models">θₜ [..].</param>
    /// <param name="keep">Share of the d entries of θₜ - θ₀ that stay: in percent above 1, else as a fraction; ⌊d·keep⌋ + 1 of distinct magnitudes.</param>
    /// <param name="rule">What becomes of those that agree.</param>
    /// <param name="lambda">Factor on what is added to θ₀.</param>
    /// <exception cref="ShapeException">As for <see cref="Average"/>; or keep is not above 0 and at most 100 percent.</exception>
    public static Tensor Ties(Tensor start, IReadOnlyList<Tensor> models, double keep = 20, MergeRule rule = MergeRule.Agreeing, double lambda = 0.3)
    {
        double share = keep > 1 ? keep / 100 : keep;
        long d = start.Shape.Count, kept = (long)(d * share);
        if (!(share is > 0 and <= 1) || d == 0)
        {
            throw new ShapeException($"TensorMerge: keep is {keep} of {d} entries, want above 0 and at most 100 percent of at least one");
        }
        MergeTerm[] terms = [.. models.Select(m => new MergeTerm(m))];
        if (kept < d)
        {
            var found = MagnitudeCount.OfRank(start.Device, Require(start, terms, null), [.. terms.Select(_ => d - kept - 1)], count => count.Add(start, terms));
            terms = [.. terms.Zip(found, (term, order) => term with { Least = order.Value })];
        }
        MergeFigures signs = Run(start, terms, rule, null);
        return Apply(start, terms, rule, lambda, Math.Sign(signs.SignBalance));
    }

    /// <summary>DARE (arXiv 2311.03099): entries of θₜ - θ₀ whose uniform number is not above <paramref name="drop"/> go, the rest is divided by 1 - drop;
    /// θ₀ + λ·Σ of what stays. Draws are independent for every model and depend on the seed alone.</summary>
    /// <exception cref="ShapeException">As for <see cref="Average"/>; or drop is not from 0 to below 1.</exception>
    public static Tensor Dare(Tensor start, IReadOnlyList<Tensor> models, double drop = 0.5, double lambda = 0.3, ulong seed = 0)
    {
        if (!(drop is >= 0 and < 1))
        {
            throw new ShapeException($"TensorMerge: drop is {drop}, want 0 or more and below 1");
        }
        Rng rng = new Rng(seed).Fork("dare");
        return Apply(start, [.. models.Select((m, t) => new MergeTerm(m) { Factor = 1 / (1 - drop), Draws = MergeDraws.Above(rng.Fork($"{t}"), drop) })], MergeRule.Sum, lambda);
    }

    /// <summary>y = start + λ·scale ⊙ z with z what <paramref name="rule"/> makes of the terms, element by element; nothing of the kind is stored between.</summary>
    /// <param name="start">θ₀ [..]; null: 0.</param>
    /// <param name="terms">The models [..].</param>
    /// <param name="rule">How.</param>
    /// <param name="y">Where it goes, [..] of any float type; null: only figures are wanted.</param>
    /// <param name="lambda">Factor; at 0 y is start itself.</param>
    /// <param name="even">The sign, -1, 0 or 1, that an election of sum 0 comes to; 0 takes part like -1 and gives 0 to the largest.</param>
    /// <param name="scale">Factor by element [..] in parameter precision; null: 1.</param>
    /// <param name="compares">Figures of how the models agree are wanted.</param>
    /// <exception cref="ShapeException">There is no model, or an operand has another shape or type: names it.</exception>
    public static MergeFigures Run(Tensor? start, IReadOnlyList<MergeTerm> terms, MergeRule rule, Tensor? y, double lambda = 1, int even = 1, Tensor? scale = null, bool compares = false)
    {
        DType type = Require(start, terms, y);
        Shape shape = terms[0].Model.Shape;
        if (scale is not null && (scale.Shape.Count != shape.Count || scale.DType != type.ForParameters()))
        {
            throw new ShapeException($"TensorMerge: scale is {scale}, want {type.ForParameters()}{shape}");
        }
        int models = terms.Count, width = MergeArgs.Width(models), blocks = checked((int)((shape.Count + MergeArgs.Block - 1) / MergeArgs.Block));
        Device device = terms[0].Model.Device;
        using Scope scope = device.BeginScope();
        Tensor figures = scope.New([blocks, width], DType.F64);
        if (blocks > 0)
        {
            device.Launch(Kernels.Merge, new MergeArgs
            {
                Inputs = Table(scope, terms, null),
                Start = start?.Data ?? 0,
                Scale = scale?.Data ?? 0,
                Y = y?.Data ?? 0,
                Figures = figures.Data,
                Count = shape.Count,
                Lambda = lambda,
                InputCount = models,
                Rule = rule,
                Even = even,
                Compares = compares ? 1 : 0,
                StartType = start?.DType ?? type,
                YType = y?.DType ?? type,
                DType = type,
            });
        }
        return Read(figures.ToDoubles(), models, width);
    }

    /// <summary>The terms with thresholds at which as many of the largest magnitudes stay as asked for; of equal ones the first stay.</summary>
    /// <param name="start">θ₀ [..]; null: 0.</param>
    /// <param name="terms">The models [..].</param>
    /// <param name="counts">Entries that stay, one a term, from 1 on; as many as there are: all.</param>
    /// <exception cref="ShapeException">As for <see cref="Run"/>.</exception>
    public static IReadOnlyList<MergeTerm> KeepLargest(Tensor? start, IReadOnlyList<MergeTerm> terms, IReadOnlyList<long> counts)
    {
        DType type = Require(start, terms, null);
        long n = terms[0].Model.Shape.Count;
        int[] chosen = [.. Enumerable.Range(0, terms.Count).Where(t => counts[t] < n)];
        MergeTerm[] trimmed = [.. terms], some = [.. chosen.Select(t => terms[t])];
        if (some.Length == 0)
        {
            return trimmed;
        }
        var found = MagnitudeCount.OfRank(some[0].Model.Device, type, [.. chosen.Select(t => n - counts[t])], count => count.Add(start, some));
        foreach ((int i, int t) in chosen.Index())
        {
            (double value, long rank, long equal) = found[i];      // of the equal ones those from `rank` on would stay in ascending order: so many of the first do
            trimmed[t] = terms[t] with { Least = value, Cut = rank == 0 ? long.MaxValue : MagnitudeCount.PlaceOf(start, terms[t], type, value, equal - rank) };
        }
        return trimmed;
    }

    /// <summary>The type that magnitudes and sums have: F64 where an operand is, else F32.</summary>
    internal static DType Require(Tensor? start, IReadOnlyList<MergeTerm> terms, Tensor? y)
    {
        if (terms.Count == 0)
        {
            throw new ShapeException("TensorMerge: there is no model, want at least one");
        }
        Tensor first = start ?? terms[0].Model;
        bool wide = false;
        void Fits(string what, Tensor tensor)
        {
            if (tensor.Shape != first.Shape || !tensor.DType.IsFloat() || tensor.IsPacked || tensor.Device != first.Device)
            {
                throw new ShapeException($"TensorMerge: {what} is {tensor} on {tensor.Device.Name}, want floats of {first.Shape} in rows on {first.Device.Name}");
            }
            wide |= tensor.DType == DType.F64;
        }
        Fits(start is null ? "model 0" : "start", first);
        for (int t = 0; t < terms.Count; t++)
        {
            Fits($"model {t}", terms[t].Model);
            if (terms[t].Keep is { } keep && (keep.DType != DType.U8 || keep.Shape.Count != first.Shape.Count))
            {
                throw new ShapeException($"TensorMerge: the mask of model {t} is {keep}, want U8{first.Shape}");
            }
        }
        if (y is not null)
        {
            Fits("y", y);
        }
        return wide ? DType.F64 : DType.F32;
    }

    /// <summary>Address of the terms as kernels read them, in <paramref name="scope"/>.</summary>
    internal static nint Table(Scope scope, IReadOnlyList<MergeTerm> terms, ulong[]? found)
    {
        MergeInput[] inputs = [.. terms.Select((term, t) => new MergeInput
        {
            X = term.Model.Data,
            Keep = term.Keep?.Data ?? 0,
            Weight = term.Weight,
            Share = term.Share,
            Factor = term.Factor,
            Least = term.Least,
            Cut = term.Cut,
            Seed = term.Draws.Seed,
            Stream = term.Draws.Stream,
            Found = found?[t] ?? 0,
            From = term.Draws.From,
            To = term.Draws.To,
            DType = term.Model.DType,
        })];
        ReadOnlySpan<byte> bytes = MemoryMarshal.AsBytes(inputs.AsSpan());
        return scope.OfRaw([bytes.Length], DType.U8, bytes).Data;
    }

    private static Tensor Apply(Tensor? start, MergeTerm[] terms, MergeRule rule, double lambda, int even = 1)
    {
        DType type = Require(start, terms, null);
        Tensor first = start ?? terms[0].Model;
        Scope scope = first.Device.Current ?? throw new InvalidOperationException("TensorMerge: no scope is open; call BeginScope first");
        Tensor y = scope.New(first.Shape, first.DType);
        Run(start, terms, rule, y, lambda, even);
        return y;
    }

    private static MergeFigures Read(double[] figures, int models, int width)
    {
        var sums = new double[width];
        double most = 0;
        for (int at = 0; at < figures.Length; at += width)
        {
            for (int i = 0; i < width; i++)
            {
                sums[i] += figures[at + i];
            }
            most = Math.Max(most, figures[at + 4]);
        }
        ReadOnlySpan<double> each = sums.AsSpan(MergeArgs.FixedFigures, 2 * models);
        var (magnitudes, kept) = (new double[models], new double[models]);
        for (int t = 0; t < models; t++)
        {
            (magnitudes[t], kept[t]) = (each[2 * t], each[(2 * t) + 1]);
        }
        return new((long)sums[0], (long)sums[1], (long)sums[2], sums[3], most, sums[5], magnitudes, kept, sums[(MergeArgs.FixedFigures + (2 * models))..]);
    }
}
