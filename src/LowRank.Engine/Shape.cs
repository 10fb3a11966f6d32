using System.Collections;
using System.Runtime.CompilerServices;

namespace LowRank;

/// <summary>Dimensions of a dense row-major tensor, outermost first: <c>[rows, cols]</c>. At most six; none makes a scalar.</summary>
[CollectionBuilder(typeof(Shape), nameof(Of))]
public readonly struct Shape : IEquatable<Shape>, IEnumerable<int>
{
    /// <summary>The largest number of dimensions.</summary>
    public const int MaxRank = 6;
    private readonly Dimensions dims;

    private Shape(ReadOnlySpan<int> sizes)
    {
        if (sizes.Length > MaxRank)
        {
            throw new ShapeException($"Shape: [{string.Join(", ", sizes.ToArray())}] has {sizes.Length} dimensions, want at most {MaxRank}");
        }
        Rank = sizes.Length;
        long count = 1;
        for (int i = 0; i < sizes.Length; i++)
        {
            if (sizes[i] < 0)
            {
                throw new ShapeException($"Shape: dimension {i} is {sizes[i]}, want 0 or more");
            }
            dims[i] = sizes[i];
            count = checked(count * sizes[i]);
        }
        Count = count;
    }

    /// <summary>Builds a shape; also behind the collection expression <c>[2, 3]</c>.</summary>
    /// <exception cref="ShapeException">A dimension is negative or there are more than six.</exception>
    public static Shape Of(params ReadOnlySpan<int> sizes) => new(sizes);

    /// <summary>Number of dimensions.</summary>
    public int Rank { get; }

    /// <summary>Number of elements: the product of the dimensions.</summary>
    public long Count { get; }

    /// <summary>The <paramref name="i"/>-th dimension; a negative index counts from the end.</summary>
    public int this[int i] => dims[Index(i)];

    /// <summary>The last dimension, 1 for a scalar.</summary>
    public int Cols => Rank == 0 ? 1 : dims[Rank - 1];

    /// <summary>Product of all dimensions but the last: a tensor of any rank seen as a matrix of rows.</summary>
    public int Rows => Cols == 0 ? dims[0] : checked((int)(Count / Cols));

    /// <summary>This shape with the last dimension replaced.</summary>
    public Shape WithCols(int cols)
    {
        Span<int> sizes = stackalloc int[Math.Max(Rank, 1)];
        CopyTo(sizes);
        sizes[^1] = cols;
        return new(sizes);
    }

    /// <summary>Writes the dimensions to <paramref name="sizes"/>.</summary>
    public void CopyTo(Span<int> sizes)
    {
        for (int i = 0; i < Rank; i++)
        {
            sizes[i] = dims[i];
        }
    }

    /// <inheritdoc/>
    public bool Equals(Shape other)
    {
        if (Rank != other.Rank)
        {
            return false;
        }
        for (int i = 0; i < Rank; i++)
        {
            if (dims[i] != other.dims[i])
            {
                return false;
            }
        }
        return true;
    }

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is Shape other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(Rank, dims[0], dims[1], dims[2], Count);

    public static bool operator ==(Shape left, Shape right) => left.Equals(right);

    public static bool operator !=(Shape left, Shape right) => !left.Equals(right);

    /// <summary>The dimensions in brackets: <c>[2, 3]</c>.</summary>
    public override string ToString() => "[" + string.Join(", ", this) + "]";

    /// <inheritdoc/>
    public IEnumerator<int> GetEnumerator()
    {
        for (int i = 0; i < Rank; i++)
        {
            yield return dims[i];
        }
    }

    IEnumerator IEnumerable.GetEnumerator() => GetEnumerator();

    private int Index(int i)
    {
        int at = i < 0 ? Rank + i : i;
        return (uint)at < (uint)Rank ? at : throw new ArgumentOutOfRangeException(nameof(i), i, $"shape {this} has {Rank} dimensions");
    }

    [InlineArray(MaxRank)]
    private struct Dimensions
    {
        private int first;
    }
}
