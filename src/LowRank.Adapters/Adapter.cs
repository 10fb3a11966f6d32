namespace LowRank.Adapters;

/// <summary>Where a training run stands: steps count from 0.</summary>
public readonly record struct Progress(long Step, long Steps, int Epoch, double LearningRate);

/// <summary>One method on one layer: it declares state and says W_eff; merge, unmerge, save, load and counting are inherited.</summary>
public abstract class Adapter
{
    private readonly List<Parameter> parameters = [];
    private readonly Tensor before;     // the layer's weight as it was found
    private Tensor? residual;           // what the method put in its place, if anything
    private bool enabled = true;
    private double outer = 1;           // what of Strength the method leaves to this class
    private InputDropout? inputs;

    /// <summary>An adapter for a layer; its tensors live in <paramref name="store"/>.</summary>
    protected Adapter(Site site, Scope store)
    {
        (Site, Path, Store) = (site, site.KeyPath, store);
        before = site.Weight.Value;
    }

    /// <summary>The layer.</summary>
    public Site Site { get; }

    /// <summary>Path of the module under which PEFT's files keep the adapter; the layer's own but for bare parameters.</summary>
    public string Path { get; }

    /// <summary>False: the layer computes as if the adapter were not there.</summary>
    public bool Enabled
    {
        get => enabled;
        set
        {
            if (residual is not null && value != enabled)
            {
                Site.Weight.Replace(value ? residual : before);
            }
            enabled = value;
        }
    }

    /// <summary>True while the layer's weight holds W_eff, so that the plain layer computes the adapted one.</summary>
    public bool Merged { get; internal set; }

    /// <summary>Factor on what the adapter adds to its layer: 1 as trained, 0 nothing. It goes into the scale of a method that has one, as PEFT's set_scale
    /// does (with DoRA under the norm); of others it makes W + Strength·(W_eff − W). It is not saved.</summary>
    /// <exception cref="AdapterConfigException">It is not finite.</exception>
    /// <exception cref="InvalidOperationException">The adapter is merged.</exception>
    public double Strength
    {
        get;
        set
        {
            if (!double.IsFinite(value))
            {
                throw new AdapterConfigException($"Adapter: Strength on {Site.Path} is {value}, want a finite number");
            }
            if (Merged)
            {
                throw new InvalidOperationException($"Adapter: {Site.Path} is merged, want Unmerge before Strength changes");
            }
            outer = TakesStrength(value) ? 1 : value;
            field = value;
        }
    } = 1;

    /// <summary>True where the layer's output passes through the adapter.</summary>
    internal bool IsActive => enabled && !Merged;

    /// <summary>Trainables in the order of declaration, named <c>{path}.{PEFT's suffix}</c>, for example <c>layers.0.q_proj.lora_A.weight</c>.</summary>
    public IReadOnlyList<Parameter> Parameters => parameters;

    /// <summary>False where W_eff cannot replace the adapter; then <see cref="WhyNotMergeable"/> says why.</summary>
    public virtual bool CanMerge => WhyNotMergeable is null;

    /// <summary>Reason where <see cref="CanMerge"/> is false.</summary>
    public virtual string? WhyNotMergeable => null;

    /// <summary>True where the method changed the layer's own weight at the start (PiSSA, OLoRA).</summary>
    public bool ChangesBase => residual is not null;

    /// <summary>True where the layer computes without its own weight, so that this can be freed (<see cref="AdaptedModel.ReleaseBase"/>).</summary>
    internal virtual bool ReplacesBase => false;

    /// <summary>The adapter whose tensors this one uses, because the weights of both layers are one; null: it has its own.</summary>
    internal virtual Adapter? TiedTo => null;

    /// <summary>Frozen tensors that all adapters of the model share and a file holds once, by PEFT's name.</summary>
    internal virtual IEnumerable<(string Name, Tensor Value)> Shared => [];

    /// <summary>The frozen weight that the adapter goes with.</summary>
    internal Tensor Base => residual ?? before;

    /// <summary>Memory of the adapter's tensors.</summary>
    protected Scope Store { get; }

    /// <summary>Type of the adapter's parameters: F32, or F64 in an F64 model.</summary>
    protected DType Precision => before.DType.ForParameters();

    /// <summary>W_eff in the weight's shape and parameter precision, differentiable in every parameter.</summary>
    public abstract Tensor EffectiveWeight();

    /// <summary>The bias of the layer with the adapter merged, or null where it stays.</summary>
    public virtual Tensor? EffectiveBias() => null;

    /// <summary>x → y. Override only to fuse: it must equal the layer with <see cref="EffectiveWeight"/>.</summary>
    public abstract Tensor Forward(Tensor x);

    /// <summary>Puts <see cref="Strength"/> into the method's own scale and says so; where it does not, it is applied to the difference that the adapter makes.</summary>
    protected virtual bool TakesStrength(double strength) => false;

    /// <summary>What a user should know of how the settings were taken, or of what became of the adapter; null: nothing.</summary>
    internal virtual string? Remark => null;

