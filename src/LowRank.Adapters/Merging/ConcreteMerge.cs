using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>Logits [rows, classes] of a task under merged weights, by tensor name and in their shapes.</summary>
/// <param name="weights">On the tape that is open.</param>
/// <param name="task">Number of the expert.</param>
/// <param name="batch">Number of the batch, from 0; every task has its own data.</param>
public delegate Tensor TaskLogits(IReadOnlyDictionary<string, Tensor> weights, int task, int batch);

/// <summary>Merging in a learned subspace (Concrete, arXiv 2312.06173): θ = θ₀ + s ⊙ Σ λₜτₜ for every tensor, s a mask of mean 1 drawn from logits X of its shape
/// (a sample of the binary Concrete distribution). X, and λ where asked for, are trained with Adam so that the tasks' predictions on unlabelled batches have little entropy;
/// each task uses a head of its own, frozen. Everything runs on the device, masks, sums and entropies as ops of its tape, and lives in its memory: base, task vectors,
/// X and its moments.
/// <code>
/// using var merge = new ConcreteMerge(device, start, [math, code], new ConcreteOptions { Adaptive = true, LayerWise = true });
/// merge.Fit((weights, task, batch) => heads[task].Forward(Network(weights, Inputs(task, batch))));
/// merge.Merged().Save("merged");
/// </code></summary>
public sealed class ConcreteMerge : IDisposable
{
    private readonly Device device;
    private readonly Scope store;
    private readonly TaskVectors vectors;
    private readonly ConcreteOptions options;
    private readonly List<Part> parts = [];
    private readonly Parameter[] lambdas;            // [T]: one, or one a tensor
    private readonly double[] initial;
    private readonly Rng rng;
    private readonly AdamW? maskAdam, innerAdam;
    private AdamW? adaptationAdam;
    private int draws = -1;

    /// <summary>Reads the models; nothing is learned yet.</summary>
    /// <param name="device">Where it computes.</param>
    /// <param name="start">The base; it stays open as long as the merge is used.</param>
    /// <param name="experts">The fine-tuned copies, in the order of the tasks.</param>
    /// <param name="options">How.</param>
    /// <exception cref="AdapterConfigException">There is no expert, or a number is out of range: names it.</exception>
    /// <exception cref="ModelFormatException">The models have other tensors or shapes, or one has NaN or infinity.</exception>
    public ConcreteMerge(Device device, TensorSource start, IReadOnlyList<TensorSource> experts, ConcreteOptions options)
    {
        vectors = new TaskVectors(start, experts, device, options.Type);
        (this.device, this.options) = (device, options);
        rng = new Rng(options.Seed).Fork("concrete");
        initial = [.. options.Lambdas ?? Enumerable.Repeat(options.Lambda, experts.Count)];
        string[] names = [.. options.Order ?? [.. vectors.Names]];
        Require("Temperature", options.Temperature, options.Temperature > 0, "more than 0");
        Require("the number of Lambdas", initial.Length, initial.Length == experts.Count, $"{experts.Count}, one a task");
        Require("a lambda", initial.FirstOrDefault(l => !double.IsFinite(l)), initial.All(double.IsFinite), "a finite number");
        Require("the least of Steps and AdaptationSteps", Math.Min(options.Steps, options.AdaptationSteps), options.Steps >= 0 && options.AdaptationSteps >= 0, "0 or more");
        Require("the least learning rate", Math.Min(options.MaskRate, Math.Min(options.InnerRate, options.AdaptationRate)), options is { MaskRate: > 0, InnerRate: > 0, AdaptationRate: > 0 }, "more than 0");
        if (!names.Order(StringComparer.Ordinal).SequenceEqual(vectors.Names.Order(StringComparer.Ordinal)) || options.Type is not (DType.F32 or DType.F64))
        {
            throw new AdapterConfigException($"ConcreteMerge: Order and Type are [{string.Join(", ", names)}] and {options.Type}, want each float tensor once, and F32 or F64");
        }
        store = device.NewStore();
        foreach (string name in names)
        {
            Shape shape = start[name].Shape;
            int count = (int)shape.Count;
            Tensor from = start.Load(name, store, options.Type).Reshape([1, count]), all = store.New([experts.Count, count], options.Type);
            foreach ((int task, TensorSource expert) in experts.Index())
            {
                using Scope scope = device.BeginScope();
                Tensor vector = all.Slice(task, 1), model = expert.Load(name, scope, options.Type).Reshape([1, count]);
                MergedTensors.RequireFinite(TensorMerge.Run(from, [new MergeTerm(model)], MergeRule.Sum, null), (start, name), (expert, name));
                vector.CopyFrom(new Add(-1).Apply(model, from));
            }
            parts.Add(new Part(name, shape, from, all, new Parameter("X." + name, store.NewZeros([count], options.Type))));
        }
        lambdas = [.. Enumerable.Range(0, options.LayerWise ? parts.Count : 1).Select(k => new Parameter(options.LayerWise ? "lam." + names[k] : "lam", store.Of([experts.Count], initial, options.Type)))];
        maskAdam = options.Masked ? Adam([.. parts.Select(p => p.Logits)], options.MaskRate) : null;
        innerAdam = options.Masked && options.Adaptive ? Adam(lambdas, options.InnerRate) : null;
    }

