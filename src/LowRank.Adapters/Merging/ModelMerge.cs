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
        TaskVectors.RequireSome(models);
        return new TaskVectors(models[0], models).Merge("average", (t, name) =>
        {
            double[][] values = [.. models.Select(m => MergedTensors.Read(m, name))];
            return MergeRules.Sum(values, [.. values.Select(_ => 1.0 / values.Length)], normalize: false);
        });
    }

    /// <summary>θ₀ + λ·Σ τₜ (arXiv 2212.04089).</summary>
    /// <exception cref="AdapterConfigException">There is no expert, or λ is not finite.</exception>
    /// <exception cref="ModelFormatException">As for <see cref="Average"/>.</exception>
    public static MergedTensors TaskArithmetic(TensorSource start, IReadOnlyList<TensorSource> experts, double lambda = 0.3)
    {
        RequireFinite("lambda", lambda);
        return new TaskVectors(start, experts).Merge("task arithmetic", (t, name) => t.Add(name, lambda, MergeRules.Sum(t.All(name), t.Ones, normalize: false)));
    }

    /// <summary>TIES (arXiv 2306.01708): of each task vector, all tensors taken as one row of d entries, those from the (d - ⌊d·Keep⌋)-th smallest magnitude
    /// up stay, ⌊d·Keep⌋ + 1 of distinct ones; sgn = sign Σ τ, where that is 0 the sign that most places have; entries of that sign make up the vector.
    /// Reads every model four times for the thresholds, and once for the signs.</summary>
    /// <exception cref="AdapterConfigException">A number is out of range.</exception>
    /// <exception cref="ModelFormatException">As for <see cref="Average"/>.</exception>
    public static MergedTensors Ties(TensorSource start, IReadOnlyList<TensorSource> experts, TiesOptions? options = null)
    {
        options ??= new TiesOptions();
        RequireFinite("lambda", options.Lambda);
        var ties = new TiesVectors(new TaskVectors(start, experts), options.Keep, options.Function);
        return ties.Vectors.Merge("ties", (t, name) => t.Add(name, options.Lambda, ties.Merged(name)));
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
            Change = (expert, name, vector) =>
            {
                if (options.Only?.Invoke(start[name]) == false)
                {
                    return;
                }
                double[]? draws = options.Draws?.Invoke(expert, name);
                Rng stream = rng.Fork($"{expert} {name}");
                double factor = options.Rescale ? 1 / (1 - options.Drop) : 1;
                for (int i = 0; i < vector.Length; i++)
                {
                    vector[i] = (draws is null ? stream.Uniform(i) : draws[i]) > options.Drop ? vector[i] * factor : 0;
                }
            },
        };
        double lambda = options.Lambda ?? (options.Then == DareThen.Ties ? 0.5 : 0.3);
        if (options.Then == DareThen.Ties)
        {
            var ties = new TiesVectors(vectors, options.Keep, TiesFunction.Sum);
            return vectors.Merge("dare ties", (t, name) => t.Add(name, lambda, ties.Merged(name)));
        }
        return vectors.Merge("dare", (t, name) => t.Add(name, options.Then == DareThen.Average ? 1.0 / experts.Count : lambda, MergeRules.Sum(t.All(name), t.Ones, normalize: false)));
    }

    internal static void RequireFinite(string what, double value)
    {
        if (!double.IsFinite(value))
        {
            throw new AdapterConfigException($"ModelMerge: {what} is {value}, want a finite number");
        }
    }
}

/// <summary>The task vectors of experts, read when they are asked for.</summary>
internal sealed class TaskVectors
{
    private readonly TensorSource start;
    private readonly IReadOnlyList<TensorSource> experts;

    public TaskVectors(TensorSource start, IReadOnlyList<TensorSource> experts)
    {
        RequireSome(experts);
        (this.start, this.experts) = (start, experts);
        HashSet<string> names = [.. start.Entries.Select(e => e.Name)];
        foreach (TensorSource expert in experts)
        {
            MergedTensors.RequireSame(start.Name, names, expert.Name, expert.Entries.Select(e => e.Name).ToHashSet());
            if (start.Entries.FirstOrDefault(e => !e.Dimensions.SequenceEqual(expert[e.Name].Dimensions) || MergedTensors.IsMerged(e) != MergedTensors.IsMerged(expert[e.Name])) is { } other)
            {
                throw new ModelFormatException($"merge: {other.Name} is {other} in {start.Name} and {expert[other.Name]} in {expert.Name}, want one shape") { File = expert.Name, Key = other.Name };
            }
        }
    }

    /// <summary>What is done to a vector when it is read: expert, tensor, values.</summary>
    public Action<int, string, double[]>? Change { get; init; }

    public int Count => experts.Count;

