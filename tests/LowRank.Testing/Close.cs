using Xunit;

namespace LowRank.Testing;

/// <summary>Every tolerance of the tests, once: relative Frobenius error to float64 on the same rounded inputs (kernels.md, 8.4). NaN fails.</summary>
public static class Close
{
    /// <summary>Bound for an op that computes in <paramref name="type"/>.</summary>
    public static double Bound(DType type) => type switch
    {
        DType.F64 => 1e-12,
        DType.F32 => 2e-6,
        DType.BF16 => 5e-3,      // one rounding of the result and one of t or u in the chain
        DType.F16 => 6e-4,
        _ => 0,
    };

    /// <summary>Loss of a fine-tuning run on MiniLM in float32, absolute: 30 times its distance from float64 (golden/minilm).</summary>
    public const double MiniLmLoss = 1e-5;

    /// <summary>Bound for a directional difference of a float64 forward pass with step <see cref="Step"/>.</summary>
    public const double Difference = 1e-6;

    /// <summary>Half the width of a central difference.</summary>
    public const double Step = 1e-5;

    /// <summary>Bound for whole models and trajectories in float32 where a golden names none.</summary>
    public const double Model = 1e-4;

    /// <summary>Bound for logits and gradients of a whole model in bfloat16 against float32, or against another program that rounds at other places.</summary>
    public const double ModelBFloat16 = 5e-2;

    /// <summary>Bound for a mean over some thousand random draws.</summary>
    public const double Average = 0.05;

    /// <summary>Bound for a weight that a method can hold exactly and is trained towards: SLTrain's sheet asks for it.</summary>
    public const double Recovery = 1e-2;

    /// <summary>Bound for an accuracy on thousands of images: one whose two largest outputs are nearly equal may go either way with another instruction set.</summary>
    public const double Accuracy = 5e-4;

    /// <summary>Bound for bits a token over some thousands of them, absolute: a card gives three decimals.</summary>
    public const double Bits = 1e-3;

    /// <summary>Bound for one adapted layer in float32: norms, products and scales in a row.</summary>
    public const double Layer = 1e-5;

    /// <summary>Bound in float32 for two ways to the same numbers, where the sheets ask for more than <see cref="Layer"/>: a transform and its inverse, a distance
    /// and its sum spelled out, a layer before and after its dead components are gone.</summary>
    public const double Identity = 1e-6;

    /// <summary>Bound for float64 runs of whole models and trajectories against float64 goldens, the goldens' own figure.</summary>
    public const double Golden64 = 1e-9;

    /// <summary>Rounding of a float32 gradient as a share of the largest one of the step: what a gradient that is zero in exact arithmetic (an attention
    /// key's bias) comes out as.</summary>
    public const double GradientFloor = 1e-7;

    /// <summary>Bound for a matrix factorisation in <paramref name="type"/>: error of the product relative to ‖A‖, distance of a factor from orthonormal,
    /// error of a singular value or eigenvalue relative to the largest; some 100 ε, for matrices of up to a few hundred rows.</summary>
    public static double Factor(DType type) => type == DType.F64 ? 2e-14 : 1e-5;

    /// <summary>Bound for the residual of a linear system relative to ‖A‖·‖X‖.</summary>
    public static double Residual(DType type) => Factor(type);

    /// <summary>Bound for the leading singular values of a randomised decomposition relative to the largest, where values fall off by half each.</summary>
    public const double Randomized = 1e-5;

    /// <summary>Bound for what a randomised start leaves of a weight against the exact start, at eight power iterations.</summary>
    public const double RandomizedStart = 1e-3;

    /// <summary>Standard deviations within which a sample's moment must lie.</summary>
    public const double Deviations = 5;

    /// <summary>Bound for GaLore with factors of our own against a run with float32 factors of another library, the golden's own figure.</summary>
    public const double GaLoreFactors = 1e-4;

    /// <summary>The same for the losses of a run that the factors steer.</summary>
    public const double GaLoreLoss = 2e-2;

    /// <summary>Share of 8-bit codes that may lie one beside those of another program, which rounds a value near a middle otherwise (golden/galore).</summary>
    public const double CodesBeside = 0.002;

    /// <summary>Fails unless codes are equal but for <see cref="CodesBeside"/>.</summary>
    public static void CheckCodes(ReadOnlySpan<double> got, ReadOnlySpan<double> want, string what)
    {
        int beside = 0;
        double farthest = got.Length == want.Length ? 0 : double.PositiveInfinity;
        for (int i = 0; i < got.Length && double.IsFinite(farthest); i++)
        {
            beside += got[i] == want[i] ? 0 : 1;
            farthest = Math.Max(farthest, Math.Abs(got[i] - want[i]));
        }
        Assert.True(farthest <= 1 && beside <= CodesBeside * want.Length, $"{what}: {beside} of {want.Length} codes differ, by up to {farthest}");
    }

    /// <summary>Bound for a merged weight in float32 against another program's float32 sums, relative to the tensor's largest magnitude (golden/mergekit: 3e-7).</summary>
    public const double Merged = 1e-6;

    /// <summary>The same against sums in bfloat16 (golden/mergekit: 6e-3).</summary>
    public const double MergedBFloat16 = 1e-2;

    /// <summary>‖got − want‖ / ‖want‖, absolute where want is zero; NaN where either has one that the other has not.</summary>
    public static double Error(ReadOnlySpan<double> got, ReadOnlySpan<double> want)
    {
        if (got.Length != want.Length)
        {
            return double.NaN;
        }
        double difference = 0, norm = 0;
        for (int i = 0; i < got.Length; i++)
        {
            if (got[i].Equals(want[i]))
            {
                norm += double.IsFinite(want[i]) ? want[i] * want[i] : 0;
                continue;
            }
            difference += (got[i] - want[i]) * (got[i] - want[i]);
            norm += want[i] * want[i];
        }
        return Math.Sqrt(difference) / (norm > 0 ? Math.Sqrt(norm) : 1);
    }

    /// <summary>Fails unless the relative error is within the bound.</summary>
    public static void Check(ReadOnlySpan<double> got, ReadOnlySpan<double> want, double bound, string what)
    {
        double error = Error(got, want);
        Assert.True(error <= bound, $"{what}: relative error {error:E2}, want at most {bound:E1}; first values {Head(got)} against {Head(want)}");
    }

    /// <summary>Fails unless every element is within atol + rtol·max|want|, the goldens' rule.</summary>
    public static void CheckMax(ReadOnlySpan<double> got, ReadOnlySpan<double> want, double rtol, double atol, string what)
    {
        Assert.True(got.Length == want.Length, $"{what}: {got.Length} values, want {want.Length}");
        double scale = 0, worst = 0;
        int at = 0;
        for (int i = 0; i < want.Length; i++)
        {
            scale = Math.Max(scale, Math.Abs(want[i]));
        }
        for (int i = 0; i < want.Length; i++)
        {
            double difference = got[i].Equals(want[i]) ? 0 : Math.Abs(got[i] - want[i]);
            if (!(difference <= worst))
            {
                (worst, at) = (difference, i);
            }
        }
        Assert.True(worst <= atol + (rtol * scale), $"{what}: [{at}] differs by {worst:E2} (largest magnitude {scale:E2}), want at most {atol + (rtol * scale):E1}");
    }

    private static string Head(ReadOnlySpan<double> values) => string.Join(", ", values[..Math.Min(3, values.Length)].ToArray().Select(v => v.ToString("G6", null)));
}
