using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>The task vectors τₜ = θₜ - θ₀ of experts, read when they are asked for, each model in its own type unless one is asked for.</summary>
internal sealed class TaskVectors : IDisposable
{
    private readonly TensorSource? start;
    private readonly IReadOnlyList<TensorSource> experts;
    private readonly Device device;
    private readonly bool owns;
    private readonly DType? type;        // that all models are read in; null: each in its own

    /// <summary>Reads no data.</summary>
    /// <param name="start">θ₀; null: 0.</param>
    /// <param name="experts">θₜ.</param>
    /// <param name="device">Where it computes; null: a CPU of its own.</param>
    /// <param name="type">F32 or F64, which the models are read in; null: their own types, F64 where one has F64.</param>
    public TaskVectors(TensorSource? start, IReadOnlyList<TensorSource> experts, Device? device = null, DType? type = null)
    {
        if (experts.Count == 0)
        {
            throw new AdapterConfigException("ModelMerge: there is no expert, want at least one task vector");
        }
        (this.start, this.experts) = (start, experts);
        TensorSource first = First;
        HashSet<string> names = [.. first.Entries.Select(e => e.Name)];
        foreach (TensorSource expert in experts)
        {
            MergedTensors.RequireSame(first.Name, names, expert.Name, expert.Entries.Select(e => e.Name).ToHashSet());
            if (first.Entries.FirstOrDefault(e => !e.Dimensions.SequenceEqual(expert[e.Name].Dimensions) || MergedTensors.IsMerged(e) != MergedTensors.IsMerged(expert[e.Name])) is { } other)
            {
                throw new ModelFormatException($"merge: {other.Name} is {other} in {first.Name} and {expert[other.Name]} in {expert.Name}, want one shape") { File = expert.Name, Key = other.Name };
            }
        }
        this.type = type ?? (experts.Append(first).Any(m => m.Entries.Any(e => e.Type == SafeTensorsType.F64)) ? DType.F64 : null);
        (this.device, owns) = (device ?? Device.Cpu(), device is null);
    }

    /// <summary>The same models on the same device, for another change.</summary>
    public TaskVectors(TaskVectors same) => (start, experts, device, type) = (same.start, same.experts, same.device, same.type);

    /// <summary>What takes part of a vector when it is read: expert, tensor, all of it.</summary>
    public Func<int, string, MergeTerm, MergeTerm>? Change { get; init; }

    /// <summary>Names of the float tensors that have elements.</summary>
    public IEnumerable<string> Names => First.Entries.Where(e => MergedTensors.IsMerged(e) && e.Count > 0).Select(e => e.Name);

    private TensorSource First => start ?? experts[0];

    /// <summary>The model θ₀ + λ·scale ⊙ what the rule makes of the vectors, tensors of other types as the first model has them.</summary>
    /// <param name="method">How it is called.</param>
    /// <param name="rule">How.</param>
    /// <param name="lambda">λ.</param>
    /// <param name="even">The sign of an election that comes out even.</param>
    /// <param name="scale">Factors of a tensor in a scope; null: 1.</param>
    /// <param name="options">Progress, report, cancellation.</param>
    public MergedTensors Merge(string method, MergeRule rule = MergeRule.Sum, double lambda = 1, int even = 1, Func<string, Scope, Tensor?>? scale = null, MergeOptions? options = null)
    {
        int done = 0;
        return new MergedTensors(
            $"{method} of {string.Join(", ", experts.Select(e => e.Name))}",
            First.Entries,
            entry =>
            {
                options?.Cancellation.ThrowIfCancellationRequested();
                byte[] bytes = MergedTensors.IsMerged(entry) ? Bytes(entry, rule, lambda, even, scale, options?.Report) : First.Bytes(entry.Name).ToArray();
                options?.Progress?.Report(new MergeProgress(entry.Name, ++done, First.Entries.Count));
                return bytes;
            },
            owns ? [this] : []);
    }

    /// <summary>TIES with thresholds and the majority's sign of the whole model, as the paper's authors compute them.</summary>
    public MergedTensors Ties(string method, TiesOptions options)
    {
        try
        {
            MergeRule rule = options.Function switch { TiesFunction.Sum => MergeRule.Agreeing, TiesFunction.Mean => MergeRule.MeanOfAgreeing, _ => MergeRule.LargestOfAgreeing };
            double share = options.Keep > 1 ? options.Keep / 100 : options.Keep;
            long d = Names.Sum(name => First[name].Count), kept = (long)(d * share);
            if (!(share is > 0 and <= 1) || d == 0)
            {
                throw new AdapterConfigException($"ModelMerge: Keep is {options.Keep} of {d} entries, want above 0 and at most 100 percent of at least one");
            }
            // official code: all of them would ask for the 0-th smallest, which it cannot give
            double[] thresholds = kept >= d ? [.. experts.Select(_ => -1.0)]
                : [.. MagnitudeCount.OfRank(device, type ?? DType.F32, [.. experts.Select(_ => d - kept - 1)], count => Each((_, from, terms) => count.Add(from, terms))).Select(o => o.Value)];
            var trimmed = new TaskVectors(this) { Change = (t, name, term) => Changed(t, name, term) with { Least = thresholds[t] } };
            long balance = 0;
            trimmed.Each((name, from, terms) =>
            {
                MergeFigures figures = TensorMerge.Run(from, terms, rule, null);
                RequireFinite(figures, name);
                balance += figures.SignBalance;
            });
            MergedTensors merged = trimmed.Merge(method, rule, options.Lambda, Math.Sign(balance));
            return owns ? merged.Owning(this) : merged;
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (owns)
        {
            device.Dispose();
        }
    }

    private MergeTerm Changed(int expert, string name, MergeTerm term) => Change?.Invoke(expert, name, term) ?? term;

    /// <summary>Calls for every tensor: name, θ₀, vectors.</summary>
    private void Each(Action<string, Tensor?, IReadOnlyList<MergeTerm>> act)
    {
        foreach (string name in Names)
        {
            using Scope scope = device.BeginScope();
            (Tensor? from, MergeTerm[] terms) = Load(name, scope);
            act(name, from, terms);
        }
    }

    private (Tensor? Start, MergeTerm[] Terms) Load(string name, Scope scope)
    {
        Tensor Read(TensorSource source) => type is { } wanted ? source.Load(name, scope, wanted) : source.Load(name, scope);
        return (start is null ? null : Read(start), [.. experts.Select((expert, t) => Changed(t, name, new MergeTerm(Read(expert))))]);
    }

    private byte[] Bytes(SafeTensorsEntry entry, MergeRule rule, double lambda, int even, Func<string, Scope, Tensor?>? scale, ICollection<TensorInterference>? report)
    {
        using Scope scope = device.BeginScope();
        (Tensor? from, MergeTerm[] terms) = Load(entry.Name, scope);
        Tensor y = scope.New(entry.Shape, MergedTensors.TypeOf(entry.Type));
        Tensor? factors = scale?.Invoke(entry.Name, scope)?.ConvertTo(y.DType == DType.F64 || type == DType.F64 ? DType.F64 : DType.F32, scope);
        MergeFigures figures = TensorMerge.Run(from, terms, rule, y, lambda, even, factors, compares: report is not null);
        RequireFinite(figures, entry.Name);
        report?.Add(TensorInterference.Of(entry.Name, entry.Count, from is not null, figures));
        return y.ToBytes();
    }

    private void RequireFinite(MergeFigures figures, string name) => MergedTensors.RequireFinite(figures, [.. experts.Append(First).Select(m => (m, name))]);
}
