namespace LowRank;

/// <summary>What SNELL makes of the distances D between two tables.</summary>
public enum SnellMode
{
    /// <summary>S = D: the un-sparsified kernel of the official code (KLoRA).</summary>
    Distances,
    /// <summary>S = D·|D| where |D| &gt; τ, else 0, τ the quantile of |D| at the sparsity, interpolated along a line: the official code.</summary>
    Official,
    /// <summary>S = D·max(|D| - τ, 0), τ the ⌈sparsity·N⌉-th smallest of the N values |D|, 0 at sparsity 0: the paper's equation 5.</summary>
    PaperSoft,
}

/// <summary>How two tables become a weight delta (SNELL, arXiv 2411.01800): D[i,o] = Scale·(‖P₀ᵢ - Q₀ₒ‖ - ‖P₁ᵢ - Q₁ₒ‖), of whose entries the largest stay. The
/// factor beside D, and τ, count as constants in gradients.</summary>
/// <param name="Sparsity">Share of the entries that the threshold drops, 0 to 1. At 1 nothing stays, at 0 all but the smallest.</param>
/// <param name="Mode">What is made of D.</param>
/// <param name="Norm">p of the distance (Σ|z|ᵖ)^(1/p); 1 and 2 are fast.</param>
/// <param name="Scale">Factor on the first head's distance; the second head's is its negative.</param>
public sealed record SnellRule(double Sparsity, SnellMode Mode = SnellMode.Official, double Norm = 2, double Scale = 0.1)
{
    /// <summary>What is out of range, as operand, value and what is wanted; null: nothing.</summary>
    public (string Operand, object Got, string Want)? FindFault() => Sparsity is not (>= 0 and <= 1) ? (nameof(Sparsity), Sparsity, "0 .. 1, a share of the entries")
        : !(Norm > 0 && double.IsFinite(Norm)) ? (nameof(Norm), Norm, "more than 0 and finite")
        : !double.IsFinite(Scale) ? (nameof(Scale), Scale, "a finite number")
        : !Enum.IsDefined(Mode) ? (nameof(Mode), Mode, $"one of {string.Join(", ", Enum.GetNames<SnellMode>())}")
        : null;

    /// <summary>Fills τ [1] from P [2,k,r] and Q [2,n,r]. It is exact: the entry of a rank, or a point between two neighbours, as sorting all N = n·k would give
    /// it, at position Sparsity·(N - 1) in float64. There is no limit on N (torch's quantile refuses more than 2²⁴).</summary>
    /// <exception cref="NumericException">An entry of D is not finite.</exception>
    internal void Select(Tensor p, Tensor q, Tensor tau)
    {
        (int k, int n, int r) = (p.Shape[1], q.Shape[1], p.Shape[2]);
        long count = (long)n * k;
        double place = Mode == SnellMode.PaperSoft ? Math.Ceiling(Sparsity * count) - 1 : Sparsity * (count - 1);
        if (Mode == SnellMode.Distances || place < 0)
        {
            tau.Fill(0);
            return;
        }
        p.Device.Launch(Kernels.SnellSelect, new SnellSelectArgs
        {
            P = p.Data,
            Q = q.Data,
            Tau = tau.Data,
            Rank = (long)place,
            Fraction = place - Math.Floor(place),
            Scale = Scale,
            Norm = Norm,
            N = n,
            K = k,
            R = r,
            DType = p.DType,
        });
        if (p.Device.Recording is null && !double.IsFinite(tau.Item()))
        {
            throw new NumericException("Snell: P or Q holds NaN or infinity, want finite tables");
        }
    }
}
