using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>Merges of tensors: kernels against their float64 reference, exact thresholds, and what they refuse.</summary>
public class TensorMergeTests
{
    private const int Count = 2048 + 777;      // two blocks, the second ragged
    private static readonly (DType Models, DType Y)[] Types = [(DType.F32, DType.BF16), (DType.BF16, DType.F16), (DType.F16, DType.F32)];
    private static readonly DType[] Compared = [DType.F32, DType.BF16, DType.F64];
    private static readonly bool[] Based = [true, false];

    public static TheoryData<string, MergeRule, DType, DType, bool> Rows() => [.. from device in Devices.Present
        from rule in Enum.GetValues<MergeRule>()
        from types in Types
        from based in Based
        where device == "cpu" || based != (rule == MergeRule.Agreeing)
        select (device, rule, types.Models, types.Y, based)];

    [Theory, MemberData(nameof(Rows))]
    public void Kernels_match_the_float64_reference(string name, MergeRule rule, DType models, DType y, bool based)
    {
        using Device device = Devices.Open(name), reference = Devices.Open("cpu");
        (double[] want, MergeFigures figures) = Merged(reference, rule, DType.F64, DType.F64, based);
        (double[] got, MergeFigures seen) = Merged(device, rule, models, y, based);
        string what = $"{rule} of {models} to {y} on {name}";
        Close.Check(got, want, Close.Bound(y), what);
        Assert.True(device.Fallbacks.Count == 0, what);
        Assert.Equal((figures.SignBalance, figures.Undecided, figures.Conflicts), (seen.SignBalance, seen.Undecided, seen.Conflicts));
        Close.Check(seen.Magnitudes, figures.Magnitudes, Close.Bound(DType.F32), what);
        Close.Check(seen.Kept, figures.Kept, Close.Bound(DType.F32), what);
        Close.Check(seen.Products, figures.Products, Close.Bound(DType.F32), what);
        Close.Check([seen.Moved], [figures.Moved], Close.Bound(DType.F32), what);
        double off = got.Zip(want, (a, b) => Math.Abs(a - b)).Max();
        Assert.InRange(seen.MaxRounding, y == DType.F32 ? 0 : off / 2, Math.Max(2 * off, double.Epsilon));
    }

    [Theory, InlineData(1), InlineData(2), InlineData(3)]
    public void Bits_do_not_depend_on_the_number_of_threads(int threads)
    {
        using Device device = Devices.Open("cpu");
        int before = CpuDevice.Threads;
        (double[] want, MergeFigures figures) = Merged(device, MergeRule.MeanOfAgreeing, DType.F32, DType.F32, based: true);
        try
        {
            CpuDevice.Threads = threads;
            (double[] got, MergeFigures seen) = Merged(device, MergeRule.MeanOfAgreeing, DType.F32, DType.F32, based: true);
            Assert.Equal(want, got);
            Assert.Equal(figures.Products, seen.Products);
        }
        finally
        {
            CpuDevice.Threads = before;
        }
    }

    public static TheoryData<string, DType> Places() => [.. from device in Devices.Present from type in Compared where type != DType.F64 || !device.StartsWith("cuda", StringComparison.Ordinal) select (device, type)];

    [Theory, MemberData(nameof(Places))]
    public void The_largest_stay_and_of_equal_ones_the_first(string name, DType type)
    {
        using Device device = Devices.Open(name);
        using Scope scope = device.BeginScope();
        double[] values = [.. Draw("x", 5000).Select(v => Math.Round(v * 20) / 16)];       // some 40 magnitudes, each many times
        Tensor x = scope.Of([5000], values, type), y = scope.New([5000], DType.F64);
        foreach (int count in (ReadOnlySpan<int>)[1, 777, 2500, 4999, 5000])
        {
            IReadOnlyList<MergeTerm> terms = TensorMerge.KeepLargest(null, [new MergeTerm(x)], [count]);
            TensorMerge.Run(null, [terms[0] with { Model = x.ConvertTo(DType.F64, scope) }], MergeRule.Sum, y);
            HashSet<int> stay = [.. values.Index().OrderByDescending(v => Math.Abs(v.Item)).Take(count).Select(v => v.Index)];      // a stable sort
            Assert.Equal(values.Select((v, i) => stay.Contains(i) ? v : 0), y.ToDoubles());
        }
    }

