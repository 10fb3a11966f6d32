namespace LowRank;

/// <summary>Float64 references of values at places of a matrix.</summary>
internal static class SparseReferences
{
    public static void Add(in AddSparseArgs p)
    {
        var (x, v, idx, y) = (new Elements(p.X, p.DType), MatrixReferences.Param(p.V, p.DType), new Elements(p.Idx, DType.I32), new Elements(p.Y, p.DType));
        for (long i = 0; i < p.Count; i++)
        {
            y[i] = x.Present ? x[i] : 0;
        }
        for (int j = 0; j < p.Nnz; j++)
        {
            long at = (long)idx[j];
            y[at] += v[j];
        }
    }

    public static void Take(in TakeSparseArgs p)
    {
        var (x, idx, v) = (new Elements(p.X, p.DType), new Elements(p.Idx, DType.I32), MatrixReferences.Param(p.V, p.DType));
        for (int j = 0; j < p.Nnz; j++)
        {
            v.Put(j, x[(long)idx[j]], p.Add, 0);
        }
    }

    public static void Sample(in SampleSparseArgs p)
    {
        var (a, b, idx, v) = (new Elements(p.A, p.DType), new Elements(p.B, p.DType), new Elements(p.Idx, DType.I32), MatrixReferences.Param(p.V, p.DType));
        for (int j = 0; j < p.Nnz; j++)
        {
            long row = (long)idx[j] / p.K, col = (long)idx[j] % p.K;
            double sum = 0;
            for (long t = 0; t < p.Tokens; t++)
            {
                sum += a[(t * p.N) + row] * b[(t * p.K) + col];
            }
            v.Put(j, sum, p.Add, 0);
        }
    }
}
