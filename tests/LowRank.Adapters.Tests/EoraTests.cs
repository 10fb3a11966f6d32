using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What the sheet says must hold of EoRA, of its moments and of the reference compressions.</summary>
public sealed class EoraTests : IDisposable
{
    private const int Outputs = 12, Inputs = 10, Tokens = 60;
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope scope;

    public EoraTests() => scope = device.BeginScope();

    public void Dispose()
    {
        scope.Dispose();
        device.Dispose();
    }

    [Fact]
    public void At_full_rank_the_weight_comes_back()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(1);
        EoraFactors factors = Eora.Of(w, wq, h, Inputs, scope);
        Close.Check(new AddMatMul(1).Apply(wq, factors.B, factors.A).ToDoubles(), w.ToDoubles(), Close.Golden64, "W");
        Assert.Equal(0, factors.Replaced);
    }

    [Fact]
    public void Of_all_ranks_the_error_is_the_rest_of_the_singular_values_and_the_least()
    {
        for (ulong seed = 0; seed < 20; seed++)
        {
            (Tensor w, Tensor wq, Tensor h) = Case(seed, 64, 48);
            double[] moment = h.ToDoubles(), magnitudes = [.. Enumerable.Range(0, 48).Select(i => Math.Sqrt(moment[i * 49]))];
            double last = double.PositiveInfinity;
            EoraFactors all = Eora.Of(w, wq, h, 16, scope), plain = Eora.Plain(w, wq, 16, scope), scaled = Eora.Scaled(w, wq, magnitudes, 16, scope);
            double whole = all.SingularValues.Sum(s => s * s);
            for (int rank = 1; rank <= 16; rank++)
            {
                using Scope own = device.BeginScope();
                double Error(EoraFactors factors) => Eora.Error(w, wq, factors.Take(rank, own), h);
                double error = Error(all);
                Assert.Equal(all.SingularValues.Skip(rank).Sum(s => s * s), error, Close.Golden64 * whole);
                Assert.True(error < last && error <= Error(plain) && error <= Error(scaled), $"rank {rank}: {error} after {last}");
                last = error;
            }
        }
    }

    [Fact]
    public void A_lower_rank_is_the_beginning_of_a_higher_one()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(2);
        EoraFactors high = Eora.Of(w, wq, h, 7, scope), low = Eora.Of(w, wq, h, 3, scope), taken = high.Take(3, scope);
        Assert.Equal(low.A.ToDoubles(), taken.A.ToDoubles());
        Assert.Equal(low.B.ToDoubles(), taken.B.ToDoubles());
        Assert.Equal([3, Inputs], low.A.Shape);
        Assert.Equal([Outputs, 3], low.B.Shape);
    }

    [Fact]
    public void With_unrelated_inputs_it_is_the_plain_or_the_scaled_decomposition()
    {
        (Tensor w, Tensor wq, _) = Case(3);
        double[] scale = [.. Enumerable.Range(0, Inputs).Select(i => 0.5 + i)];
        Tensor Diagonal(Func<int, double> value) => scope.Of([Inputs, Inputs], [.. Enumerable.Range(0, Inputs * Inputs).Select(i => i % (Inputs + 1) == 0 ? value(i / (Inputs + 1)) : 0)]);
        Close.Check(Delta(Eora.Of(w, wq, Diagonal(_ => 1), 4, scope)), Delta(Eora.Plain(w, wq, 4, scope)), Close.Golden64, "H = I");
        Close.Check(Delta(Eora.Of(w, wq, Diagonal(i => scale[i] * scale[i]), 4, scope)), Delta(Eora.Scaled(w, wq, scale, 4, scope)), Close.Golden64, "H diagonal");
    }

    [Fact]
    public void The_scale_of_the_moment_moves_the_split_and_not_the_product()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(4);
        EoraFactors one = Eora.Of(w, wq, h, 4, scope), sixteen = Eora.Of(w, wq, scope.Of(h.Shape, [.. h.ToDoubles().Select(v => 16 * v)]), 4, scope);
        Close.Check(Delta(sixteen), Delta(one), Close.Golden64, "product");
        Close.Check(sixteen.B.ToDoubles(), [.. one.B.ToDoubles().Select(v => 2 * v)], Close.Golden64, "B");
        Close.Check(sixteen.A.ToDoubles(), [.. one.A.ToDoubles().Select(v => v / 2)], Close.Golden64, "A");
    }

    [Fact]
    public void Factors_carry_the_singular_values_evenly()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(5);
        EoraFactors factors = Eora.Of(w, wq, h, 4, scope);
        double[] values = [.. Enumerable.Range(0, 16).Select(i => i % 5 == 0 ? factors.SingularValues[i / 5] : 0)];
        Close.Check(new MatMul(TransposeA: true).Apply(factors.B, factors.B).ToDoubles(), values, Close.Golden64, "BᵀB");
        Close.Check(new MatMul(TransposeB: true).Apply(new MatMul().Apply(factors.A, h), factors.A).ToDoubles(), values, Close.Golden64, "AHAᵀ");
    }

    [Fact]
    public void The_root_by_cholesky_leads_to_the_same_product()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(6);
        Tensor root = Cholesky.Of(h, scope);
        SvdFactors cut = Svd.Of(new MatMul().Apply(new Add(-1).Apply(w, wq), root), scope, 4);
        Tensor product = new MatMul().Apply(new Mul().Apply(cut.U, cut.S), cut.Vt);
        double[] inverse = Lu.Of(root, scope).Solve(Identity(), scope).ToDoubles();
        Close.Check(Delta(Eora.Of(w, wq, h, 4, scope)), new MatMul().Apply(product, scope.Of(h.Shape, inverse)).ToDoubles(), Close.Golden64, "Cholesky");
    }

    private Tensor Identity() => scope.Of([Inputs, Inputs], [.. Enumerable.Range(0, Inputs * Inputs).Select(i => i % (Inputs + 1) == 0 ? 1.0 : 0)]);

    [Fact]
    public void Without_an_error_there_is_nothing_to_make_up_for()
    {
        (Tensor w, _, Tensor h) = Case(7);
        EoraFactors factors = Eora.Of(w, w, h, 3, scope);
        Assert.All(factors.A.ToDoubles().Concat(factors.B.ToDoubles()), v => Assert.Equal(0, v));
    }

    [Fact]
    public void The_error_is_that_of_the_outputs_on_the_data()
    {
        double[] x = Correlated(8, Tokens, Inputs);
        var moments = new InputMoments(Inputs, 1, MomentAverage.Mean);
        moments.Add(scope.Of([Tokens, Inputs], x));
        (Tensor w, Tensor wq, _) = Case(8);
        Tensor h = scope.Of([Inputs, Inputs], moments.Second);
        EoraFactors factors = Eora.Of(w, wq, h, 3, scope);
        Tensor inputs = scope.Of([Tokens, Inputs], x), want = new Linear().Apply(inputs, w), got = new LoraLinear(1).Apply(inputs, wq, factors.A, factors.B);
        Assert.Equal(want.ToDoubles().Zip(got.ToDoubles(), (a, b) => (a - b) * (a - b)).Sum(), Eora.Error(w, wq, factors, h), Close.Golden64 * Eora.Error(w, wq, null, h));
        Assert.Equal(Tokens, moments.Tokens);
    }

    [Theory]
    [InlineData(MomentAverage.Official)]
    [InlineData(MomentAverage.Mean)]
    public void Equal_samples_weigh_as_the_average_says(MomentAverage average)
    {
        const int samples = 5;
        double[] x = Correlated(9, 4, Inputs);
        var moments = new InputMoments(Inputs, samples, average);
        for (int i = 0; i < samples; i++)
        {
            moments.Add(scope.Of([4, Inputs], x));
        }
        double weight = average == MomentAverage.Mean ? 1 : (1 - Math.Pow((double)samples / (samples + 1), samples)) * (samples + 1) / samples;
        double[] gram = new MatMul(TransposeA: true).Apply(scope.Of([4, Inputs], x), scope.Of([4, Inputs], x)).ToDoubles();
        Close.Check(moments.Second, [.. gram.Select(v => weight * v)], Close.Golden64, "H");
        Close.Check(moments.Squares, [.. Enumerable.Range(0, Inputs).Select(i => gram[i * (Inputs + 1)])], Close.Golden64, "c");
        Close.Check(moments.Magnitudes, [.. Enumerable.Range(0, Inputs).Select(j => samples * Enumerable.Range(0, 4).Average(t => Math.Abs(x[(t * Inputs) + j])))], Close.Golden64, "a");
    }

    [Fact]
    public void With_fewer_tokens_than_inputs_a_floor_keeps_the_factors_finite_and_nearly_best()
    {
        double[] x = Correlated(10, 6, Inputs);
        Tensor inputs = scope.Of([6, Inputs], x), h = new MatMul(TransposeA: true).Apply(inputs, inputs);
        (Tensor w, Tensor wq, _) = Case(10);
        EoraFactors factors = Eora.Of(w, wq, h, 3, scope, floor: Close.Golden64);
        Assert.True(factors.Replaced >= Inputs - 6);
        Assert.All(factors.A.ToDoubles().Concat(factors.B.ToDoubles()), v => Assert.True(double.IsFinite(v)));
        Tensor outputs = new Linear().Apply(inputs, new Add(-1).Apply(w, wq));
        double best = Svd.Of(outputs, scope).S.ToDoubles().Skip(3).Sum(s => s * s), whole = Eora.Error(w, wq, null, h);
        Assert.Equal(best, Eora.Error(w, wq, factors, h), Close.RandomizedStart * whole);
    }

    [Fact]
    public void A_negative_eigenvalue_takes_the_value_of_the_smallest_positive_one()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(14);
        EighFactors factors = Eigh.Of(h, scope);
        double[] values = factors.Values.ToDoubles();
        int least = Array.IndexOf(values, values.Min());
        Tensor Moment(double value) => new MatMul(TransposeB: true).Apply(new Mul().Apply(factors.V, scope.Of([Inputs], [.. values.Select((v, i) => i == least ? value : v)])), factors.V);
        double next = values.Where((_, i) => i != least).Min();
        EoraFactors negative = Eora.Of(w, wq, Moment(-1e-3 * next), 4, scope), replaced = Eora.Of(w, wq, Moment(next), 4, scope);
        Assert.Equal((1, 0), (negative.Replaced, replaced.Replaced));
        Close.Check(Delta(negative), Delta(replaced), Close.Golden64, "B·A");
    }

    // The layer reads a packed base and adds the factors in one pass.
    [Theory]
    [InlineData(Quantization.Int8Rows)]
    [InlineData(Quantization.NF4)]
    public void The_side_path_in_one_pass_is_that_of_two_products(Quantization kind)
    {
        using Device single = Devices.Open("cpu");
        using Scope own = single.BeginScope();
        (Tensor w, _, Tensor h) = Case(15, 24, 32);
        Tensor packed = QuantizedMatrix.Quantize([.. w.ToDoubles().Select(v => (float)v)], w.Shape, kind).ToTensor(own), wq = scope.Of(w.Shape, packed.ConvertTo(DType.F32, own).ToDoubles());
        EoraFactors factors = Eora.Of(w, wq, h, 5, scope);
        Tensor A(Scope on, DType type) => on.Of(factors.A.Shape, factors.A.ToDoubles(), type);
        Tensor B(Scope on, DType type) => on.Of(factors.B.Shape, factors.B.ToDoubles(), type);
        double[] x = Correlated(16, 7, 32);
        Tensor y = new LoraLinear(1).Apply(own.Of([7, 32], x, DType.F32), packed, A(own, DType.F32), B(own, DType.F32));
        Tensor input = scope.Of([7, 32], x), twice = new Add().Apply(new Linear().Apply(input, wq), new Linear().Apply(new Linear().Apply(input, A(scope, DType.F64)), B(scope, DType.F64)));
        Close.Check(y.ToDoubles(), twice.ToDoubles(), Close.Layer, $"{kind}");
    }

    [Fact]
    public void A_grid_may_differ_by_group_and_keeps_zeros()
    {
        double[] w = [.. Correlated(11, 4, 10)];
        w[3] = w[17] = 0;
        RoundedRows rounded = new RowGrid(3, Group: 4).Round(w, 10);
        Assert.Equal(12, rounded.Scales.Length);     // groups of 4, 4 and 2
        Assert.Equal((0.0, 0.0), (rounded.Values[3], rounded.Values[17]));
        RoundedRows alone = new RowGrid(3).Round([.. w.Skip(4).Take(4)], 4);
        Assert.Equal(alone.Values, rounded.Values[4..8]);
        Assert.All(w.Zip(rounded.Values).Index(), p => Assert.True(Math.Abs(p.Item.First - p.Item.Second) <= rounded.Scales[(p.Index / 10 * 3) + (p.Index % 10 / 4)], $"[{p.Index}]"));
    }

    [Fact]
    public void A_pattern_keeps_two_of_four()
    {
        double[] w = Correlated(12, 6, 12), pruned = SparsePattern.Parse("2:4").Prune(w, [.. Enumerable.Range(1, 12).Select(i => (double)i)]);
        Assert.All(pruned.Chunk(4), four => Assert.Equal(2, four.Count(v => v == 0)));
        Assert.All(pruned.Index().Where(p => p.Item != 0), p => Assert.Equal(w[p.Index], p.Item));
    }

    [Fact]
    public void Bad_input_is_named()
    {
        (Tensor w, Tensor wq, Tensor h) = Case(13);
        Tensor Changed(int at, double value)
        {
            double[] values = h.ToDoubles();
            values[at] = value;
            return scope.Of(h.Shape, values);
        }
        void Throws<T>(string want, Action act) where T : Exception => Assert.Contains(want, Assert.Throws<T>(act).Message, StringComparison.Ordinal);
        Throws<ShapeException>("H is [12, 12], want [in, in] of W [12, 10]", () => Eora.Of(w, wq, scope.NewZeros([12, 12], DType.F64), 2, scope));
        Throws<ShapeException>("Wq is [10, 12]", () => Eora.Of(w, scope.NewZeros([10, 12], DType.F64), h, 2, scope));
        Throws<ShapeException>("rank is 11, want 1 to 10", () => Eora.Of(w, wq, h, 11, scope));
        Throws<ShapeException>("rank is 0, want 1 to 10", () => Eora.Plain(w, wq, 0, scope));
        Throws<ShapeException>("rank is 4, want 1 to 3", () => Eora.Of(w, wq, h, 3, scope).Take(4, scope));
        Throws<ShapeException>("scale has 3 values", () => Eora.Scaled(w, wq, [1, 2, 3], 2, scope));
        Throws<NumericException>("from symmetric", () => Eora.Of(w, wq, Changed(1, 100), 2, scope));
        Throws<NumericException>("want finite entries", () => Eora.Of(w, wq, Changed(0, double.NaN), 2, scope));
        Throws<NumericException>("no eigenvalue of H is positive", () => Eora.Of(w, wq, scope.Of(h.Shape, [.. h.ToDoubles().Select(v => -v)]), 2, scope));
        Throws<NumericException>("singular H, enable floor", () => Eora.Scaled(w, wq, [.. Enumerable.Range(0, Inputs).Select(i => (double)i)], 2, scope));
        Throws<NumericException>("singular H, enable floor", () => Eora.Of(w, wq, scope.Of(h.Shape, [.. Enumerable.Range(0, Inputs * Inputs).Select(i => i % (Inputs + 1) == 0 ? i : 0.0)]), 2, scope));
        Throws<NumericException>("eora: no calibration data", () => _ = new InputMoments(3, 1, MomentAverage.Mean).Second);
        var none = new InputMoments(Inputs, 1, MomentAverage.Mean);
        none.Add(scope.New([0, Inputs], DType.F64));
        Throws<NumericException>("eora: no calibration data", () => _ = none.Second);
        Throws<ShapeException>("of 0 samples", () => new InputMoments(Inputs, 0, MomentAverage.Mean).Add(w));
        Throws<ShapeException>("want [tokens, 3]", () => new InputMoments(3, 1, MomentAverage.Mean).Add(w));
        Throws<AdapterConfigException>("Bits is 9", () => new RowGrid(9).Round([1], 1));
        Throws<AdapterConfigException>("Bits is 1", () => new RowGrid(1).Round([1], 1));
        Throws<AdapterConfigException>("Group -1", () => new RowGrid(4, Group: -1).Round([1], 1));
        Throws<NumericException>("a value is NaN", () => new RowGrid(4).Round([1, double.NaN], 2));
        Throws<AdapterConfigException>("4:4 for 8 inputs", () => new SparsePattern(4, 4).Validate(8));
        Throws<AdapterConfigException>("2:4 for 6 inputs", () => new SparsePattern(2, 4).Validate(6));
        Throws<AdapterConfigException>("the pattern is 24", () => SparsePattern.Parse("24"));
    }

    private static double[] Delta(EoraFactors factors) => new MatMul().Apply(factors.B, factors.A).ToDoubles();

    /// <summary>W, W in 2 bits, and the moment of correlated inputs.</summary>
    private (Tensor W, Tensor Wq, Tensor H) Case(ulong seed, int outputs = Outputs, int inputs = Inputs)
    {
        double[] w = new double[outputs * inputs];
        new Rng(seed).Fork("w").FillNormal(w, 0, 1);
        Tensor x = scope.Of([Tokens, inputs], Correlated(seed, Tokens, inputs));
        return (scope.Of([outputs, inputs], w), scope.Of([outputs, inputs], new RowGrid(2).Round(w, inputs).Values), new MatMul(TransposeA: true, Scale: 1.0 / Tokens).Apply(x, x));
    }

    /// <summary>Rows whose neighbouring entries go together: x_j = 0.8·x_(j-1) + noise.</summary>
    private static double[] Correlated(ulong seed, int rows, int cols)
    {
        var x = new double[rows * cols];
        new Rng(seed).Fork("x").FillNormal(x, 0, 1);
        for (int i = 0; i < x.Length; i++)
        {
            x[i] += i % cols == 0 ? 0 : 0.8 * x[i - 1];
        }
        return x;
    }
}
