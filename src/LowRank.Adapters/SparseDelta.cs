using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>A weight delta [n,k] by its non-zero entries, row by row (CSR), in float32.</summary>
/// <param name="Shape">[n,k].</param>
/// <param name="RowStarts">[n + 1]: entries of row i are RowStarts[i] .. RowStarts[i + 1] - 1.</param>
/// <param name="Columns">Column of each entry, rising within a row.</param>
/// <param name="Values">The entries.</param>
public sealed record SparseDelta(Shape Shape, IReadOnlyList<long> RowStarts, IReadOnlyList<int> Columns, IReadOnlyList<float> Values)
{
    private const string Starts = ".row_starts", Indices = ".columns", Entries = ".values", Size = ".shape";

    /// <summary>The non-zero entries of a matrix.</summary>
    public static SparseDelta Of(Shape shape, ReadOnlySpan<double> values)
    {
        List<long> starts = [0];
        List<int> columns = [];
        List<float> entries = [];
        for (int i = 0; i < shape[0]; i++)
        {
            for (int j = 0; j < shape[1]; j++)
            {
                if (values[(i * shape[1]) + j] is var value && value != 0)
                {
                    columns.Add(j);
                    entries.Add((float)value);
                }
            }
            starts.Add(columns.Count);
        }
        return new SparseDelta(shape, starts, columns, entries);
    }

    /// <summary>The matrix, zeros included.</summary>
    public float[] ToDense()
    {
        var dense = new float[Shape.Count];
        for (int i = 0; i < Shape[0]; i++)
        {
            for (long at = RowStarts[i]; at < RowStarts[i + 1]; at++)
            {
                dense[((long)i * Shape[1]) + Columns[(int)at]] = Values[(int)at];
            }
        }
        return dense;
    }

    /// <summary>Writes deltas by module path as safetensors: <c>{path}.shape</c>, <c>.row_starts</c> (I64), <c>.columns</c> (I32) and <c>.values</c> (F32).</summary>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public static void Save(string file, IReadOnlyDictionary<string, SparseDelta> deltas) => SafeTensorsFile.Save(file, deltas.SelectMany(d => (TensorData[])
    [
        TensorData.Of(d.Key + Size, [2], (int[])[.. d.Value.Shape]),
        TensorData.Of(d.Key + Starts, [d.Value.RowStarts.Count], (long[])[.. d.Value.RowStarts]),
        TensorData.Of(d.Key + Indices, [d.Value.Columns.Count], (int[])[.. d.Value.Columns]),
        TensorData.Of(d.Key + Entries, [d.Value.Values.Count], (float[])[.. d.Value.Values]),
    ]));

    /// <summary>Reads what <see cref="Save"/> wrote.</summary>
    /// <exception cref="ModelFormatException">A part is missing, or the parts do not fit together: names the key.</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    public static IReadOnlyDictionary<string, SparseDelta> Load(string file)
    {
        using SafeTensorsFile source = SafeTensorsFile.Open(file);
        var deltas = new Dictionary<string, SparseDelta>(StringComparer.Ordinal);
        foreach (string path in source.Entries.Select(e => e.Name).Where(n => n.EndsWith(Size, StringComparison.Ordinal)).Select(n => n[..^Size.Length]))
        {
            if (((string[])[Starts, Indices, Entries]).FirstOrDefault(part => !source.Contains(path + part)) is { } missing)
            {
                throw Bad(path + missing, "is missing");
            }
            int[] shape = source.ReadInt32(path + Size), columns = source.ReadInt32(path + Indices);
            long[] starts = source.ReadInt64(path + Starts);
            float[] values = source.ReadSingle(path + Entries);
            if (shape is not [>= 0, >= 0] || starts.Length != shape[0] + 1L || starts[0] != 0 || starts[^1] != columns.Length || starts.Zip(starts.Skip(1), (a, b) => b < a).Any(wrong => wrong))
            {
                throw Bad(path + Starts, $"does not fit {columns.Length} entries of a matrix [{string.Join(", ", shape)}]");
            }
            if (values.Length != columns.Length || columns.Any(c => c < 0 || c >= shape[1]))
            {
                throw Bad(path + Indices, $"has columns outside of 0 .. {shape[1] - 1}, or not one for each of {values.Length} values");
            }
            deltas.Add(path, new SparseDelta([shape[0], shape[1]], starts, columns, values));
        }
        return deltas;

        ModelFormatException Bad(string key, string what) => new($"SparseDelta: {file}: {key} {what}") { File = file, Key = key };
    }
}
