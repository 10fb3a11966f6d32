using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>How TIES makes one vector of those that agree.</summary>
public enum TiesFunction
{
    /// <summary>Their sum.</summary>
    Sum,
    /// <summary>Their mean.</summary>
    Mean,
    /// <summary>The largest magnitude, with the elected sign.</summary>
    Max,
}

/// <summary>Numbers of <see cref="ModelMerge.Ties"/>.</summary>
/// <param name="Keep">Share of every task vector's entries that stay: in percent above 1, else as a fraction.</param>
/// <param name="Function">Of the entries that agree.</param>
/// <param name="Lambda">Factor on the merged vector.</param>
public sealed record TiesOptions(double Keep = 20, TiesFunction Function = TiesFunction.Sum, double Lambda = 0.3);

/// <summary>What becomes of the task vectors that DARE leaves.</summary>
public enum DareThen
{
    /// <summary>Their sum.</summary>
    TaskArithmetic,
    /// <summary>TIES.</summary>
    Ties,
    /// <summary>Their mean.</summary>
    Average,
}

/// <summary>Numbers of <see cref="ModelMerge.Dare"/>.</summary>
/// <param name="Drop">Probability p that an entry goes.</param>
/// <param name="Rescale">What stays is divided by 1 - p.</param>
/// <param name="Then">What follows.</param>
/// <param name="Lambda">Factor on the merged vector, null: 0.3, with TIES 0.5; of an average always 1.</param>
/// <param name="Keep">Of TIES.</param>
/// <param name="Seed">Of the draws, which are independent for every expert and tensor.</param>
public sealed record DareOptions(double Drop = 0.5, bool Rescale = true, DareThen Then = DareThen.TaskArithmetic, double? Lambda = null, double Keep = 20, ulong Seed = 0)
{
    /// <summary>Tensors that may lose entries; null: all.</summary>
    public Func<SafeTensorsEntry, bool>? Only { get; init; }

    /// <summary>What stands in for the draws: expert and tensor to uniform numbers.</summary>
    internal Func<int, string, double[]>? Draws { get; init; }
}

/// <summary>One model of fine-tuned copies of a base, as the papers merge them (recipes follow mergekit instead): τₜ = θₜ - θ₀ for every float tensor; others
/// come from the base. Nothing is read before the result is, tensor by tensor; the inputs stay open as long.
/// <code>
/// using TensorSource start = TensorSource.Open("base"), math = TensorSource.Open("math"), code = TensorSource.Open("code");
/// using MergedTensors merged = ModelMerge.Ties(start, [math, code], new TiesOptions(Keep: 20, Lambda: 1));
/// merged.Save("merged");
/// </code></summary>
public static class ModelMerge
{
    /// <summary>mean θₜ.</summary>
    /// <exception cref="AdapterConfigException">There is no model.</exception>
    /// <exception cref="ModelFormatException">They have other tensors or shapes; reading the result: one has NaN or infinity.</exception>
    public static MergedTensors Average(params IReadOnlyList<TensorSource> models)
    {
        double share = 1.0 / models.Count;
        return new TaskVectors(null, models) { Change = (_, _, term) => term with { Weight = share } }.Merge("average");
    }

    /// <summary>θ₀ + λ·Σ τₜ (arXiv 2212.04089).</summary>
    /// <exception cref="AdapterConfigException">There is no expert, or λ is not finite.</exception>
    /// <exception cref="ModelFormatException">As for <see cref="Average"/>.</exception>
    public static MergedTensors TaskArithmetic(TensorSource start, IReadOnlyList<TensorSource> experts, double lambda = 0.3)
    {
        RequireFinite("lambda", lambda);
        return new TaskVectors(start, experts).Merge("task arithmetic", lambda: lambda);
    }

    /// <summary>TIES (arXiv 2306.01708): of each task vector, all tensors taken as one row of d entries, those from the (d - ⌊d·Keep⌋)-th smallest magnitude
    /// up stay, ⌊d·Keep⌋ + 1 of distinct ones; sgn = sign Σ τ, where that is 0 the sign that most places have; entries of that sign make up the vector.
    /// Reads every model three times for the thresholds, and once for the signs.</summary>
    /// <exception cref="AdapterConfigException">A number is out of range.</exception>
    /// <exception cref="ModelFormatException">As for <see cref="Average"/>.</exception>
    public static MergedTensors Ties(TensorSource start, IReadOnlyList<TensorSource> experts, TiesOptions? options = null)
    {
        options ??= new TiesOptions();
        RequireFinite("lambda", options.Lambda);
        return new TaskVectors(start, experts).Ties("ties", options);
    }

    /// <summary>DARE (arXiv 2311.03099): entries of τₜ whose uniform number is not above p go, the rest is divided by 1 - p.</summary>
    /// <exception cref="AdapterConfigException">A number is out of range.</exception>
    /// <exception cref="ModelFormatException">As for <see cref="Average"/>.</exception>
    public static MergedTensors Dare(TensorSource start, IReadOnlyList<TensorSource> experts, DareOptions? options = null)
    {
        options ??= new DareOptions();
        RequireFinite("lambda", options.Lambda ?? 0);
        if (!(options.Drop is >= 0 and <= 1) || (options.Drop == 1 && options.Rescale))
        {
            throw new AdapterConfigException($"ModelMerge: Drop is {options.Drop}{(options.Drop == 1 ? " with Rescale, a division by 0" : "")}, want 0 to 1, with Rescale below 1");
        }
        Rng rng = new Rng(options.Seed).Fork("dare");
        var vectors = new TaskVectors(start, experts)
        {
            Change = (expert, name, term) => options.Only?.Invoke(start[name]) == false ? term : term with
            {
                Factor = options.Rescale ? 1 / (1 - options.Drop) : 1,
                Keep = options.Draws is { } draws ? term.Model.Device.Current!.Of([(int)term.Model.Shape.Count], [.. draws(expert, name).Select(u => u > options.Drop ? (byte)1 : (byte)0)]) : null,
                Draws = options.Draws is null ? MergeDraws.Above(rng.Fork($"{expert} {name}"), options.Drop) : MergeDraws.All,
            },
        };
        double lambda = options.Lambda ?? (options.Then == DareThen.Ties ? 0.5 : 0.3);
        return options.Then == DareThen.Ties
            ? vectors.Ties("dare ties", new TiesOptions(options.Keep, TiesFunction.Sum, lambda))
            : vectors.Merge("dare", lambda: options.Then == DareThen.Average ? 1.0 / experts.Count : lambda);
    }

    internal static void RequireFinite(string what, double value)
    {
        if (!double.IsFinite(value))
        {
            throw new AdapterConfigException($"ModelMerge: {what} is {value}, want a finite number");
        }
    }
}
