namespace LowRank.Adapters;

/// <summary>Where a training run stands: steps count from 0.</summary>
public readonly record struct Progress(long Step, long Steps, int Epoch, double LearningRate);

/// <summary>One method on one layer: it declares state and says W_eff; merge, unmerge, save, load and counting are inherited.</summary>
public abstract class Adapter
{
    private readonly List<Parameter> parameters = [];

    /// <summary>An adapter for a layer.</summary>
    protected Adapter(Site site) => Site = site;

    /// <summary>The layer.</summary>
    public Site Site { get; }

    /// <summary>False: the layer computes as if the adapter were not there.</summary>
    public bool Enabled { get; set; } = true;

    /// <summary>Trainables in the order of declaration; names are PEFT's suffixes, for example <c>lora_A.weight</c>.</summary>
    public IReadOnlyList<Parameter> Parameters => parameters;

    /// <summary>False where W_eff cannot replace the adapter; then <see cref="WhyNotMergeable"/> says why.</summary>
    public virtual bool CanMerge => true;

    /// <summary>Reason where <see cref="CanMerge"/> is false.</summary>
    public virtual string? WhyNotMergeable => null;

    /// <summary>W_eff in the weight's shape and parameter precision, differentiable in every parameter.</summary>
    public abstract Tensor EffectiveWeight();

    /// <summary>x → y. Override only to fuse: it must equal the layer with <see cref="EffectiveWeight"/>.</summary>
    public abstract Tensor Forward(Tensor x);

    /// <summary>A term added to the loss, or null.</summary>
    public virtual Tensor? Penalty() => null;

    /// <summary>Gradients are ready, parameters have not moved.</summary>
    public virtual void BeforeStep(Progress progress)
    {
    }

    /// <summary>Parameters have moved.</summary>
    public virtual void AfterStep(Progress progress)
    {
    }

    /// <summary>Declares a trainable.</summary>
    protected Parameter Declare(string name, Tensor value)
    {
        var parameter = new Parameter(name, value);
        parameters.Add(parameter);
        return parameter;
    }
}
