namespace LowRank;

/// <summary>Which part of a level: the first letter of the comments is the filter along axis 0, the second that along axis 1.</summary>
public enum WaveletBand
{
    /// <summary>LL, PyWavelets' cA; of the deepest level only.</summary>
    Approximation,
    /// <summary>HL, cH.</summary>
    Horizontal,
    /// <summary>LH, cV.</summary>
    Vertical,
    /// <summary>HH, cD.</summary>
    Diagonal,
}

/// <summary>Where a band lies among the coefficients of a transform.</summary>
/// <param name="Offset">Elements before it.</param>
/// <param name="Rows">Its rows.</param>
/// <param name="Cols">Its columns.</param>
public readonly record struct WaveletPlace(int Offset, int Rows, int Cols)
{
    /// <summary>Its elements.</summary>
    public int Count => Rows * Cols;
}

/// <summary>The multi-level transform of matrices [rows, cols], and how its coefficients lie in one vector: the approximation of the deepest level J, then
/// horizontal, vertical and diagonal details of level J, of level J-1 and so on to level 1, each row-major. It is the order of PyWavelets' wavedec2.</summary>
public sealed class WaveletLayout
{
    private readonly (int Rows, int Cols)[] sizes;      // of the matrix, then of a band of each level
    private readonly int[] scratch;                     // elements of the approximations before that of a level, deepest left out

    /// <summary>The layout for a matrix's size.</summary>
    /// <exception cref="ShapeException">The matrix is empty, there is no level, or there are more coefficients than one tensor holds.</exception>
    public WaveletLayout(Wavelet wavelet, WaveletMode mode, int levels, int rows, int cols)
    {
        if (rows < 1 || cols < 1)
        {
            throw new ShapeException($"WaveletLayout: matrix is [{rows}, {cols}], want at least one row and column");
        }
        if (levels is < 1 or > 30)
        {
            throw new ShapeException($"WaveletLayout: levels is {levels}, want 1 .. 30");
        }
        (Wavelet, Mode, Levels) = (wavelet, mode, levels);
        sizes = new (int, int)[levels + 1];
        scratch = new int[levels + 1];
        sizes[0] = (rows, cols);
        try
        {
            for (int j = 1; j <= levels; j++)
            {
                sizes[j] = (WaveletAxis.BandsOf(wavelet, mode, sizes[j - 1].Rows), WaveletAxis.BandsOf(wavelet, mode, sizes[j - 1].Cols));
                int band = checked(sizes[j].Rows * sizes[j].Cols);
                scratch[j] = checked(scratch[j - 1] + band);
                Count = checked(Count + (3 * band));
            }
            Count = checked(Count + (sizes[levels].Rows * sizes[levels].Cols));
        }
        catch (OverflowException)
        {
            throw new ShapeException($"WaveletLayout: matrix is [{rows}, {cols}], want one of fewer than 2^31 coefficients");
        }
    }

    /// <summary>The filters.</summary>
    public Wavelet Wavelet { get; }

    /// <summary>What lies outside of the matrix.</summary>
    public WaveletMode Mode { get; }

    /// <summary>J: how often the approximation is taken apart.</summary>
    public int Levels { get; }

    /// <summary>Rows of the matrix.</summary>
    public int Rows => sizes[0].Rows;

    /// <summary>Columns of the matrix.</summary>
    public int Cols => sizes[0].Cols;

    /// <summary>All coefficients.</summary>
    public int Count { get; }

    /// <summary>Elements that the approximations between levels take.</summary>
    internal int ScratchCount => scratch[Levels - 1];