    /// <summary>W_eff - W as a matrix, of methods that leave most of it at 0; else null.</summary>
    internal virtual Tensor? SparseDelta() => null;

    /// <summary>The adapter as ΔW = Scale·B·A of the layer's weight seen as [out, in·kh·kw], of an embedding's transposed, where that is all it does; else null.</summary>
    internal virtual AdapterFactors? Factors => null;

    /// <summary><see cref="Factors"/> where the layer's output for <paramref name="x"/> is x·(W + Scale·B·A)ᵀ + bias now, so that a kernel of several layers may make it; else null.</summary>
    internal virtual AdapterFactors? FactorsFor(Tensor x) => null;

    /// <summary>The layer's output with this adapter alone.</summary>
    internal Tensor Output(Tensor x) => outer == 1 ? Forward(x) : AddTo(Site.BaseForward(x), x);

    /// <summary>y + what the adapter adds to the output for x.</summary>
    internal Tensor AddTo(Tensor y, Tensor x) => AddTo(y, x, outer);

    /// <summary>y + factor·(Forward(x) − the plain layer's output). Override where the difference can be had without the layer.</summary>
    private protected virtual Tensor AddTo(Tensor y, Tensor x, double factor) => new Add(factor).Apply(y, new Add(-1).Apply(Forward(x), Site.BaseForward(x)));

    /// <summary>Weight and bias of a layer with all of <paramref name="adapters"/>: W + Σ Strength·(W_eff − W), the bias likewise, or null where it stays.</summary>
    internal static (Tensor Weight, Tensor? Bias) Sum(IReadOnlyList<Adapter> adapters)
    {
        Site site = adapters[0].Site;
        if (adapters is [{ outer: 1 } only])
        {
            return (only.EffectiveWeight(), only.EffectiveBias());
        }
        Tensor plain = site.WeightMatrix().Reshape(site.Weight.Value.Shape), w = plain;
        Tensor? bias = null;
        foreach (Adapter adapter in adapters)
        {
            w = new Add(adapter.outer).Apply(w, new Add(-1).Apply(adapter.EffectiveWeight(), plain));
            if (adapter.EffectiveBias() is { } own)
            {
                bias = new Add(adapter.outer).Apply(bias ?? site.Bias!.Value, new Add(-1).Apply(own, site.Bias!));
            }
        }
        return (w, bias);
    }

    /// <summary>A term added to the loss, or null.</summary>
    public virtual Tensor? Penalty() => null;

    /// <summary>Gradients are ready, parameters have not moved; where the optimiser steps per layer, both is past.</summary>
    public virtual void BeforeStep(Progress progress)
    {
    }

    /// <summary>Parameters have moved.</summary>
    public virtual void AfterStep(Progress progress)
    {
    }

    /// <summary>Steps taken before the one that runs: random numbers of a step depend on it, so that a resumed run draws the same.</summary>
    internal long Step { get; private set; }

    internal virtual void StartStep(long step)
    {
        Step = step;
        inputs?.StartStep(step);
    }

    /// <summary>Declares dropout of the adapter's own input; what it drops follows from the step.</summary>
    private protected InputDropout DropInputs(double share, Rng rng) => inputs = new InputDropout(share, rng);

    /// <summary>What goes to disk: suffix and value. With <paramref name="plain"/> in a form that goes with the weight as it was before the method changed it.</summary>
    internal virtual IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope) => parameters.Select(p => (Suffix(p), p.Value));

    /// <summary>What is wrong with values that a file brought, or null.</summary>
    internal virtual string? Fault => null;

    /// <summary>The adapter of another layer that has this one's weight, by the same tensors.</summary>
    /// <exception cref="AdapterConfigException">The method has none.</exception>
    internal virtual Adapter Tie(Site site) => throw new AdapterConfigException($"{GetType().Name}: {site.Path} shares the weight of {Site.Path}, want ensure_weight_tying false for this method");

    /// <summary>Takes the adapter off its layer: the weight is what it was, bit for bit.</summary>
    internal void Detach()
    {
        if (enabled && residual is { IsAlive: true } && before.IsAlive)
        {
            Site.Weight.Replace(before);
        }
        Site.Take(this);
    }

    /// <summary>Name of a parameter after the layer's path.</summary>
    internal string Suffix(Parameter parameter) => parameter.Name[(Path.Length + 1)..];

    /// <summary>Declares a trainable.</summary>
    protected Parameter Declare(string suffix, Tensor value)
    {
        var parameter = new Parameter($"{Path}.{suffix}", value);
        parameters.Add(parameter);
        return parameter;
    }

    /// <summary>Puts another weight [rows, columns as stored] in the layer's place; the one that was there comes back when the adapter goes.</summary>
    protected internal void ReplaceBase(Tensor weight)
    {
        using Scope scope = Site.Weight.Value.Device.BeginScope();
        Tensor rows = weight.ConvertTo(before.DType, scope).Reshape(before.Shape);
        residual = before.IsPacked ? Packing.Pack(rows, Store) : rows.CopyTo(Store);
        Site.Weight.Replace(residual);
    }
}
