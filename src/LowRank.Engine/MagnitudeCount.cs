using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>One pass over the magnitudes |v| of K models, tensor by tensor: how many have which bits.</summary>
public sealed class MagnitudeCount
{
    private const int Digit = 11;
    private readonly Tensor counts;
    private readonly ulong[] found;
    private readonly DType type;
    private readonly int shift, width;
    private readonly long origin, span;

    private MagnitudeCount(Scope scope, DType type, ulong[] found, int shift, int width, long origin = 0, long span = 0)
    {
        (this.type, this.found, this.shift, this.width, this.origin, this.span) = (type, found, shift, width, origin, span);
        counts = scope.OfRaw([found.Length * MergeCountArgs.Bins], DType.I64, new byte[found.Length * MergeCountArgs.Bins * sizeof(long)]);
    }

    /// <summary>The magnitude of a rank, counted from 0 in ascending order, for each of K models over all tensors that <paramref name="pass"/> adds, and
    /// which of the entries that are equal to it has that rank, of how many. Exact: a radix select by 11 bits a pass.</summary>
    /// <param name="device">Of the tensors.</param>
    /// <param name="type">F32, or F64: what magnitudes are compared as.</param>
    /// <param name="ranks">Below the number of entries, one a model.</param>
    /// <param name="pass">Adds every tensor once; called three times, of F64 six times.</param>
    public static (double Value, long Rank, long Equal)[] OfRank(Device device, DType type, IReadOnlyList<long> ranks, Action<MagnitudeCount> pass)
    {
        var found = new ulong[ranks.Count];
        var equal = new long[ranks.Count];
        long[] left = [.. ranks];
        for (int shift = type == DType.F64 ? 63 : 31; shift > 0;)
        {
            int width = Math.Min(Digit, shift);
            shift -= width;
            using Scope scope = device.BeginScope();
            var count = new MagnitudeCount(scope, type, found, shift, width);
            pass(count);
            ReadOnlySpan<long> read = count.Read();
            for (int t = 0; t < found.Length; t++)
            {
                (long bin, equal[t]) = Find(read.Slice(t * MergeCountArgs.Bins, MergeCountArgs.Bins), ref left[t]);
                found[t] = (found[t] << width) | (ulong)bin;
            }
        }
        return [.. found.Select((bits, t) => (type == DType.F64 ? BitConverter.UInt64BitsToDouble(bits) : BitConverter.UInt32BitsToSingle((uint)bits), left[t], equal[t]))];
    }

    /// <summary>Index of the entry that is number <paramref name="number"/>, from 0, of those of a tensor whose magnitude is <paramref name="value"/>.</summary>
    internal static long PlaceOf(Tensor? start, MergeTerm term, DType type, double value, long number)
    {
        ulong bits = type == DType.F64 ? BitConverter.DoubleToUInt64Bits(value) : BitConverter.SingleToUInt32Bits((float)value);
        long origin = 0;
        for (long size = term.Model.Shape.Count; ;)
        {
            long span = (size + MergeCountArgs.Bins - 1) / MergeCountArgs.Bins;
            using Scope scope = term.Model.Device.BeginScope();
            var count = new MagnitudeCount(scope, type, [bits], 0, 0, origin, span);
            count.Add(start, [term]);
            origin += Find(count.Read(), ref number).Bin * span;
            if (span == 1)
            {
                return origin;
            }
            size = span;
        }
    }

    /// <summary>Counts the entries of a tensor.</summary>
    public void Add(Tensor? start, IReadOnlyList<MergeTerm> terms)
    {
        using Scope scope = counts.Device.BeginScope();
        counts.Device.Launch(Kernels.MergeCount, new MergeCountArgs
        {
            Inputs = TensorMerge.Table(scope, terms, found),
            Start = start?.Data ?? 0,
            Counts = counts.Data,
            Count = terms[0].Model.Shape.Count,
            Origin = origin,
            Span = span,
            InputCount = terms.Count,
            Shift = shift,
            Width = width,
            StartType = start?.DType ?? type,
            DType = type,
        });
    }

    private static (long Bin, long Equal) Find(ReadOnlySpan<long> counts, ref long rank)
    {
        int bin = 0;
        while (rank >= counts[bin])
        {
            rank -= counts[bin++];
        }
        return (bin, counts[bin]);
    }

    private ReadOnlySpan<long> Read() => MemoryMarshal.Cast<byte, long>(counts.ToBytes());
}
