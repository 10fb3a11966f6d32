namespace LowRank.Adapters;

/// <summary>Ways to make one adapter of several, by PEFT's names. ΔWᵢ is what part i adds to a weight, wᵢ its weight.</summary>
public enum Combination
{
    /// <summary>Σ wᵢ·ΔWᵢ exactly: the factors side by side, of a rank that is the sum of the parts'.</summary>
    Cat,
    /// <summary>The same sum; as PEFT has it, the factors are summed instead (<see cref="CombineOptions.LikePeft"/>).</summary>
    Linear,
    /// <summary>The same sum, of which <see cref="CombineOptions.Rank"/> singular values are kept.</summary>
    Svd,
    /// <summary>TIES (arXiv 2306.01708): small entries go, a sign is elected for each place, and those that agree are averaged.</summary>
    Ties,
    /// <inheritdoc cref="Ties"/>
    TiesSvd,
    /// <summary>DARE (arXiv 2311.03099): entries are dropped at random and the rest divided by their share, then summed.</summary>
    DareLinear,
    /// <inheritdoc cref="DareLinear"/>
    DareLinearSvd,
    /// <summary>As DARE, then signs elected as in TIES.</summary>
    DareTies,
    /// <inheritdoc cref="DareTies"/>
    DareTiesSvd,
    /// <summary>Small entries go, then the sum.</summary>
    MagnitudePrune,
    /// <inheritdoc cref="MagnitudePrune"/>
    MagnitudePruneSvd,
}

/// <summary>What elects the sign of a place in TIES; 0 counts as plus.</summary>
public enum MajoritySign
{
    /// <summary>The sign of the parts' sum, unweighted.</summary>
    Total,
    /// <summary>The sign that more parts have.</summary>
    Frequency,
}

/// <summary>How <see cref="NamedAdapters.Combine"/> makes one LoRA of several. All ways act on the ΔWᵢ = s·B·A (with DoRA W_eff − W); where the result is no
/// longer of low rank, its largest singular values are kept. The new adapter has s = 1.</summary>
public sealed record CombineOptions
{
    /// <summary>The way.</summary>
    public Combination Kind { get; init; }

    /// <summary>Rank of the result where it is cut off. Null: the parts' largest for the Svd ways, the sum of the parts' ranks for all others.</summary>
    public int? Rank { get; init; }

    /// <summary>Share of the entries that pruning and dropping leave, above 0; 1: all.</summary>
    public double Density { get; init; } = 1;

    /// <inheritdoc cref="Adapters.MajoritySign"/>
    public MajoritySign MajoritySign { get; init; }

    /// <summary>Of the entries that DARE drops.</summary>
    public ulong Seed { get; init; }

    /// <summary>PEFT's own numbers, faults included: Linear, Ties, DareLinear, DareTies and MagnitudePrune act on A and on B apart, parts of equal rank wanted,
    /// A = Σ sign(vᵢ)·√|vᵢ|·Aᵢ and B = Σ √|vᵢ|·Bᵢ with vᵢ = wᵢ·sᵢ, so that B·A has cross terms Bᵢ·Aⱼ and is not the weighted sum; the first part's use_rslora
    /// stays, so that the result is √r too large; DoRA's magnitudes are not combined.</summary>
    public bool LikePeft { get; init; }

    /// <summary>What stands in for the random masks: 1 keeps an entry; calls count from 0, in PEFT's order (a layer's A of every part, then its B).</summary>
    internal Func<int, byte[]>? Masks { get; init; }

    internal bool IsSvd => Kind is Combination.Svd or Combination.TiesSvd or Combination.DareLinearSvd or Combination.DareTiesSvd or Combination.MagnitudePruneSvd;

    internal bool ElectsSigns => Kind is Combination.Ties or Combination.TiesSvd or Combination.DareTies or Combination.DareTiesSvd;

    internal bool Drops => Kind is Combination.DareLinear or Combination.DareLinearSvd or Combination.DareTies or Combination.DareTiesSvd;

    internal bool Prunes => Kind is Combination.Ties or Combination.TiesSvd or Combination.MagnitudePrune or Combination.MagnitudePruneSvd;

    internal bool OnFactors => LikePeft && !IsSvd && Kind != Combination.Cat;
}
