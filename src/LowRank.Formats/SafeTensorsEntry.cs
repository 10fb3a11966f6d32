namespace LowRank.Formats;

/// <summary>What a header says of one tensor.</summary>
/// <param name="Name">Its key.</param>
/// <param name="Type">Element type on disk.</param>
/// <param name="Dimensions">Sizes, outermost first; empty for a scalar.</param>
/// <param name="Offset">First byte, from the start of the data behind the header.</param>
/// <param name="Length">Size in bytes.</param>
public sealed record SafeTensorsEntry(string Name, SafeTensorsType Type, IReadOnlyList<long> Dimensions, long Offset, long Length)
{
    /// <summary>Number of elements.</summary>
    public long Count
    {
        get
        {
            long count = 1;
            for (int i = 0; i < Dimensions.Count; i++)
            {
                count *= Dimensions[i];      // the reader has refused what overflows
            }
            return count;
        }
    }

    /// <summary>The dimensions as the engine's shape.</summary>
    /// <exception cref="ModelFormatException">More than six dimensions, or one above 2,147,483,647.</exception>
    public Shape Shape
    {
        get
        {
            if (Dimensions.Count > Shape.MaxRank || Dimensions.Any(d => d > int.MaxValue))
            {
                throw new ModelFormatException($"SafeTensorsFile: tensor {ModelFormatException.Quote(Name)} is {this}, want at most {Shape.MaxRank} dimensions of at most {int.MaxValue} to compute with") { Key = Name };
            }
            return Shape.Of([.. Dimensions.Select(d => (int)d)]);
        }
    }

    /// <summary>Type and sizes: <c>F32[2, 3]</c>.</summary>
    public override string ToString() => $"{Type.Name()}[{string.Join(", ", Dimensions.Take(16))}{(Dimensions.Count > 16 ? ", ..." : "")}]";
}