    /// <summary>Names of the float tensors that have elements.</summary>
    public IEnumerable<string> Names => start.Entries.Where(e => MergedTensors.IsMerged(e) && e.Count > 0).Select(e => e.Name);

    /// <summary>One for each expert.</summary>
    public double[] Ones => [.. experts.Select(_ => 1.0)];

    public static void RequireSome(IReadOnlyList<TensorSource> experts)
    {
        if (experts.Count == 0)
        {
            throw new AdapterConfigException("ModelMerge: there is no expert, want at least one task vector");
        }
    }

    /// <summary>τ of an expert.</summary>
    public double[] Of(int expert, string name)
    {
        double[] vector = MergedTensors.Read(experts[expert], name);
        MergeRules.Add(vector, -1, MergedTensors.Read(start, name));
        Change?.Invoke(expert, name, vector);
        return vector;
    }

    public double[][] All(string name) => [.. Enumerable.Range(0, Count).Select(t => Of(t, name))];

    /// <summary>θ₀ + λ·v; v is overwritten. θ₀ itself where λ is 0.</summary>
    public double[] Add(string name, double lambda, double[] vector)
    {
        double[] values = MergedTensors.Read(start, name);
        if (lambda != 0)
        {
            MergeRules.Add(values, lambda, vector);
        }
        return values;
    }

    public MergedTensors Merge(string method, Func<TaskVectors, string, double[]> tensor) =>
        new($"{method} of {string.Join(", ", experts.Select(e => e.Name))}", start.Entries, e => MergedTensors.IsMerged(e) ? MergedTensors.Rounded(tensor(this, e.Name), e.Type) : start.Bytes(e.Name).ToArray());
}

/// <summary>The merged task vector of TIES, as the paper's authors compute it: thresholds and the majority's sign are of the whole model.</summary>
internal sealed class TiesVectors
{
    private readonly TiesFunction function;
    private readonly double[] thresholds;
    private readonly int majority;

    public TiesVectors(TaskVectors vectors, double keep, TiesFunction function)
    {
        (Vectors, this.function) = (vectors, function);
        double share = keep > 1 ? keep / 100 : keep;
        long d = vectors.Names.Sum(name => (long)vectors.Of(0, name).Length), kept = (long)(d * share);
        if (!(share is > 0 and <= 1) || d == 0)
        {
            throw new AdapterConfigException($"ModelMerge: Keep is {keep} of {d} entries, want above 0 and at most 100 percent of at least one");
        }
        // official code: all of them would ask for the 0-th smallest, which it cannot give
        thresholds = [.. Enumerable.Range(0, vectors.Count).Select(t => kept >= d ? 0 : Magnitudes.OfRank(() => vectors.Names.Select(name => vectors.Of(t, name)), d - kept - 1))];
        long balance = 0;
        bool zeros = false;
        foreach (string name in vectors.Names)
        {
            double[][] trimmed = Trimmed(name);
            for (int i = 0; i < trimmed[0].Length; i++)
            {
                int sign = Sign(trimmed, i);
                balance += sign;
                zeros |= sign == 0;
            }
        }
        majority = zeros ? Math.Sign(balance) : 0;
    }

    public TaskVectors Vectors { get; }

    /// <summary>The vector of a tensor.</summary>
    public double[] Merged(string name)
    {
        double[][] trimmed = Trimmed(name);
        var merged = new double[trimmed[0].Length];
        for (int i = 0; i < merged.Length; i++)
        {
            int sign = Sign(trimmed, i);
            bool plus = (sign == 0 ? majority : sign) > 0;      // official code: where even the majority is 0, minus
            double sum = 0, most = 0;
            int agreeing = 0;
            foreach (double[] vector in trimmed)
            {
                if (plus ? vector[i] > 0 : vector[i] < 0)
                {
                    sum += vector[i];
                    most = Math.Max(most, Math.Abs(vector[i]));
                    agreeing++;
                }
            }
            merged[i] = function switch
            {
                TiesFunction.Sum => sum,
                TiesFunction.Mean => sum / Math.Max(1, agreeing),
                _ => most * (sign == 0 ? majority : sign),
            };
        }
        return merged;
    }

    private double[][] Trimmed(string name)
    {
        double[][] vectors = Vectors.All(name);
        for (int t = 0; t < vectors.Length; t++)
        {
            foreach (ref double value in vectors[t].AsSpan())
            {
                value = Math.Abs(value) >= thresholds[t] ? value : 0;
            }
        }
        return vectors;
    }

    private static int Sign(double[][] vectors, int at)
    {
        double sum = 0;
        foreach (double[] vector in vectors)
        {
            sum += vector[at];
        }
        return Math.Sign(sum);
    }
}
