namespace LowRank;

/// <summary>What a signal x_0 .. x_{N-1} is taken to be outside of its samples; names and meaning are PyWavelets'.</summary>
public enum WaveletMode
{
    /// <summary>0.</summary>
    Zero,
    /// <summary>The sample at the border.</summary>
    Constant,
    /// <summary>Mirrored between samples: x_{-1} = x_0, x_{-2} = x_1.</summary>
    Symmetric,
    /// <summary>Mirrored at the border's sample: x_{-1} = x_1.</summary>
    Reflect,
    /// <summary>Repeated: x_{-1} = x_{N-1}.</summary>
    Periodic,
    /// <summary>The line through the two samples at the border.</summary>
    Smooth,
    /// <summary>As <see cref="Symmetric"/> with the sign changed at every mirror: x_{-1} = -x_0.</summary>
    Antisymmetric,
    /// <summary>Mirrored through the border's sample: x_{-1} = 2x_0 - x_1.</summary>
    Antireflect,
    /// <summary>Repeated, with as few coefficients as can be: ⌈N/2⌉ a band. An odd signal has its last sample twice.</summary>
    Periodization,
}

/// <summary>Samples outside of a signal as sums of those inside.</summary>
internal static class WaveletExtension
{
    /// <summary>x[at] = Σ factor·x[index], for any at and a signal of <paramref name="count"/> samples.</summary>
    public static IEnumerable<(int Index, double Factor)> Of(WaveletMode mode, int at, int count)
    {
        if (at >= 0 && at < count)
        {
            return [(at, 1)];
        }
        int edge = at < 0 ? 0 : count - 1;
        switch (mode)
        {
            case WaveletMode.Zero:
                return [];
            case WaveletMode.Periodic:
                return [(Mod(at, count), 1)];
            case WaveletMode.Symmetric or WaveletMode.Antisymmetric:
                int place = Mod(at, 2 * count);
                return [(place < count ? place : (2 * count) - 1 - place, mode == WaveletMode.Antisymmetric && place >= count ? -1 : 1)];
            case WaveletMode.Constant:
                return [(edge, 1)];
            case WaveletMode.Reflect or WaveletMode.Smooth or WaveletMode.Antireflect when count == 1:
                return [(0, 1)];
            case WaveletMode.Reflect:
                place = Mod(at, (2 * count) - 2);
                return [(Math.Min(place, (2 * count) - 2 - place), 1)];
            case WaveletMode.Smooth:
                int steps = Math.Abs(at - edge), inner = edge == 0 ? 1 : count - 2;
                return [(edge, steps + 1), (inner, -steps)];
            case WaveletMode.Antireflect:
                int period = (2 * count) - 2, turns = (at - Mod(at, period)) / period;
                place = Mod(at, period);
                (int, double)[] drift = [(count - 1, 2 * turns), (0, -2 * turns)];
                return place < count ? [(place, 1), .. drift] : [(count - 1, 2), (period - place, -1), .. drift];
            default:
                throw new ArgumentOutOfRangeException(nameof(mode), mode, "not a mode that extends a signal");
        }
    }

    /// <summary>The remainder from 0 on.</summary>
    public static int Mod(int value, int period) => ((value % period) + period) % period;
}
