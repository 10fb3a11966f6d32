using System.Numerics;
using System.Runtime.CompilerServices;

namespace LowRank;

/// <summary>Vector loops of float or double over memory: one formula for both types.</summary>
internal static unsafe class Lanes
{
    /// <summary>a·b + c, fused where the processor can.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Vector<T> Fma<T>(Vector<T> a, Vector<T> b, Vector<T> c) where T : unmanaged => typeof(T) == typeof(float)
        ? Vector.As<float, T>(Vector.MultiplyAddEstimate(Vector.AsVectorSingle(a), Vector.AsVectorSingle(b), Vector.AsVectorSingle(c)))
        : Vector.As<double, T>(Vector.MultiplyAddEstimate(Vector.AsVectorDouble(a), Vector.AsVectorDouble(b), Vector.AsVectorDouble(c)));

    /// <summary>Σ x[i]·y[i].</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static T Dot<T>(T* x, T* y, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        nint v = Vector<T>.Count, i = 0;
        Vector<T> s0 = default, s1 = default, s2 = default, s3 = default;
        for (; i <= count - (4 * v); i += 4 * v)
        {
            s0 = Fma(Vector.Load(x + i), Vector.Load(y + i), s0);
            s1 = Fma(Vector.Load(x + i + v), Vector.Load(y + i + v), s1);
            s2 = Fma(Vector.Load(x + i + (2 * v)), Vector.Load(y + i + (2 * v)), s2);
            s3 = Fma(Vector.Load(x + i + (3 * v)), Vector.Load(y + i + (3 * v)), s3);
        }
        for (; i <= count - v; i += v)
        {
            s0 = Fma(Vector.Load(x + i), Vector.Load(y + i), s0);
        }
        T sum = Vector.Sum((s0 + s1) + (s2 + s3));
        for (; i < count; i++)
        {
            sum += x[i] * y[i];
        }
        return sum;
    }

    /// <summary>y += a·x.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void Axpy<T>(T a, T* x, T* y, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        nint v = Vector<T>.Count, i = 0;
        var va = new Vector<T>(a);
        for (; i <= count - (2 * v); i += 2 * v)
        {
            Vector<T> y0 = Fma(va, Vector.Load(x + i), Vector.Load(y + i)), y1 = Fma(va, Vector.Load(x + i + v), Vector.Load(y + i + v));
            Vector.Store(y0, y + i);
            Vector.Store(y1, y + i + v);
        }
        for (; i < count; i++)
        {
            y[i] += a * x[i];
        }
    }

    /// <summary>x *= a.</summary>
    public static void Scale<T>(T a, T* x, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        nint i = 0;
        for (; i <= count - Vector<T>.Count; i += Vector<T>.Count)
        {
            Vector.Store(Vector.Load(x + i) * a, x + i);
        }
        for (; i < count; i++)
        {
            x[i] *= a;
        }
    }

    /// <summary>y[r] = Σ_c a[r,c]·x[c] for rows of <paramref name="a"/> that lie <paramref name="stride"/> apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void RowDots<T>(T* a, nint stride, int rows, T* x, nint cols, T* y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int r = 0;
        nint v = Vector<T>.Count;
        for (; r <= rows - 4; r += 4)
        {
            T* a0 = a + (r * stride), a1 = a0 + stride, a2 = a1 + stride, a3 = a2 + stride;
            Vector<T> s0 = default, s1 = default, s2 = default, s3 = default, t0 = default, t1 = default, t2 = default, t3 = default;
            nint c = 0;
            for (; c <= cols - (2 * v); c += 2 * v)
            {
                Vector<T> x0 = Vector.Load(x + c), x1 = Vector.Load(x + c + v);
                s0 = Fma(Vector.Load(a0 + c), x0, s0);
                s1 = Fma(Vector.Load(a1 + c), x0, s1);
                s2 = Fma(Vector.Load(a2 + c), x0, s2);
                s3 = Fma(Vector.Load(a3 + c), x0, s3);
                t0 = Fma(Vector.Load(a0 + c + v), x1, t0);
                t1 = Fma(Vector.Load(a1 + c + v), x1, t1);
                t2 = Fma(Vector.Load(a2 + c + v), x1, t2);
                t3 = Fma(Vector.Load(a3 + c + v), x1, t3);
            }
            T y0 = Vector.Sum(s0 + t0), y1 = Vector.Sum(s1 + t1), y2 = Vector.Sum(s2 + t2), y3 = Vector.Sum(s3 + t3);
            for (; c < cols; c++)
            {
                y0 += a0[c] * x[c];
                y1 += a1[c] * x[c];
                y2 += a2[c] * x[c];
                y3 += a3[c] * x[c];
            }
            (y[r], y[r + 1], y[r + 2], y[r + 3]) = (y0, y1, y2, y3);
        }
        for (; r < rows; r++)
        {
            y[r] = Dot(a + (r * stride), x, cols);
        }
    }

    /// <summary>y += Σ_r f[r]·a[r,:] over rows that lie <paramref name="stride"/> apart.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static void RowSums<T>(T* a, nint stride, int rows, T* f, nint cols, T* y) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        int r = 0;
        nint v = Vector<T>.Count;
        for (; r <= rows - 4; r += 4)
        {
            T* a0 = a + (r * stride), a1 = a0 + stride, a2 = a1 + stride, a3 = a2 + stride;
            T f0 = f[r], f1 = f[r + 1], f2 = f[r + 2], f3 = f[r + 3];
            Vector<T> v0 = new(f0), v1 = new(f1), v2 = new(f2), v3 = new(f3);
            nint c = 0;
            for (; c <= cols - (2 * v); c += 2 * v)
            {
                Vector<T> y0 = Fma(v0, Vector.Load(a0 + c), Vector.Load(y + c)), y1 = Fma(v0, Vector.Load(a0 + c + v), Vector.Load(y + c + v));
                y0 = Fma(v1, Vector.Load(a1 + c), y0);
                y1 = Fma(v1, Vector.Load(a1 + c + v), y1);
                y0 = Fma(v2, Vector.Load(a2 + c), y0);
                y1 = Fma(v2, Vector.Load(a2 + c + v), y1);
                y0 = Fma(v3, Vector.Load(a3 + c), y0);
                y1 = Fma(v3, Vector.Load(a3 + c + v), y1);
                Vector.Store(y0, y + c);
                Vector.Store(y1, y + c + v);
            }
            for (; c < cols; c++)
            {
                y[c] += (f0 * a0[c]) + (f1 * a1[c]) + (f2 * a2[c]) + (f3 * a3[c]);
            }
        }
        for (; r < rows; r++)
        {
            Axpy(f[r], a + (r * stride), y, cols);
        }
    }

    /// <summary>‖x‖₂ whatever the magnitudes.</summary>
    public static T Norm<T>(T* x, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        T sum = Dot(x, x, count), least = typeof(T) == typeof(float) ? T.CreateChecked(1e-20) : T.CreateChecked(1e-200);
        if (sum > least && T.IsFinite(sum))
        {
            return T.Sqrt(sum);
        }
        T largest = Largest(x, count);
        if (largest == T.Zero)
        {
            return T.Zero;
        }
        sum = T.Zero;
        for (nint i = 0; i < count; i++)
        {
            T ratio = x[i] / largest;
            sum += ratio * ratio;
        }
        return largest * T.Sqrt(sum);
    }

    /// <summary>max |x[i]| of finite values; 0 for none.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static T Largest<T>(T* x, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Vector<T> most = default;
        nint i = 0;
        for (; i <= count - Vector<T>.Count; i += Vector<T>.Count)
        {
            most = Vector.Max(most, Vector.Abs(Vector.Load(x + i)));
        }
        T largest = T.Zero;
        for (int lane = 0; lane < Vector<T>.Count; lane++)
        {
            largest = T.Max(largest, most[lane]);
        }
        for (; i < count; i++)
        {
            largest = T.Max(largest, T.Abs(x[i]));
        }
        return largest;
    }

    /// <summary>False where a value is NaN or infinite: 0·x is 0 for every other.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    public static bool AreFinite<T>(T* x, nint count) where T : unmanaged, IBinaryFloatingPointIeee754<T>
    {
        Vector<T> sum = default;
        nint i = 0;
        for (; i <= count - Vector<T>.Count; i += Vector<T>.Count)
        {
            sum += Vector.Load(x + i) * default(Vector<T>);
        }
        T rest = Vector.Sum(sum);
        for (; i < count; i++)
        {
            rest += x[i] * T.Zero;
        }
        return rest == T.Zero;
    }
}