    /// <summary>λ as they act now: a row a task, and a column a tensor where they differ.</summary>
    public double[][] Lambdas
    {
        get
        {
            double[][] columns = [.. Enumerable.Range(0, lambdas.Length).Select(Acting)];
            return [.. initial.Select((_, task) => columns.Select(c => c[task]).ToArray())];
        }
    }

    /// <summary>The logits X of the mask, by tensor.</summary>
    public IReadOnlyDictionary<string, Parameter> Logits => parts.ToDictionary(p => p.Name, p => p.Logits);

    internal IReadOnlyList<Parameter> LambdaParameters => lambdas;

    internal AdamW? MaskAdam => maskAdam;

    internal AdamW? LambdaAdam => adaptationAdam ?? innerAdam;

    /// <summary>Learns as the options say, by first-order steps: a bi-level step starts λ anew, moves them by the gradient at the weights that they had
    /// before, and then moves X under the new λ.</summary>
    /// <param name="logits">The tasks' predictions.</param>
    /// <param name="progress">Told after each step.</param>
    /// <param name="cancellation">Ends it before the next step.</param>
    /// <exception cref="ShapeException">Logits are no matrix.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    public void Fit(TaskLogits logits, IProgress<ConcreteProgress>? progress = null, CancellationToken cancellation = default)
    {
        int batch = 0;
        for (int step = 0; options.Masked && step < options.Steps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            if (draws < 0 || !options.FreshMasks || !options.Adaptive)
            {
                draws++;
            }
            if (options.Adaptive)
            {
                ClampInPlace();      // official code: the clamp's slope is taken at the λ that start anew, so it lets every gradient pass
                double inner = Descend(logits, batch++, lambdas: true, masks: false);
                Restart();
                innerAdam!.Step();
                progress?.Report(new ConcreteProgress("inner", step, inner));
                draws += options.FreshMasks ? 1 : 0;
            }
            double outer = Descend(logits, batch++, lambdas: false, masks: true);
            maskAdam!.Step();
            draws += options is { FreshMasks: true, Adaptive: true } ? 1 : 0;
            progress?.Report(new ConcreteProgress("mask", step, outer));
        }
        if (options.Masked && !(options is { FreshMasks: true, Adaptive: true } && draws >= 0))
        {
            draws++;
        }
        if (!options.Adaptive || options.AdaptationSteps == 0)
        {
            return;
        }
        Restart();
        innerAdam?.Dispose();        // λ leave its pack for one whose moments start at 0
        adaptationAdam = Adam(lambdas, options.AdaptationRate);
        for (int step = 0; step < options.AdaptationSteps; step++)
        {
            cancellation.ThrowIfCancellationRequested();
            double loss = Descend(logits, batch++, lambdas: true, masks: false);
            adaptationAdam.Step();
            progress?.Report(new ConcreteProgress("adaptation", step, loss));
        }
    }

    /// <summary>The model under the mask that was drawn last, one pass over the models' files. It reads this object, which stays alive as long; non-float
    /// tensors are the base's.</summary>
    /// <param name="options">Progress, report and cancellation.</param>
    public MergedTensors Merged(MergeOptions? options = null) => new TaskVectors(vectors)
    {
        Change = (task, name, term) => term with { Weight = Acting(parts.FindIndex(p => p.Name == name))[task] },
    }.Merge("concrete merge", scale: (name, _) => parts.Find(p => p.Name == name) is { } part && Mask(part) is { } mask ? mask[0] : null, options: options);

    /// <inheritdoc/>
    public void Dispose()
    {
        maskAdam?.Dispose();
        (adaptationAdam ?? innerAdam)?.Dispose();
        store.Dispose();
    }

    /// <summary>Makes the next draw the current one.</summary>
    internal void Draw() => draws++;

    /// <summary>The mask s of a tensor under the current draw.</summary>
    internal double[] Scaled(string tensor)
    {
        using Scope scope = device.BeginScope();
        return Mask(parts.Find(p => p.Name == tensor)!)![0].ToDoubles();
    }

