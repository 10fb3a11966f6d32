namespace LowRank.Adapters;

/// <summary>What the error of a compressed weight is weighed by before its largest components are taken.</summary>
public enum EoraMode
{
    /// <summary>The eigenspace of the inputs' second moment: EoRA.</summary>
    Eigenspace,
    /// <summary>The magnitude of each input (ACT-S).</summary>
    Activation,
    /// <summary>Nothing: the plain decomposition.</summary>
    Plain,
}

/// <summary>W ≈ Wq + B·A.</summary>
/// <param name="A">[r, in].</param>
/// <param name="B">[out, r].</param>
/// <param name="SingularValues">All those of the weighed error, falling: the error that r components leave is the sum of squares of the others.</param>
/// <param name="Replaced">Eigenvalues that were negative or below the floor.</param>
public sealed record EoraFactors(Tensor A, Tensor B, IReadOnlyList<double> SingularValues, int Replaced)
{
    /// <summary>The best factors of a lower rank: the first rows of A and columns of B.</summary>
    /// <exception cref="ShapeException">The rank is out of range.</exception>
    public EoraFactors Take(int rank, Scope scope)
    {
        int most = A.Shape[0];
        if (rank < 1 || rank > most)
        {
            throw new ShapeException($"EoraFactors: rank is {rank}, want 1 to {most}");
        }
        double[] b = [.. B.ToDoubles().Where((_, i) => i % most < rank)];
        return this with { A = scope.Of([rank, A.Shape[1]], A.ToDoubles().AsSpan(0, rank * A.Shape[1]), A.DType), B = scope.Of([B.Shape[0], rank], b, B.DType) };
    }
}

/// <summary>EoRA (arXiv 2410.21271): of all matrices D of rank r, B·A makes tr((ΔW - D)·H·(ΔW - D)ᵀ) least, ΔW = W - Wq the error of a compressed weight and
/// H = Q·diag(L)·Qᵀ the second moment of the layer's inputs. With E = Q·diag(√L) and ΔW·E = U·S·Vt, B = U_r·√S_r and A = √S_r·Vt_r·E⁻¹. Float64 throughout (the
/// official code rounds E and E⁻¹ to float32). Negative eigenvalues take the value of the smallest positive one.</summary>
public static class Eora
{
    private const double Symmetry = 1e-4;     // how far H may be from symmetric, relative to its largest entry

    /// <summary>The factors of rank r.</summary>
    /// <param name="w">W [out, in], F32 or F64.</param>
    /// <param name="compressed">Wq [out, in], spelled out.</param>
    /// <param name="moment">H [in, in].</param>
    /// <param name="rank">r, 1 to min(out, in).</param>
    /// <param name="scope">Where A and B live, in W's type.</param>
    /// <param name="floor">Eigenvalues are at least this share of the largest; 0 as the official code: none.</param>
    /// <exception cref="ShapeException">Shapes do not fit, or the rank is out of range.</exception>
    /// <exception cref="NumericException">H is not symmetric, not finite, or singular, or W is not finite.</exception>
    public static EoraFactors Of(Tensor w, Tensor compressed, Tensor moment, int rank, Scope scope, double floor = 0)
    {
        RequireMoment(w, moment);
        using Scope work = w.Device.BeginScope();
        EighFactors factors = Eigh.Of(moment.ConvertTo(DType.F64, work), work);
        (double[] values, int replaced) = Positive(factors.Values.ToDoubles(), floor);
        return Factor(w, compressed, rank, scope, [.. values.Select(Math.Sqrt)], HostMatrix.Of(factors.V), replaced);
    }

    /// <summary>The same with E = diag(scale): inputs weighed one by one, as ACT-S does by their magnitudes.</summary>
    /// <param name="w">W [out, in].</param>
    /// <param name="compressed">Wq [out, in].</param>
    /// <param name="scale">[in].</param>
    /// <param name="rank">r.</param>
    /// <param name="scope">Where A and B live.</param>
    /// <param name="floor">The squares of scale are at least this share of the largest.</param>
    /// <exception cref="ShapeException">Shapes do not fit, or the rank is out of range.</exception>
    /// <exception cref="NumericException">A scale is not finite, or is 0 and there is no floor.</exception>
    public static EoraFactors Scaled(Tensor w, Tensor compressed, IReadOnlyList<double> scale, int rank, Scope scope, double floor = 0)
    {
        if (w.Shape.Rank != 2 || scale.Count != w.Shape[1])
        {
            throw new ShapeException($"Eora: scale has {scale.Count} values, want one an input of W {w.Shape}");
        }
        (double[] values, int replaced) = Positive([.. scale.Select(a => a * a)], floor);
        return Factor(w, compressed, rank, scope, [.. values.Select(Math.Sqrt)], null, replaced);
    }

    /// <summary>The same with E = 1: the largest singular values of the error itself.</summary>
    /// <exception cref="ShapeException">Shapes do not fit, or the rank is out of range.</exception>
    /// <exception cref="NumericException">W is not finite.</exception>
    public static EoraFactors Plain(Tensor w, Tensor compressed, int rank, Scope scope) =>
        Factor(w, compressed, rank, scope, [.. Enumerable.Repeat(1.0, w.Shape.Cols)], null, 0);