    /// <summary>A band's place.</summary>
    /// <param name="level">1 is the finest.</param>
    /// <param name="band">Approximation exists on level <see cref="Levels"/> alone.</param>
    /// <exception cref="ShapeException">There is no such band.</exception>
    public WaveletPlace this[int level, WaveletBand band]
    {
        get
        {
            if (level < 1 || level > Levels || (band == WaveletBand.Approximation && level < Levels))
            {
                throw new ShapeException($"WaveletLayout: {band} of level {level} is no band, want details of 1 .. {Levels} or the approximation of {Levels}");
            }
            int rows = sizes[level].Rows, cols = sizes[level].Cols, offset = 0;
            if (band != WaveletBand.Approximation)
            {
                offset = sizes[Levels].Rows * sizes[Levels].Cols + (((int)band - 1) * rows * cols);
                for (int j = Levels; j > level; j--)
                {
                    offset += 3 * sizes[j].Rows * sizes[j].Cols;
                }
            }
            return new(offset, rows, cols);
        }
    }

    /// <summary>c ← scale·analysis(x), or the transpose of synthesis; x of <paramref name="type"/>, c and scratch in parameter precision.</summary>
    internal void Down(Scope scope, nint x, DType type, nint c, nint scratch, bool adjoint, double scale = 1, bool add = false)
    {
        for (int j = 1; j <= Levels; j++)
        {
            WaveletArgs args = Level(scope, j, type, c, scratch, up: adjoint, adjoint);
            args.X = j == 1 ? x : Approximation(j - 1, type, c, scratch);
            args.Scale = j == 1 ? scale : 1;
            args.Add = !add ? 0 : j == Levels ? 0b1111u : 0b1110u;
            scope.Device.Launch(Kernels.WaveletDown, args);
        }
    }

    /// <summary>x ← w + scale·synthesis(c), or with the transpose of analysis; x and w of <paramref name="type"/>. w may be 0, and x may be added to.</summary>
    internal void Up(Scope scope, nint c, nint x, DType type, nint scratch, bool adjoint, double scale = 1, nint w = 0, bool add = false)
    {
        for (int j = Levels; j >= 1; j--)
        {
            WaveletArgs args = Level(scope, j, type, c, scratch, up: !adjoint, adjoint);
            (args.X, args.W, args.Scale, args.Add) = j == 1 ? (x, w, scale, add ? 1u : 0) : (Approximation(j - 1, type, c, scratch), 0, 1, 0);
            scope.Device.Launch(Kernels.WaveletUp, args);
        }
    }

    /// <summary>FLOPs of a transform, a multiply-add as two, and least bytes: every coefficient and sample once, those between levels twice.</summary>
    internal Cost Cost(DType type)
    {
        long flops = 0;
        for (int j = 0; j < Levels; j++)
        {
            flops += 4L * Wavelet.Length * sizes[j].Rows * sizes[j].Cols;
        }
        return new(flops, ((long)Rows * Cols * type.Size()) + (type.ForParameters().Size() * ((long)Count + (2L * ScratchCount))));
    }

    private nint Approximation(int level, DType type, nint c, nint scratch) =>
        level == Levels ? c : scratch + (nint)((long)this.scratch[level - 1] * type.ForParameters().Size());

    private WaveletArgs Level(Scope scope, int j, DType type, nint c, nint scratch, bool up, bool adjoint)
    {
        nint Band(WaveletBand band) => c + (nint)((long)this[j, band].Offset * type.ForParameters().Size());
        WaveletAxis Axis(int samples) => up ? WaveletAxis.Synthesis(Wavelet, Mode, samples, adjoint) : WaveletAxis.Analysis(Wavelet, Mode, samples, adjoint);
        DType given = j == 1 ? type : type.ForParameters();
        return new WaveletArgs
        {
            Rows = Axis(sizes[j - 1].Rows).On(scope, given),
            Cols = Axis(sizes[j - 1].Cols).On(scope, given),
            Ll = Approximation(j, type, c, scratch),
            Lh = Band(WaveletBand.Vertical),
            Hl = Band(WaveletBand.Horizontal),
            Hh = Band(WaveletBand.Diagonal),
            XRows = sizes[j - 1].Rows,
            XCols = sizes[j - 1].Cols,
            BandRows = sizes[j].Rows,
            BandCols = sizes[j].Cols,
            Ldx = sizes[j - 1].Cols,
            Ldb = sizes[j].Cols,
            DType = given,
        };
    }
}
