using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>A product of the Hopper plans with what goes before and after it, twice on one stream with other values: the second launch finds what the first
/// one left behind.</summary>
/// <param name="Tile">What a block makes.</param>
/// <param name="Rank">0: none.</param>
internal sealed record HopperCase(HopperTile Tile, int Rank = 0)
{
    private const int M = 200, N = 264;

    /// <summary>t is made in the kernel, from A and x.</summary>
    public bool Makes { get; init; }

    /// <summary>x lies as [k, m].</summary>
    public bool AcrossX { get; init; }

    /// <summary>w lies as [k, n].</summary>
    public bool AcrossW { get; init; }

    /// <summary>Added to what y holds.</summary>
    public bool Adds { get; init; }

    /// <summary>With c, bias and y0.</summary>
    public bool Ends { get; init; }

    /// <summary>y is F32.</summary>
    public bool Wide { get; init; }

    /// <summary>Steps of the sum.</summary>
    public int K { get; init; } = 136;

    /// <summary>Columns of y.</summary>
    public int Columns { get; init; } = N;

    public override string ToString() => $"{Tile}{(Makes ? " lora" : AcrossX ? " weight" : AcrossW ? " input" : " forward")}, rank {Rank}{(Wide ? ", wide" : "")}, n {Columns}, k {K}";

    /// <summary>The kernel file.</summary>
    public string File => Makes ? $"lora_r{(Rank <= 16 ? 16 : Rank <= 32 ? 32 : Rank <= 64 ? 64 : 128)}_sm90.cu" : $"linear_{(AcrossX ? "weight" : AcrossW ? "input" : "forward")}_sm90.cu";

    /// <summary>y and, where made, y0 and t of both launches as bytes, and the largest of their errors to float64; NaN where a launch left counters behind.</summary>
    public unsafe (byte[] Bits, double Error) Run(EmulatedDriver driver, DType type)
    {
        var stream = new CudaStream(driver);
        try
        {
            (byte[] first, double error) = Run(stream, type, 1);
            (byte[] second, double again) = Run(stream, type, 2);
            bool clean = !new ReadOnlySpan<int>((void*)stream.Counters, CudaStream.CounterCount).ContainsAnyExcept(0);
            return ([.. first, .. second], !clean || double.IsNaN(error) || double.IsNaN(again) ? double.NaN : Math.Max(error, again));
        }
        finally
        {
            stream.End();
            stream.Free();
        }
    }

    private (byte[] Bits, double Error) Run(CudaStream stream, DType type, ulong seed)
    {
        using Device host = Device.Cpu();
        using Scope scope = host.NewStore();
        Tensor Draw(string name, Shape shape, DType t)
        {
            float[] values = new float[shape.Count];
            new Rng(seed).Fork(name).FillUniform(values, -1, 1);
            return scope.Of(shape, values, t);
        }
        Tensor Poison(Shape shape, DType t) => scope.Of(shape, Enumerable.Repeat(double.NaN, checked((int)shape.Count)).ToArray(), t);
        DType small = Makes ? DType.F32 : type;
        Tensor x = Draw("x", AcrossX ? [K, M] : [M, K], type), w = Draw("w", AcrossW ? [K, Columns] : [Columns, K], type);
        Tensor a = Draw("a", [Math.Max(1, Rank), K], small), b = Draw("b", AcrossW ? [Math.Max(1, Rank), Columns] : [Columns, Math.Max(1, Rank)], small);
        Tensor c = Draw("c", [Columns], DType.F32), bias = Draw("bias", [Columns], DType.F32), old = Draw("y", [M, Columns], Wide ? DType.F32 : type);
        Tensor y = Adds ? scope.Of(old.Shape, old.ToDoubles(), old.DType) : Poison(old.Shape, old.DType), y0 = Poison([M, Columns], type);
        Tensor t = Makes ? Poison([M, Rank], DType.F32) : Draw("t", [M, Math.Max(1, Rank)], type);
        double[] wantT = Makes ? Product(x, false, a, false, Rank, 0.5) : t.ToDoubles();
        double[] sum = Product(x, AcrossX, w, AcrossW, Columns, 1);
        if (Makes)
        {
            Assert.True(CudaHopperPlans.TryForward(stream, new LoraArgs
            {
                X = x.Data,
                W = w.Data,
                A = a.Data,
                B = b.Data,
                C = Ends ? c.Data : 0,
                Bias = Ends ? bias.Data : 0,
                Y = y.Data,
                Y0 = Ends ? y0.Data : 0,
                T = t.Data,
                Tokens = M,
                N = Columns,
                K = K,
                R = Rank,
                Scale = 0.5,
                DType = type,
                WType = type,
            }, Tile));
        }
        else
        {
            Assert.True(CudaHopperPlans.TryMultiply(stream, new GemmArgs
            {
                A = AcrossX ? new(x.Data, type, 1, M) : new(x.Data, type, K, 1),
                B = AcrossW ? new(w.Data, type, 1, Columns) : new(w.Data, type, K, 1),
                Ta = new(t.Data, type, Rank, 1),
                Tb = AcrossW ? new(b.Data, type, 1, Columns) : new(b.Data, type, Rank, 1),
                C = Ends ? c.Data : 0,
                Bias = Ends ? bias.Data : 0,
                Y = y.Data,
                Y0 = Ends ? y0.Data : 0,
                YRowStride = Columns,
                YColStride = 1,
                YType = y.DType,
                M = M,
                N = Columns,
                K = K,
                R = Rank,
                Scale = 1,
                Add = Adds ? 1u : 0,
            }, Tile));
        }
        stream.End();
        double[] wb = b.ToDoubles(), wc = c.ToDoubles(), wbias = bias.ToDoubles(), before = old.ToDoubles(), want = new double[sum.Length];
        for (int i = 0; i < sum.Length; i++)
        {
            (int row, int col) = (i / Columns, i % Columns);
            for (int q = 0; q < Rank; q++)
            {
                sum[i] += wantT[(row * Rank) + q] * wb[AcrossW ? (q * Columns) + col : (col * Rank) + q];
            }
            want[i] = (Ends ? (wc[col] * sum[i]) + wbias[col] : sum[i]) + (Adds ? before[i] : 0);
        }
        double error = Close.Error(y.ToDoubles(), want);
        double[] more = [Ends ? Close.Error(y0.ToDoubles(), sum) : 0, Makes ? Close.Error(t.ToDoubles(), wantT) : 0];
        return ([.. y.ToBytes(), .. y0.ToBytes(), .. t.ToBytes()], double.IsNaN(error) || more.Any(double.IsNaN) ? double.NaN : Math.Max(error, more.Max()));
    }

    // left [M, K] times right [columns, K] transposed, each read across where it says so
    private double[] Product(Tensor left, bool acrossLeft, Tensor right, bool acrossRight, int columns, double scale)
    {
        double[] x = left.ToDoubles(), w = right.ToDoubles(), y = new double[M * columns];
        for (int i = 0; i < M; i++)
        {
            for (int j = 0; j < columns; j++)
            {
                double sum = 0;
                for (int k = 0; k < K; k++)
                {
                    sum += x[acrossLeft ? (k * M) + i : (i * K) + k] * w[acrossRight ? (k * columns) + j : (j * K) + k];
                }
                y[(i * columns) + j] = scale * sum;
            }
        }
        return y;
    }
}
