using System.Numerics;
using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>A row-major matrix of the workspace, in host memory aligned for vectors; its rows lie <see cref="Cols"/> elements apart.</summary>
internal sealed unsafe class Dense<T> : IDisposable where T : unmanaged, IBinaryFloatingPointIeee754<T>
{
    /// <summary>Zeros, or what was there before where every element is written anyway.</summary>
    public Dense(int rows, int cols, bool clear = true)
    {
        (Rows, Cols) = (rows, cols);
        nuint bytes = (nuint)Math.Max(1, (long)rows * cols) * (nuint)sizeof(T);
        Data = (T*)NativeMemory.AlignedAlloc(bytes, 64);
        if (clear)
        {
            NativeMemory.Clear(Data, bytes);
        }
    }

    public int Rows { get; }

    public int Cols { get; }

    public T* Data { get; private set; }

    public Strided<T> View => new(Data, Cols, 1);

    public Span<T> Span => new(Data, checked(Rows * Cols));

    public T* Row(int row) => Data + ((nint)row * Cols);

    public void Dispose()
    {
        NativeMemory.AlignedFree(Data);
        Data = null;
    }

    /// <summary>The values of a tensor.</summary>
    /// <exception cref="ShapeException">It is not a row-major matrix of T.</exception>
    /// <exception cref="NumericException">A value is NaN or infinite.</exception>
    public static Dense<T> Of(string type, string operand, Tensor x)
    {
        var dense = new Dense<T>(x.Shape[0], x.Shape[1], clear: false);
        x.Device.Download(x.Data, MemoryMarshal.AsBytes(dense.Span));
        return dense.Checked(type, operand);
    }

    /// <inheritdoc cref="Of(string, string, Tensor)"/>
    public static Dense<T> Of(string type, string operand, MatrixView<T> x)
    {
        var dense = new Dense<T>(x.Rows, x.Cols, clear: false);
        x.Data.CopyTo(dense.Span);
        return dense.Checked(type, operand);
    }

    /// <summary>A tensor of these values.</summary>
    public Tensor ToTensor(Scope scope) => scope.OfRaw([Rows, Cols], Operand.TypeOf<T>(), MemoryMarshal.AsBytes(Span));

    public Dense<T> Transposed()
    {
        var turned = new Dense<T>(Cols, Rows, clear: false);
        for (int i0 = 0; i0 < Rows; i0 += 16)
        {
            for (int j = 0; j < Cols; j++)
            {
                for (int i = i0; i < Math.Min(i0 + 16, Rows); i++)
                {
                    turned.Row(j)[i] = Row(i)[j];
                }
            }
        }
        return turned;
    }

    /// <summary>Scales by the power of two that brings the largest magnitude to [1, 2), so that squares neither overflow nor vanish;
    /// returns its inverse, 1 for a matrix of zeros.</summary>
    public T Normalize()
    {
        T largest = Lanes.Largest(Data, Span.Length);
        if (largest == T.Zero)
        {
            return T.One;
        }
        int exponent = Math.Clamp(T.ILogB(largest), -Operand.LargestExponent<T>(), Operand.LargestExponent<T>());
        T factor = T.ScaleB(T.One, -exponent);
        Lanes.Scale(factor, Data, Span.Length);
        return T.ScaleB(T.One, exponent);
    }

    private Dense<T> Checked(string type, string operand)
    {
        Span<T> all = Span;
        for (int i = Lanes.AreFinite(Data, all.Length) ? all.Length : 0; i < all.Length; i++)
        {
            if (!T.IsFinite(all[i]))
            {
                T found = all[i];
                Dispose();
                throw new NumericException($"{type}: {operand} holds {(T.IsNaN(found) ? "NaN" : "infinity")} at [{i / Cols}, {i % Cols}], want finite values");
            }
        }
        return this;
    }
}

/// <summary>A matrix in memory: element (i, j) at Data[i·Row + j·Col].</summary>
internal readonly unsafe struct Strided<T>(T* data, nint row, nint col) where T : unmanaged
{
    public T* Data => data;

    public nint Row => row;

    public nint Col => col;

    public Strided<T> Transposed => new(data, col, row);

    public T* At(nint i, nint j) => data + (i * row) + (j * col);

    public Strided<T> From(nint i, nint j) => new(At(i, j), row, col);
}

/// <summary>Checks at the public door of linear algebra.</summary>
internal static class Operand
{
    public static DType TypeOf<T>() => typeof(T) == typeof(float) ? DType.F32 : DType.F64;

    /// <summary>Half the exponent range: factors of up to this power of two and their inverses are normal numbers.</summary>
    public static int LargestExponent<T>() => typeof(T) == typeof(float) ? 126 : 1022;

    /// <exception cref="ShapeException">Not a row-major matrix of F32 or F64.</exception>
    public static void RequireMatrix(string type, string operand, Tensor x)
    {
        if (x.Shape.Rank != 2 || x.DType is not (DType.F32 or DType.F64) || x.IsPacked)
        {
            throw new ShapeException($"{type}: {operand} is {x}{(x.IsPacked ? ", packed" : "")}, want a row-major matrix of F32 or F64");
        }
    }

    /// <exception cref="ShapeException">Not square.</exception>
    public static void RequireSquare(string type, string operand, Tensor x)
    {
        RequireMatrix(type, operand, x);
        if (x.Shape[0] != x.Shape[1])
        {
            throw new ShapeException($"{type}: {operand} is {x}, want a square matrix");
        }
    }

    /// <exception cref="ShapeException">Other rows or another type than the system's.</exception>
    public static void RequireRightSide(string type, Tensor b, Tensor system)
    {
        if (b.Shape.Rank != 2 || b.Shape[0] != system.Shape[0] || b.DType != system.DType || b.IsPacked)
        {
            throw new ShapeException($"{type}: b is {b}, want {system.DType}[{system.Shape[0]}, any]");
        }
    }

    /// <exception cref="ShapeException">T is neither float nor double.</exception>
    public static void RequireType<T>(string type)
    {
        if (typeof(T) != typeof(float) && typeof(T) != typeof(double))
        {
            throw new ShapeException($"{type}: elements are {typeof(T).Name}, want Single or Double");
        }
    }

    /// <exception cref="ShapeException">Another shape.</exception>
    public static void Require<T>(string type, string operand, MatrixView<T> x, int rows, int cols)
    {
        if (x.Rows != rows || x.Cols != cols)
        {
            throw new ShapeException($"{type}: {operand} is [{x.Rows}, {x.Cols}], want [{rows}, {cols}]");
        }
    }
}
