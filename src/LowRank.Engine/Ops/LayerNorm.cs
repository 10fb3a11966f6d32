namespace LowRank;

/// <summary>y = (x - mean)·rstd ⊙ weight + bias over the last dimension, rstd = 1/√(var + Epsilon), var divided by n; x [..., d], weight [d] and bias [d]
/// or absent → y like x; saves (mean, rstd) [rows, 2] (arXiv 1607.06450).</summary>
public sealed record LayerNorm(double Epsilon) : Normalization(Epsilon)
{
    private protected override bool Centred => true;
}

/// <summary>y = x·rstd ⊙ weight over the last dimension, rstd = 1/√(mean of x² + Epsilon); x [..., d], weight [d] or absent → y like x; saves (0, rstd)
/// [rows, 2] (arXiv 1910.07467).</summary>
public sealed record RmsNorm(double Epsilon) : Normalization(Epsilon)
{
    private protected override bool Centred => false;
}
