using System.Globalization;
using LowRank.Testing;

namespace LowRank.Cuda.Bench;

using Operand = LowRank.Testing.Operand;

/// <summary>Correctness beside the test suite: random shapes against float64, the same bits ten times, every row once for a sanitizer. Failures are returned, one line each.</summary>
internal static class Checks
{
    private const int Runs = 10;

    /// <summary>Ops on shapes that a seed draws: result and every gradient against the float64 reference.</summary>
    public static IReadOnlyList<string> Random(Device device, int count, bool tiny, ulong seed)
    {
        using Device reference = Device.Cpu();
        List<string> failures = [];
        var rng = new Rng(seed);
        for (int i = 0; i < count; i++)
        {
            OpRow row = DrawRow(rng, tiny ? 40 : 600);
            DType[] types = [.. row.TypesOn(device.Name)];
            DType type = types[rng.Below(types.Length)];
            Try(failures, $"{row} in {type}", () =>
            {
                var run = new OpRun(row, type, seed + (ulong)i);
                (double[] y, double[]?[] gradients) = run.On(device, type);
                (double[] want, double[]?[] wantGradients) = run.On(reference, DType.F64);
                Require(Close.Error(y, want), Close.Bound(type), "result");
                foreach (int g in run.Differentiable)
                {
                    Require(Close.Error(gradients[g], wantGradients[g]), Close.Bound(type), $"gradient of operand {g}");
                }
            });
        }
        return failures;
    }

    /// <summary>The same bits in result and gradients, run after run.</summary>
    public static IReadOnlyList<string> Determinism(Device device, bool tiny)
    {
        List<string> failures = [];
        foreach (OpRow row in tiny ? Repeated(40, 24, 32, 4) : Repeated(1024, 768, 768, 16))
        {
            foreach (DType type in row.TypesOn(device.Name))
            {
                Try(failures, $"{row} in {type}", () =>
                {
                    var run = new OpRun(row, type);
                    (double[] first, double[]?[] gradients) = run.On(device, type);
                    for (int i = 1; i < Runs; i++)
                    {
                        (double[] y, double[]?[] again) = run.On(device, type);
                        Equal(first, y, $"result of run {i + 1}");
                        foreach (int g in run.Differentiable)
                        {
                            Equal(gradients[g]!, again[g]!, $"gradient of operand {g} in run {i + 1}");
                        }
                    }
                });
            }
        }
        return failures;
    }

    /// <summary>Every op row once in each type, forward and backward: for compute-sanitizer to look at.</summary>
    public static IReadOnlyList<string> Once(Device device, bool tiny)
    {
        List<string> failures = [];
        foreach (OpRow row in tiny ? OpRows.All.Take(6) : OpRows.All)
        {
            foreach (DType type in row.TypesOn(device.Name))
            {
                Try(failures, $"{row} in {type}", () => new OpRun(row, type).On(device, type));
            }
        }
        return failures;
    }

    private static IEnumerable<OpRow> Repeated(int t, int n, int k, int r) =>
    [
        new(new Linear(), X(t, k), W(n, k), P(n)),
        new(new LoraLinear(2), X(t, k), W(n, k), P(r, k), P(n, r)),
        new(new LoraLinear(2), X(t, k), W(n, k), P(r, k), P(n, r), P(n), P(n)),
        new(new AddMatMul(2), W(n, k), P(n, r), P(r, k)) { Types = [DType.F32] },
        new(new DoraScale(2), P(n), W(n, k), C(r, k), C(n, r), C(n)),
        new(new LayerNorm(1e-5), X(t, k), P(k), P(k)),
        new(new CrossEntropy(), X(t, n), new Operand([t], Role.Ids, n)),
        new(new Attention(4, Causal: true), X(2, t / 8, k), X(2, t / 8, k), X(2, t / 8, k)),
        new(new Dropout(0.3, 7, 2), X(t, k)),
        new(new Mul(), X(t, k), P(k)),
        new(new Gather(), X(n, k), new Operand([t], Role.Ids, n)),
    ];

    private static OpRow DrawRow(Rng rng, int most)
    {
        // Sizes that divide tiles, that allow 16-byte loads, and that do neither. Smaller ones are among the op rows, with values chosen for them: the
        // error of a sum of few terms is whatever it happens to be.
        int Size(int limit) => rng.Below(3) switch { 0 => 64 * (1 + rng.Below(Math.Max(1, limit / 64))), 1 => 16 + (8 * rng.Below(limit / 8)), _ => 16 + rng.Below(limit) };
        int t = Size(most), n = Size(most), k = Size(most), r = 1 + rng.Below(64);
        switch (rng.Below(10))
        {
            case 0:
                return new(new Linear(), X(t, k), W(n, k), P(n));
            case 1 or 2 or 3:
                bool bias = rng.Below(2) == 0, scaled = rng.Below(3) == 0, own = rng.Below(4) == 0;
                return new(new LoraLinear(0.5), X(t, k), W(n, k), P(r, k), P(n, r), bias ? P(n) : None, scaled ? P(n) : None, own ? X(t, k) : None);
            case 4:
                return new(new MatMul(rng.Below(2) == 0, TransposeB: true), X(t, t), X(t, t));
            case 5:
                return new(new DoraScale(0.5), P(n), W(n, k), C(r, k), C(n, r), C(n));
            case 6:
                return new(new LayerNorm(1e-5), X(t, k), P(k), P(k));
            case 7:
                return new(new CrossEntropy(Smoothing: 0.1), X(t, k + 1), new Operand([t], Role.Ids, k + 1));
            case 8:
                int kv = 1 + rng.Below(3), heads = kv * (1 + rng.Below(3)), dim = 8 * (1 + rng.Below(16)), keys = 1 + rng.Below(most / 2), queries = 1 + rng.Below(keys);
                return new(new Attention(heads, rng.Below(2) == 0, kv), X(2, queries, heads * dim), X(2, keys, kv * dim), X(2, keys, kv * dim));
            default:
                return new(new AddMatMul(0.25), W(n, k), P(n, r), P(r, k)) { Types = [DType.F32] };
        }
    }

    private static void Try(List<string> failures, string name, Action body)
    {
        try
        {
            body();
        }
        catch (Exception error) when (error is InvalidDataException or KernelException or DeviceException or ShapeException)
        {
            failures.Add($"{name}: {error.Message}");
            Console.Error.WriteLine(failures[^1]);
        }
    }

    private static void Require(double error, double bound, string what)
    {
        if (!(error <= bound))
        {
            throw new InvalidDataException(string.Create(CultureInfo.InvariantCulture, $"{what} has relative error {error:E2}, want at most {bound:E1}"));
        }
    }

    private static void Equal(double[] first, double[] again, string what)
    {
        if (!first.AsSpan().SequenceEqual(again))
        {
            throw new InvalidDataException($"{what} has other bits than the first");
        }
    }

    private static readonly Operand None = new([0], Role.None);

    private static Operand X(params int[] shape) => new(Shape.Of(shape));

    private static Operand P(params int[] shape) => new(Shape.Of(shape), Role.Parameter);

    private static Operand C(params int[] shape) => new(Shape.Of(shape), Role.Constant);

    private static Operand W(int n, int k) => new([n, k], Role.Frozen);
}
