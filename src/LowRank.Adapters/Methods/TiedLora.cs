namespace LowRank.Adapters;

/// <summary>The output layer of a model whose words it shares (W [vocabulary,width], ensure_weight_tying): adapted by the tensors of the embedding's
/// adapter, y = x·Wᵀ + s·(x·B_e)·A_e with A_e [r,vocabulary], B_e [width,r]; its file has A = B_eᵀ and B = A_eᵀ. Gradients of both uses add up.
/// PEFT holds two parameters over one memory instead, so that its optimisers move them twice, and its merge adds the change twice.</summary>
internal sealed class TiedLora : Adapter
{
    private readonly Lora words;

    public TiedLora(Lora words, Site site, Scope store)
        : base(site, store)
    {
        this.words = words;
    }

    /// <inheritdoc/>
    internal override Adapter TiedTo => words;

    public override Tensor EffectiveWeight() => words.EffectiveWeight();

    public override Tensor Forward(Tensor x)
    {
        (Tensor a, Tensor b) = Turned();
        return new LoraLinear(words.Scale).Apply(x, Site.Weight, a, b, Site.Bias?.Value, null, words.Drop(x));
    }

    /// <summary>The embedding's adapter has it in its scale.</summary>
    protected override bool TakesStrength(double strength) => true;

    internal override IEnumerable<(string Suffix, Tensor Value)> Saved(bool plain, Scope scope)
    {
        (Tensor a, Tensor b) = Turned();
        return [("lora_A.weight", a.CopyTo(scope)), ("lora_B.weight", b.CopyTo(scope))];
    }

    private (Tensor A, Tensor B) Turned() => (new Transpose().Apply(words.Parameters[1]), new Transpose().Apply(words.Parameters[0]));
}