    /// <summary>Sum of the tasks' entropies, and its gradients to λ and to X where they are asked for.</summary>
    internal double Descend(TaskLogits logits, int batch, bool lambdas, bool masks)
    {
        using Scope scope = device.BeginScope();
        Parameter[] weights = [.. parts.Select((p, k) => new Parameter(p.Name, Weight(p, Lambda(k), Mask(p)?[0]).Reshape(p.Shape).CopyTo(scope)))];
        var byName = weights.ToDictionary(w => w.Name, w => w.Value, StringComparer.Ordinal);
        double loss = 0;
        for (int task = 0; task < initial.Length; task++)
        {
            using Tape tape = device.BeginTape();
            Tensor entropy = new MeanEntropy(options.EntropyEpsilon).Apply(logits(byName, task, batch));
            tape.Backward(entropy);
            loss += entropy.Item();
        }
        for (int k = 0; k < parts.Count; k++)
        {
            if (weights[k].Gradient is { } gradient)        // else a tensor that the network does not use
            {
                Chain(k, gradient.Reshape(parts[k].Start.Shape), lambdas, masks);
            }
        }
        return loss;
    }

    /// <summary>Adds the gradients of a tensor's λ and X, given that of the merged tensor.</summary>
    private void Chain(int k, Tensor upstream, bool lambdas, bool masks)
    {
        Part part = parts[k];
        using Scope scope = device.BeginScope();
        Tensor? still = masks ? null : Mask(part)?[0];       // made outside of the tape: a constant
        var acting = new Parameter("lam", Lambda(k), frozen: !lambdas);
        using Tape tape = device.BeginTape();
        Tensor weight = Weight(part, acting, masks ? Mask(part)?[0] : still);
        if (weight.NeedsGradient)
        {
            tape.Backward(weight, upstream);
        }
        if (acting.Gradient is { } gradient)
        {
            Parameter lambda = this.lambdas[options.LayerWise ? k : 0];
            double[] now = lambda.Value.ToDoubles();
            Leave(lambda, [.. gradient.ToDoubles().Select((g, task) => options.Clamp && now[task] is < 0 or > 1 ? 0 : g)]);
        }
    }

    /// <summary>Adds to a parameter's gradient.</summary>
    private void Leave(Parameter parameter, double[] gradient)
    {
        using Tape tape = device.BeginTape();
        Tensor same = new Add().Apply(parameter, tape.NewZeros(parameter.Value.Shape, options.Type));
        tape.Backward(same, tape.Of(same.Shape, gradient, options.Type));
    }

    /// <summary>s [n] of a tensor under the current draw, and the mean of its mask [1]; null where there is none.</summary>
    private Tensor[]? Mask(Part part)
    {
        if (!options.Masked || draws < 0)
        {
            return null;
        }
        Tensor? uniform = options.Draws is { } given ? device.Current!.Of(part.Logits.Value.Shape, given(draws, part.Name), options.Type) : null;
        return new ConcreteMask(options.Temperature, rng.Fork($"{draws} {part.Name}").State.Seed).ApplyAll(part.Logits, uniform);
    }

    /// <summary>λ as they act on tensor k.</summary>
    private double[] Acting(int k)
    {
        double[] lambda = lambdas[options.LayerWise ? k : 0].Value.ToDoubles();
        return options.Clamp ? [.. lambda.Select(l => Math.Clamp(l, 0, 1))] : lambda;
    }

    private Tensor Lambda(int k) => device.Current!.Of([1, initial.Length], Acting(k), options.Type);

    /// <summary>θ₀ + s ⊙ λ·τ [1, n] of λ [1, T].</summary>
    private static Tensor Weight(Part part, Tensor lambda, Tensor? mask)
    {
        Tensor change = new MatMul().Apply(lambda, part.Vectors);
        return new Add().Apply(mask is null ? change : new Mul().Apply(change, mask.Reshape(change.Shape)), part.Start);
    }

    private void ClampInPlace()
    {
        foreach (Parameter lambda in options.Clamp ? lambdas : [])
        {
            lambda.Value.Set([.. lambda.Value.ToDoubles().Select(l => Math.Clamp(l, 0, 1))]);
        }
    }

    private void Restart() => Array.ForEach(lambdas, l => l.Value.Set(initial));

    private static AdamW Adam(IReadOnlyList<Parameter> parameters, double rate) => new(parameters) { LearningRate = rate, WeightDecay = 0 };

    private static void Require(string what, double got, bool holds, string want)
    {
        if (!holds)
        {
            throw new AdapterConfigException($"ConcreteMerge: {what} is {got}, want {want}");
        }
    }

    /// <summary>θ₀ [1,n], τ [T,n] and X [n] of a tensor.</summary>
    private sealed record Part(string Name, Shape Shape, Tensor Start, Tensor Vectors, Parameter Logits);
}