    [Fact]
    public void Ties_and_dare_of_tensors_follow_their_rules()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor start = scope.Of([2], (float[])[0, 0]), a = scope.Of([2], (float[])[3, -1]), b = scope.Of([2], (float[])[-2, -1]);
        Assert.Equal([3, -2], TensorMerge.Ties(start, [a, b], 100, lambda: 1).ToDoubles());
        Assert.Equal([3, -1], TensorMerge.Ties(start, [a, b], 100, MergeRule.MeanOfAgreeing, 1).ToDoubles());
        Assert.Equal([0.5, -1], TensorMerge.Average(a, b).ToDoubles());
        Assert.Equal([0.5, -1], TensorMerge.TaskArithmetic(start, [a, b], 0.5).ToDoubles());
        double[] values = Draw("many", 1000);
        Tensor many = scope.Of([1000], values, DType.F32);
        Assert.Equal(201, TensorMerge.Ties(scope.NewZeros([1000], DType.F32), [many], 20, lambda: 1).ToDoubles().Count(v => v != 0));
        double[] kept = TensorMerge.Dare(scope.NewZeros([1000], DType.F32), [many], 0.75, 1, seed: 3).ToDoubles();
        Assert.All(kept.Zip(many.ToDoubles()), v => Assert.True(v.First == 0 || v.First == 4 * v.Second));
        Assert.InRange(kept.Count(v => v != 0), 250 - (Close.Deviations * Math.Sqrt(1000 * 0.25 * 0.75)), 250 + (Close.Deviations * Math.Sqrt(1000 * 0.25 * 0.75)));
    }

    [Fact]
    public void Draws_compare_as_exact_numbers_do()
    {
        var rng = new Rng(5);
        foreach (double p in (ReadOnlySpan<double>)[0, 0.1, 0.3, 0.5, 1 - 1e-9, 1])
        {
            (MergeDraws above, MergeDraws below) = (MergeDraws.Above(rng, p), MergeDraws.Below(rng, p));
            for (int i = 0; i < 1000; i++)
            {
                int draw = (int)(rng.Uniform(i) * (1 << 24));
                Assert.Equal(rng.Uniform(i) > p, draw >= above.From && draw < above.To);
                Assert.Equal(rng.Uniform(i) < p, draw >= below.From && draw < below.To);
            }
        }
    }

    [Fact]
    public void What_does_not_fit_is_refused_by_name()
    {
        using Device device = Devices.Open("cpu");
        using Scope scope = device.BeginScope();
        Tensor start = scope.NewZeros([3], DType.F32), wide = scope.NewZeros([4], DType.F32), ids = scope.Of([3], (int[])[1, 2, 3]);
        void Fails(string message, Action act) => Assert.Contains(message, Assert.Throws<ShapeException>(act).Message, StringComparison.Ordinal);
        Fails("there is no model, want at least one", () => TensorMerge.TaskArithmetic(start, []));
        Fails("model 1 is F32[4] on cpu, want floats of [3]", () => TensorMerge.TaskArithmetic(start, [start, wide]));
        Fails("model 0 is I32[3] on cpu, want floats of [3]", () => TensorMerge.Ties(start, [ids]));
        Fails("keep is 0 of 3 entries", () => TensorMerge.Ties(start, [start], 0));
        Fails("drop is 1, want 0 or more and below 1", () => TensorMerge.Dare(start, [start], 1));
        Fails("scale is F32[4], want F32[3]", () => TensorMerge.Run(start, [new MergeTerm(start)], MergeRule.Sum, null, scale: wide));
        Fails("the mask of model 0 is I32[3], want U8[3]", () => TensorMerge.Run(start, [new MergeTerm(start) { Keep = ids }], MergeRule.Sum, null));
        Assert.False(TensorMerge.Run(start, [new MergeTerm(scope.Of([3], (float[])[1, float.NaN, 2]))], MergeRule.Sum, null).IsFinite);
    }

    /// <summary>Three models: the largest of one, one drawn, one masked, with weights, a scale, and figures.</summary>
    internal static (double[] Y, MergeFigures Figures) Merged(Device device, MergeRule rule, DType models, DType to, bool based)
    {
        using Scope scope = device.BeginScope();
        // values of seven bits: their differences are exact in every type, so thresholds and elections cannot differ by rounding
        Tensor Values(string name) => scope.Of([Count], [.. Draw(name, Count).Select(v => Math.Round(v * 64) / 64)], models);
        Tensor? start = based ? Values("start") : null;
        Tensor y = scope.New([Count], to);
        byte[] mask = [.. Draw("mask", Count).Select(v => v > 0.25 ? (byte)1 : (byte)0)];
        IReadOnlyList<MergeTerm> terms = TensorMerge.KeepLargest(start, [new MergeTerm(Values("a")), new MergeTerm(Values("b")), new MergeTerm(Values("c"))], [Count / 3, Count, Count]);
        MergeTerm[] all = [terms[0], terms[1] with { Weight = 0.5, Share = 0.5, Factor = 1.5, Draws = MergeDraws.Below(new Rng(7), 0.6) }, terms[2] with { Weight = -0.25, Share = 0.25, Keep = scope.Of([Count], mask) }];
        DType parameters = models.ForParameters();
        MergeFigures figures = TensorMerge.Run(start, all, rule, y, 0.75, -1, scope.Of([Count], [.. Draw("scale", Count).Select(v => (float)v + 1.5)], parameters), compares: true);
        return (y.ToDoubles(), figures);
    }

    private static double[] Draw(string name, int count)
    {
        var values = new float[count];
        new Rng(1).Fork(name).FillUniform(values, -1, 1);
        return [.. values.Select(v => (double)v)];
    }
}
