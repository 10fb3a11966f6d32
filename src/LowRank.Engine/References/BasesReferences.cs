namespace LowRank;

/// <summary>Float64 references of RandLoRA's scaled bases.</summary>
internal static class BasesReferences
{
    public static void Forward(in ScaleBasesArgs p)
    {
        var (a, lambda, gamma, s) = (new Elements(p.A, p.DType), new Elements(p.Lambda, p.DType), new Elements(p.Gamma, p.DType), new Elements(p.S, p.DType));
        for (long row = 0; row < (long)p.R * p.N; row++)
        {
            for (int i = 0; i < p.D; i++)
            {
                s[(row * p.D) + i] = lambda[row] * a[(row / p.N * p.Pitch) + i] * gamma[(row % p.N * p.D) + i];
            }
        }
    }

    public static void Backward(in ScaleBasesGradArgs p)
    {
        var (a, lambda, gamma, ds) = (new Elements(p.A, p.DType), new Elements(p.Lambda, p.DType), new Elements(p.Gamma, p.DType), new Elements(p.Ds, p.DType));
        var (dlambda, dgamma) = (new Elements(p.Dlambda, p.DType), new Elements(p.Dgamma, p.DType));
        double[] sums = new double[p.D];
        for (long b = 0; b < p.N; b++)
        {
            Array.Clear(sums);
            for (long k = 0; k < p.R; k++)
            {
                long row = (k * p.N) + b;
                double sum = 0;
                for (int i = 0; i < p.D; i++)
                {
                    double product = ds[(row * p.D) + i] * a[(k * p.Pitch) + i];
                    sum += product * gamma[(b * p.D) + i];
                    sums[i] += product * lambda[row];
                }
                dlambda.Put(row, sum, p.Add, 0);
            }
            for (int i = 0; i < p.D; i++)
            {
                dgamma.Put((b * p.D) + i, sums[i], p.Add, 1);
            }
        }
    }
}
