using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>Vectors that chains of plane rotations turn: n of them, of some length, held in slices of a few elements of every vector, so that a chain
/// runs through memory that lies together, whatever the length.</summary>
internal sealed unsafe class Slices<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private static readonly int Width = 4 * Vector<T>.Count;
    private readonly Dense<T> data;

    /// <summary>The columns of <paramref name="columns"/> [length, n] as vectors.</summary>
    public Slices(Dense<T> columns)
    {
        (Vectors, Length) = (columns.Cols, columns.Rows);
        data = new Dense<T>((Length + Width - 1) / Width, Vectors * Width);
        Pool.For(data.Rows, slice =>
        {
            T* to = data.Row(slice);
            for (int w = 0; w < Filled(slice); w++)
            {
                T* from = columns.Row((slice * Width) + w);
                for (int r = 0; r < Vectors; r++)
                {
                    to[(r * Width) + w] = from[r];
                }
            }
        });
    }

    public int Vectors { get; }

    public int Length { get; }

    public int Count => data.Rows;

    public void Dispose() => data.Dispose();

    /// <summary>Writes chosen vectors, each times a factor, as columns of <paramref name="to"/> [length, chosen].</summary>
    public void ToColumns(int[] chosen, T[] factors, Dense<T> to) => Pool.For(Count, slice =>
    {
        for (int w = 0; w < Filled(slice); w++)
        {
            T* from = data.Row(slice) + w, row = to.Row((slice * Width) + w);
            for (int r = 0; r < chosen.Length; r++)
            {
                row[r] = factors[r] * from[chosen[r] * Width];
            }
        }
    });

    /// <summary>Writes chosen vectors, each times a factor, as rows of <paramref name="to"/> [chosen, length].</summary>
    public void ToRows(int[] chosen, T[] factors, Dense<T> to) => Pool.For(Count, slice =>
    {
        for (int r = 0; r < chosen.Length; r++)
        {
            T* from = data.Row(slice) + (chosen[r] * Width), row = to.Row(r) + (slice * Width);
            for (int w = 0; w < Filled(slice); w++)
            {
                row[w] = factors[r] * from[w];
            }
        }
    });

    /// <summary>The sign of every vector's component of largest magnitude, the first of equals; 1 for a zero vector.</summary>
    public T[] Signs()
    {
        var largest = new T[Vectors];
        for (int slice = 0; slice < Count; slice++)
        {
            for (int r = 0; r < Vectors; r++)
            {
                T* from = data.Row(slice) + (r * Width);
                T most = largest[r], magnitude = T.Abs(most);
                for (int w = 0; w < Filled(slice); w++)
                {
                    if (T.Abs(from[w]) > magnitude)
                    {
                        (most, magnitude) = (from[w], T.Abs(from[w]));
                    }
                }
                largest[r] = most;
            }
        }
        return [.. largest.Select(most => most < T.Zero ? -T.One : T.One)];
    }

    private int Filled(int slice) => Math.Min(Width, Length - (slice * Width));

    /// <summary>Applies chains to one slice. A rotation (c, s) of the pair (i, i+1): xᵢ ← c·xᵢ + s·xᵢ₊₁, xᵢ₊₁ ← c·xᵢ₊₁ - s·xᵢ.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public void Turn(int slice, ReadOnlySpan<Chain> chains, T* cosines, T* sines)
    {
        nint v = Vector<T>.Count, step = 4 * v;
        foreach (Chain chain in chains)
        {
            T* c = cosines + chain.At, s = sines + chain.At, low = data.Row(slice) + (chain.Start * step);
            if (chain.Forward)
            {
                Vector<T> x0 = Vector.Load(low), x1 = Vector.Load(low + v), x2 = Vector.Load(low + (2 * v)), x3 = Vector.Load(low + (3 * v));
                for (int j = 0; j < chain.Count; j++)
                {
                    Vector<T> cos = new(c[j]), sin = new(s[j]), minus = -sin;
                    T* next = low + step;
                    Vector<T> y0 = Vector.Load(next), y1 = Vector.Load(next + v), y2 = Vector.Load(next + (2 * v)), y3 = Vector.Load(next + (3 * v));
                    Vector.Store(Lanes.Fma(sin, y0, cos * x0), low);
                    Vector.Store(Lanes.Fma(sin, y1, cos * x1), low + v);
                    Vector.Store(Lanes.Fma(sin, y2, cos * x2), low + (2 * v));
                    Vector.Store(Lanes.Fma(sin, y3, cos * x3), low + (3 * v));
                    (x0, x1, x2, x3) = (Lanes.Fma(minus, x0, cos * y0), Lanes.Fma(minus, x1, cos * y1), Lanes.Fma(minus, x2, cos * y2), Lanes.Fma(minus, x3, cos * y3));
                    low = next;
                }
                Put(x0, x1, x2, x3, low);
                continue;
            }
            T* high = low + (chain.Count * step);
            Vector<T> z0 = Vector.Load(high), z1 = Vector.Load(high + v), z2 = Vector.Load(high + (2 * v)), z3 = Vector.Load(high + (3 * v));
            for (int j = chain.Count - 1; j >= 0; j--)
            {
                Vector<T> cos = new(c[j]), sin = new(s[j]), minus = -sin;
                T* next = high - step;
                Vector<T> y0 = Vector.Load(next), y1 = Vector.Load(next + v), y2 = Vector.Load(next + (2 * v)), y3 = Vector.Load(next + (3 * v));
                Vector.Store(Lanes.Fma(minus, y0, cos * z0), high);
                Vector.Store(Lanes.Fma(minus, y1, cos * z1), high + v);
                Vector.Store(Lanes.Fma(minus, y2, cos * z2), high + (2 * v));
                Vector.Store(Lanes.Fma(minus, y3, cos * z3), high + (3 * v));
                (z0, z1, z2, z3) = (Lanes.Fma(sin, z0, cos * y0), Lanes.Fma(sin, z1, cos * y1), Lanes.Fma(sin, z2, cos * y2), Lanes.Fma(sin, z3, cos * y3));
                high = next;
            }
            Put(z0, z1, z2, z3, high);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Put(Vector<T> x0, Vector<T> x1, Vector<T> x2, Vector<T> x3, T* to)
    {
        nint v = Vector<T>.Count;
        Vector.Store(x0, to);
        Vector.Store(x1, to + v);
        Vector.Store(x2, to + (2 * v));
        Vector.Store(x3, to + (3 * v));
    }
}

/// <summary>Rotations of the pairs (start, start+1) … (start+count-1, start+count), first to last or last to first; their numbers begin at <c>At</c>.</summary>
internal readonly record struct Chain(int Start, int Count, bool Forward, int At);

/// <summary>Chains that wait to be applied, many at a time, so that a slice is in the cache for all of them.</summary>
internal sealed unsafe class Rotations<T>(Slices<T> vectors) : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    private readonly List<Chain> chains = [];
    private readonly Dense<T> cosines = new(1, Math.Max(1 << 15, vectors.Vectors)), sines = new(1, Math.Max(1 << 15, vectors.Vectors));
    private int used;

    public Slices<T> Vectors => vectors;

    public void Dispose()
    {
        cosines.Dispose();
        sines.Dispose();
    }

    /// <summary>Opens a chain; its rotations are then set by <see cref="Set"/>.</summary>
    public void Begin(int start, int count, bool forward)
    {
        if (used + count > cosines.Cols)
        {
            Flush();
        }
        chains.Add(new(start, count, forward, used));
        used += count;
    }

    /// <summary>The rotation of the <paramref name="pair"/>-th pair of the open chain.</summary>
    public void Set(int pair, double cosine, double sine)
    {
        int at = chains[^1].At + pair;
        (cosines.Data[at], sines.Data[at]) = (T.CreateTruncating(cosine), T.CreateTruncating(sine));
    }

    /// <summary>Applies what waits.</summary>
    public void Flush()
    {
        if (chains.Count > 0)
        {
            Pool.For(vectors.Count, slice => vectors.Turn(slice, CollectionsMarshal.AsSpan(chains), cosines.Data, sines.Data));
        }
        chains.Clear();
        used = 0;
    }
}