    /// <summary>tr(R·H·Rᵀ) of R = W - Wq - B·A: the squared error of the layer's outputs over the data behind H. Without factors that of Wq.</summary>
    /// <exception cref="ShapeException">Shapes do not fit.</exception>
    /// <exception cref="NumericException">H is not symmetric or not finite.</exception>
    public static double Error(Tensor w, Tensor compressed, EoraFactors? factors, Tensor moment)
    {
        RequireMoment(w, moment);
        HostMatrix rest = Difference(w, compressed);
        if (factors is not null)
        {
            HostMatrix delta = HostMatrix.Of(factors.B).Times(HostMatrix.Of(factors.A));
            for (int i = 0; i < delta.Values.Length; i++)
            {
                rest.Values[i] -= delta.Values[i];
            }
        }
        HostMatrix weighed = rest.Times(HostMatrix.Of(moment));
        return weighed.Values.Zip(rest.Values, (x, y) => x * y).Sum();
    }

    private static EoraFactors Factor(Tensor w, Tensor compressed, int rank, Scope scope, double[] roots, HostMatrix? q, int replaced)
    {
        HostMatrix error = Difference(w, compressed);
        (int outputs, int inputs, int most) = (error.Rows, error.Cols, Math.Min(error.Rows, error.Cols));
        if (rank < 1 || rank > most)
        {
            throw new ShapeException($"Eora: rank is {rank}, want 1 to {most} for W {w.Shape}");
        }
        HostMatrix weighed = q is { } turn ? error.Times(turn) : error;
        for (int i = 0; i < weighed.Values.Length; i++)
        {
            weighed.Values[i] *= roots[i % inputs];
        }
        HostMatrix u = HostMatrix.Zeros(outputs, most), vt = HostMatrix.Zeros(most, inputs), a = HostMatrix.Zeros(rank, inputs);
        var s = new double[most];
        Svd.Of(weighed.Values.AsMatrix(outputs, inputs), u.Values.AsMatrix(outputs, most), s, vt.Values.AsMatrix(most, inputs));
        for (int i = 0; i < a.Values.Length; i++)
        {
            a.Values[i] = Math.Sqrt(s[i / inputs]) * vt.Values[i] / roots[i % inputs];
        }
        a = q is { } back ? a.Times(back.Transposed()) : a;
        double[] b = [.. Enumerable.Range(0, outputs * rank).Select(i => u.Values[(i / rank * most) + (i % rank)] * Math.Sqrt(s[i % rank]))];
        return new EoraFactors(scope.Of([rank, inputs], a.Values, w.DType), scope.Of([outputs, rank], b, w.DType), s, replaced);
    }

    /// <summary>Eigenvalues as they are used, and how many are not as they were.</summary>
    private static (double[] Values, int Replaced) Positive(double[] values, double floor)
    {
        if (!(floor is >= 0 and < 1))
        {
            throw new NumericException($"Eora: floor is {floor}, want 0 or more and less than 1");
        }
        double[] positive = [.. values.Where(v => v > 0)];
        if (positive.Length == 0 || !Array.TrueForAll(values, double.IsFinite))
        {
            throw new NumericException($"Eora: {(positive.Length == 0 ? "no eigenvalue of H is positive" : "a scale is not finite")}, want the second moment or the magnitudes of some inputs");
        }
        double smallest = positive.Min(), least = floor * positive.Max();
        double[] used = [.. values.Select(v => Math.Max(v < 0 ? smallest : v, least))];
        return used.Min() > 0 ? (used, used.Zip(values).Count(pair => pair.First != pair.Second))
            : throw new NumericException("Eora: singular H, enable floor: an eigenvalue is 0, and the error has no weight along its vector");
    }

    private static HostMatrix Difference(Tensor w, Tensor compressed)
    {
        if (w.Shape.Rank != 2 || w.Shape != compressed.Shape)
        {
            throw new ShapeException($"Eora: Wq is {compressed.Shape}, want the shape [out, in] of W {w.Shape}");
        }
        return HostMatrix.Of(w) with { Values = [.. w.ToDoubles().Zip(compressed.ToDoubles(), (x, y) => x - y)] };
    }

    private static void RequireMoment(Tensor w, Tensor moment)
    {
        if (w.Shape.Rank != 2 || moment.Shape != Shape.Of([w.Shape[1], w.Shape[1]]))
        {
            throw new ShapeException($"Eora: H is {moment.Shape}, want [in, in] of W {w.Shape}");
        }
        HostMatrix h = HostMatrix.Of(moment), turned = h.Transposed();
        double largest = h.Values.Max(Math.Abs), apart = h.Values.Zip(turned.Values, (x, y) => Math.Abs(x - y)).Max();
        if (!Array.TrueForAll(h.Values, double.IsFinite) || !(apart <= Symmetry * largest))
        {
            throw new NumericException($"Eora: H has entries up to {largest} and is {apart} from symmetric, want finite entries and at most {Symmetry} of the largest");
        }
    }
}
