using System.Numerics;
using System.Runtime.CompilerServices;

namespace LowRank;

/// <summary>C [m,n] += α·A [m,k]·B [k,n] on strided matrices of float or double, the work horse of the blocked factorisations.
/// B is packed into strips of two vectors, A into panels of six rows, and a tile of C stays in registers over up to 256 steps.</summary>
internal static unsafe class Products
{
    private const int Rows = 6;             // of a tile: 12 accumulators, so that 16 registers do
    private const int Depth = 256;          // contraction steps a pass: a strip stays in L1
    private const int ChunkRows = 48;
    private const int ChunkCols = 128;
    private const long Serial = 1 << 17;    // multiply-adds below which a hand-over to other threads costs more than it gains

    public static void Add<T>(int m, int n, int k, T alpha, Strided<T> a, Strided<T> b, T* c, nint ldc) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        if (m <= 0 || n <= 0 || k <= 0)
        {
            return;
        }
        int width = 2 * Vector<T>.Count, strips = (n + width - 1) / width, perChunk = ChunkCols / width;
        int rowChunks = (m + ChunkRows - 1) / ChunkRows, colChunks = (strips + perChunk - 1) / perChunk;
        bool serial = (long)m * n * k < Serial;
        using var packed = new Dense<T>(strips, Math.Min(k, Depth) * width, clear: false);
        for (int k0 = 0; k0 < k; k0 += Depth)
        {
            int steps = Math.Min(Depth, k - k0), from = k0;
            Loop(colChunks, serial, chunk => PackStrips(b.From(from, 0), n, steps, chunk * perChunk, Math.Min(strips, (chunk + 1) * perChunk), packed));
            Loop(rowChunks * colChunks, serial, chunk => Chunk(
                m, n, steps, alpha, a.From(0, from), packed, c, ldc, chunk / colChunks * ChunkRows, chunk % colChunks * perChunk, Math.Min(strips, ((chunk % colChunks) + 1) * perChunk)));
        }
    }

    private static void Loop(int chunks, bool serial, Action<int> body)
    {
        if (!serial)
        {
            Pool.For(chunks, body);
            return;
        }
        for (int i = 0; i < chunks; i++)
        {
            body(i);
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackStrips<T>(Strided<T> b, int n, int steps, int first, int end, Dense<T> to) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int width = 2 * Vector<T>.Count;
        for (int strip = first; strip < end; strip++)
        {
            T* into = to.Row(strip);
            int col = strip * width, have = Math.Min(width, n - col);
            if (have < width)
            {
                new Span<T>(into, steps * width).Clear();
            }
            if (b.Col == 1 && have == width)
            {
                for (int s = 0; s < steps; s++)
                {
                    T* x = b.At(s, col), y = into + (s * width);
                    Vector.Store(Vector.Load(x), y);
                    Vector.Store(Vector.Load(x + Vector<T>.Count), y + Vector<T>.Count);
                }
                continue;
            }
            for (int j = 0; j < have; j++)
            {
                T* x = b.At(0, col + j);
                for (int s = 0; s < steps; s++)
                {
                    into[(s * width) + j] = x[s * b.Row];
                }
            }
        }
    }

    [SkipLocalsInit]
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Chunk<T>(int m, int n, int steps, T alpha, Strided<T> a, Dense<T> packed, T* c, nint ldc, int row, int firstStrip, int endStrip)
        where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int width = 2 * Vector<T>.Count, rows = Math.Min(ChunkRows, m - row);
        T* panels = stackalloc T[ChunkRows * Depth], edge = stackalloc T[Rows * 2 * Vector<T>.Count];
        PackPanels(a.From(row, 0), rows, steps, alpha, panels);
        for (int strip = firstStrip; strip < endStrip; strip++)
        {
            int col = strip * width, cols = Math.Min(width, n - col);
            T* b = packed.Row(strip);
            for (int r = 0; r < rows; r += Rows)
            {
                T* at = c + ((row + r) * ldc) + col;
                int height = Math.Min(Rows, rows - r);
                if (height == Rows && cols == width)
                {
                    Tile(steps, panels + (r * steps), b, at, ldc);
                    continue;
                }
                new Span<T>(edge, Rows * width).Clear();
                Tile(steps, panels + (r * steps), b, edge, width);
                for (int i = 0; i < height; i++)
                {
                    for (int j = 0; j < cols; j++)
                    {
                        at[(i * ldc) + j] += edge[(i * width) + j];
                    }
                }
            }
        }
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void PackPanels<T>(Strided<T> a, int rows, int steps, T alpha, T* to) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        for (int r = 0; r < rows; r += Rows)
        {
            T* panel = to + (r * steps);
            int height = Math.Min(Rows, rows - r);
            if (height == Rows)
            {
                T* x0 = a.At(r, 0), x1 = x0 + a.Row, x2 = x1 + a.Row, x3 = x2 + a.Row, x4 = x3 + a.Row, x5 = x4 + a.Row;
                for (nint s = 0, at = 0; s < steps; s++, at += a.Col, panel += Rows)
                {
                    panel[0] = alpha * x0[at];
                    panel[1] = alpha * x1[at];
                    panel[2] = alpha * x2[at];
                    panel[3] = alpha * x3[at];
                    panel[4] = alpha * x4[at];
                    panel[5] = alpha * x5[at];
                }
                continue;
            }
            for (int s = 0; s < steps; s++)
            {
                for (int i = 0; i < Rows; i++)
                {
                    panel[(s * Rows) + i] = i < height ? alpha * *a.At(r + i, s) : T.Zero;
                }
            }
        }
    }

    /// <summary>c [6, two vectors] += a [steps][6] · b [steps][two vectors].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Tile<T>(int steps, T* a, T* b, T* c, nint ldc) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        nint v = Vector<T>.Count;
        Vector<T> c00 = default, c01 = default, c10 = default, c11 = default, c20 = default, c21 = default;
        Vector<T> c30 = default, c31 = default, c40 = default, c41 = default, c50 = default, c51 = default;
        for (int s = 0; s < steps; s++, a += Rows, b += 2 * v)
        {
            Vector<T> b0 = Vector.Load(b), b1 = Vector.Load(b + v);
            Vector<T> x = new(a[0]);
            c00 = Lanes.Fma(x, b0, c00);
            c01 = Lanes.Fma(x, b1, c01);
            x = new(a[1]);
            c10 = Lanes.Fma(x, b0, c10);
            c11 = Lanes.Fma(x, b1, c11);
            x = new(a[2]);
            c20 = Lanes.Fma(x, b0, c20);
            c21 = Lanes.Fma(x, b1, c21);
            x = new(a[3]);
            c30 = Lanes.Fma(x, b0, c30);
            c31 = Lanes.Fma(x, b1, c31);
            x = new(a[4]);
            c40 = Lanes.Fma(x, b0, c40);
            c41 = Lanes.Fma(x, b1, c41);
            x = new(a[5]);
            c50 = Lanes.Fma(x, b0, c50);
            c51 = Lanes.Fma(x, b1, c51);
        }
        Join(c00, c01, c);
        Join(c10, c11, c + ldc);
        Join(c20, c21, c + (2 * ldc));
        Join(c30, c31, c + (3 * ldc));
        Join(c40, c41, c + (4 * ldc));
        Join(c50, c51, c + (5 * ldc));
    }

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static void Join<T>(Vector<T> left, Vector<T> right, T* c) where T : unmanaged
    {
        Vector.Store(Vector.Load(c) + left, c);
        Vector.Store(Vector.Load(c + Vector<T>.Count) + right, c + Vector<T>.Count);
    }
}
