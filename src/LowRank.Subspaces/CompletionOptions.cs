namespace LowRank.Subspaces;

/// <summary>How <see cref="MatrixCompletion"/> solves the least squares of a row or column of n entries for k unknowns.</summary>
public enum CompletionSolver
{
    /// <summary>Cholesky below k = 16 and for n &lt; 2k; else conjugate gradients, which end at a share of 0.1 of their first rest, 0.01 once a sweep
    /// improves the error by less than a half; and with a sketch where the other factor's rows differ much in length.</summary>
    Auto,
    /// <summary>Normal equations by Cholesky factors.</summary>
    Direct,
    /// <summary><see cref="CompletionOptions.InnerSteps"/> conjugate gradient steps on A itself from the last sweep's solution.</summary>
    Gradients,
    /// <summary>The same on A·R⁻¹, R from a sketch of A (<see cref="SketchedLeastSquares"/>), for n ≥ 8k; Cholesky below.</summary>
    Sketched,
}

/// <summary>Where <see cref="MatrixCompletion"/> starts.</summary>
public enum CompletionStart
{
    /// <summary>The leading left singular vectors of the matrix with zeros for what is unknown, by 15 power iterations.</summary>
    Spectral,
    /// <summary>Small normal values: enough where a ridge keeps the problem well posed.</summary>
    Random,
}

/// <summary>Settings of <see cref="MatrixCompletion.Fit"/>; names as in the papers, arXiv 2302.11068 and 1212.0467.</summary>
public sealed record CompletionOptions
{
    /// <summary>k: columns of U and V.</summary>
    public int Rank { get; init; } = 8;

    /// <summary>T: the most sweeps, each one over V and one over U.</summary>
    public int Sweeps { get; init; } = 100;

    /// <summary>How rows are solved.</summary>
    public CompletionSolver Solver { get; init; }

    /// <summary>Conjugate gradient steps a row and half sweep.</summary>
    public int InnerSteps { get; init; } = 5;

    /// <summary>λ of the ridge: 0 for exact data. With <see cref="Orthonormal"/> it shrinks U·Vᵀ itself, without it U and V.</summary>
    public double Lambda { get; init; }

    /// <summary>The ridge of a row counts once for each of its n entries, λ·n: for ratings (ALS-WR, Zhou et al. 2008).</summary>
    public bool WeightedLambda { get; init; }

    /// <summary>U·Vᵀ is fitted to what the mean and a bias for each row and column leave.</summary>
    public bool Biases { get; init; }

    /// <summary>Ridge of the biases, in entries: a row of n entries keeps n/(n + λ) of its mean deviation.</summary>
    public double BiasLambda { get; init; } = 5;

    /// <summary>The factor a half sweep has found becomes orthonormal before the next one, and the other is turned with it, so that few inner steps do.</summary>
    public bool Orthonormal { get; init; } = true;

    /// <summary>First U.</summary>
    public CompletionStart Start { get; init; }

    /// <summary>Entries at the same place become one with their mean; else they are an error.</summary>
    public bool AverageDuplicates { get; init; }

    /// <summary>The relative change of the error over the observed entries that counts as converged; 0: all sweeps are made; null: 1e-10 in F64, 1e-6 in F32.</summary>
    public double? Tolerance { get; init; }

    /// <summary>F32: fast kernels, products to about 1e-6. F64: exact to 1e-9 and better, by plain loops.</summary>
    public DType Type { get; init; } = DType.F32;

    /// <summary>Seed of the start and of sketches.</summary>
    public ulong Seed { get; init; }

    /// <summary>Where it is computed; null: the CPU.</summary>
    public Device? Device { get; init; }

    /// <summary>Held-out entries whose error is reported after each sweep; a row or column of -1 stands for one that is unknown.</summary>
    public Observations? Test { get; init; }

    /// <summary>Goes on from here instead of from the start: the bits are those of a run that was never stopped.</summary>
    public CompletionState? Resume { get; init; }

    /// <summary>Told of the state after every sweep.</summary>
    public IProgress<CompletionState>? Checkpoint { get; init; }

    /// <summary>First matrix [rows, k] of the spectral start, for references of the method.</summary>
    internal double[]? FirstBasis { get; init; }

    /// <summary>Sees V or U after a half sweep, with the number of the half sweep, and may give other values for what it found.</summary>
    internal Func<int, double[], double[], double[]?>? AfterHalf { get; init; }
}

/// <summary>What a sweep has reached.</summary>
/// <param name="Sweep">From 1.</param>
/// <param name="Rmse">Root mean square error over the observed entries.</param>
/// <param name="TestRmse">The same over <see cref="CompletionOptions.Test"/>.</param>
public readonly record struct CompletionSweep(int Sweep, double Rmse, double? TestRmse);

/// <summary>All that a run needs to go on. The start and the sketches draw from counters, so sweep and seed say where the generator stands.</summary>
/// <param name="U">[rows, k].</param>
/// <param name="V">[cols, k].</param>
/// <param name="Sweep">Sweeps done.</param>
/// <param name="Rmse">Error over the observed entries after them.</param>
/// <param name="Tight">Conjugate gradients end at the smaller share by now.</param>
public sealed record CompletionState(double[] U, double[] V, int Sweep, double Rmse, bool Tight);
