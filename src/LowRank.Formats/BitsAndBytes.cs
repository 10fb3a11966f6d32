using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json;

namespace LowRank.Formats;

/// <summary>Quantised weights as bitsandbytes keeps them in a state dict. Linear4bit: <c>weight</c> (U8 codes), <c>weight.absmax</c>,
/// <c>weight.quant_map</c>, <c>weight.quant_state.bitsandbytes__nf4</c> (JSON) and, with double quantisation, <c>weight.nested_absmax</c> and
/// <c>weight.nested_quant_map</c>. Linear8bitLt: <c>weight</c> (I8), <c>SCB</c>, <c>weight_format</c>.</summary>
public static class BitsAndBytes
{
    private const string AbsMax = ".absmax", QuantMap = ".quant_map", NestedAbsMax = ".nested_absmax", NestedMap = ".nested_quant_map", State = ".quant_state.bitsandbytes__";
    private const string Format = "_format", RowScales = "SCB";
    private static readonly (Quantization Kind, string Name)[] Kinds = [(Quantization.NF4, "nf4"), (Quantization.FP4, "fp4")];
    private static readonly (DType Type, string Name)[] Types = [(DType.F32, "float32"), (DType.BF16, "bfloat16"), (DType.F16, "float16")];

    /// <summary>True where the source has a quantised weight of that name.</summary>
    public static bool Contains(TensorSource source, string name) =>
        source.Contains(name) && (StateKey(source, name) is not null || (source[name].Type == SafeTensorsType.I8 && source.Contains(ScalesKey(name))));

    /// <summary>Reads the weight of that name, for example <c>model.layers.0.self_attn.q_proj.weight</c>.</summary>
    /// <exception cref="ModelFormatException">A part is missing, of another type or length, or the JSON names a type, block size or shape that do not fit;
    /// the message names the part.</exception>
    public static QuantizedMatrix Read(TensorSource source, string name)
    {
        try
        {
            return StateKey(source, name) is { } key ? ReadFourBit(source, name, key) : ReadInt8(source, name);
        }
        catch (ShapeException error)
        {
            throw Bad(source, name, error.Message, error);
        }
    }

    /// <summary>What bitsandbytes would store for a weight of that name, which ends in <c>weight</c>.</summary>
    public static IEnumerable<TensorData> Write(string name, QuantizedMatrix matrix)
    {
        byte[] codes = matrix.Codes.ToArray();
        if (matrix.Kind == Quantization.Int8Rows)
        {
            return
            [
                TensorData.Of(name, SafeTensorsType.I8, [matrix.Shape[0], matrix.Shape[1]], codes),
                TensorData.Of(ScalesKey(name), [matrix.Shape[0]], matrix.Scales),
                TensorData.Of(name + Format, Shape.Of([]), new byte[1]),
            ];
        }
        byte[] state = JsonOf(matrix);
        List<TensorData> parts =
        [
            TensorData.Of(name, [codes.Length, 1], codes),
            TensorData.Of(name + QuantMap, [matrix.Map.Length], matrix.Map.ToArray()),
            TensorData.Of(name + State + NameOf(matrix.Kind), [state.Length], state),
        ];
        if (matrix.Nested is { } nested)
        {
            parts.Add(TensorData.Of(name + AbsMax, [nested.Codes.Length], nested.Codes));
            parts.Add(TensorData.Of(name + NestedAbsMax, [nested.Scales.Length], nested.Scales));
            parts.Add(TensorData.Of(name + NestedMap, [nested.Map.Length], nested.Map));
        }
        else
        {
            parts.Add(TensorData.Of(name + AbsMax, [matrix.Scales.Length], matrix.Scales));
        }
        return parts;
    }

    private static QuantizedMatrix ReadInt8(TensorSource source, string name)
    {
        byte[] codes = Bytes(source, name, SafeTensorsType.I8);
        if (source.TryGet(name + Format, out SafeTensorsEntry? format) && (format!.Type != SafeTensorsType.U8 || format.Count != 1 || source.Bytes(format.Name)[0] != 0))
        {
            throw Bad(source, format.Name, $"the weight's format is {(format.Length > 0 ? $"{source.Bytes(format.Name)[0]}" : $"{format}")}, want 0, which is row by row");
        }
        return QuantizedMatrix.Of(Quantization.Int8Rows, source[name].Shape, codes, Floats(source, ScalesKey(name)));
    }

    private static QuantizedMatrix ReadFourBit(TensorSource source, string name, string key)
    {
        (Quantization kind, Shape shape, int block, DType type, (int Block, float Offset)? outer) = ReadState(source, key);
        byte[] codes = Bytes(source, name, SafeTensorsType.U8);
        float[] map = Floats(source, name + QuantMap);
        if (outer is null)
        {
            return QuantizedMatrix.Of(kind, shape, codes, Floats(source, name + AbsMax), map, block, type);
        }
        var nested = new NestedScales(Bytes(source, name + AbsMax, SafeTensorsType.U8), Floats(source, name + NestedAbsMax), Floats(source, name + NestedMap), outer.Value.Block, outer.Value.Offset);
        return QuantizedMatrix.Of(kind, shape, codes, nested, map, block, type);
    }

    private static (Quantization Kind, Shape Shape, int Block, DType Type, (int Block, float Offset)? Nested) ReadState(TensorSource source, string key)
    {
        byte[] json = Bytes(source, key, SafeTensorsType.U8);
        try
        {
            using JsonDocument document = JsonDocument.Parse(json);
            JsonElement root = document.RootElement;
            string kind = root.GetProperty("quant_type").GetString() ?? "", type = root.GetProperty("dtype").GetString() ?? "";
            if (!key.EndsWith(State + kind, StringComparison.Ordinal) || !Kinds.Any(k => k.Name == kind))
            {
                throw Bad(source, key, $"quant_type is {ModelFormatException.Quote(kind)}, want nf4 or fp4 as the key says");
            }
            if (!Types.Any(t => t.Name == type))
            {
                throw Bad(source, key, $"dtype is {ModelFormatException.Quote(type)}, want {string.Join(", ", Types.Select(t => t.Name))}");
            }
            int[] sizes = [.. root.GetProperty("shape").EnumerateArray().Take(Shape.MaxRank + 1).Select(d => d.GetInt32())];
            if (sizes.Length != 2 || sizes.Any(d => d <= 0))
            {
                throw Bad(source, key, $"shape is [{string.Join(", ", sizes)}], want two dimensions from 1 on");
            }
            (int, float)? nested = root.TryGetProperty("nested_blocksize", out JsonElement size) ? (size.GetInt32(), root.GetProperty("nested_offset").GetSingle()) : null;
            if (nested is not null && root.TryGetProperty("nested_dtype", out JsonElement inner) && inner.GetString() != "float32")
            {
                throw Bad(source, key, $"nested_dtype is {ModelFormatException.Quote(inner.ToString())}, want float32");
            }
            return (Kinds.First(k => k.Name == kind).Kind, Shape.Of(sizes), root.GetProperty("blocksize").GetInt32(), Types.First(t => t.Name == type).Type, nested);
        }
        catch (Exception error) when (error is JsonException or InvalidOperationException or KeyNotFoundException or FormatException and not ModelFormatException)
        {
            throw Bad(source, key, "the quantisation state cannot be read, want JSON with quant_type, blocksize, dtype and shape, and nested_blocksize with nested_offset or neither", error);
        }
    }

    // As Python's json.dumps writes it, so that a file comes back byte for byte
    private static byte[] JsonOf(QuantizedMatrix m)
    {
        string text = string.Create(CultureInfo.InvariantCulture, $"{{\"quant_type\": \"{NameOf(m.Kind)}\", \"blocksize\": {m.BlockSize}, \"dtype\": \"{Types.First(t => t.Type == m.DType).Name}\", \"shape\": [{m.Shape[0]}, {m.Shape[1]}]");
        if (m.Nested is { } nested)
        {
            string offset = ((double)nested.Offset).ToString("R", CultureInfo.InvariantCulture).ToLowerInvariant();
            offset = offset.AsSpan().ContainsAny('.', 'e') ? offset : offset + ".0";
            text += string.Create(CultureInfo.InvariantCulture, $", \"nested_blocksize\": {nested.BlockSize}, \"nested_dtype\": \"float32\", \"nested_offset\": {offset}");
        }
        return Encoding.ASCII.GetBytes(text + "}");
    }

    private static string NameOf(Quantization kind) => Kinds.First(k => k.Kind == kind).Name;

    private static string? StateKey(TensorSource source, string name) => Kinds.Select(k => name + State + k.Name).FirstOrDefault(source.Contains)
        ?? source.Entries.FirstOrDefault(e => e.Name.StartsWith(name + State, StringComparison.Ordinal))?.Name;

    // q_proj.weight -> q_proj.SCB
    private static string ScalesKey(string name) => name[..(name.LastIndexOf('.') + 1)] + RowScales;

    private static byte[] Bytes(TensorSource source, string key, SafeTensorsType type) =>
        source[key].Type == type ? source.Bytes(key).ToArray() : throw Bad(source, key, $"it is {source[key]}, want {type.Name()}");

    private static float[] Floats(TensorSource source, string key) => MemoryMarshal.Cast<byte, float>(Bytes(source, key, SafeTensorsType.F32)).ToArray();

    private static ModelFormatException Bad(TensorSource source, string key, string problem, Exception? inner = null) =>
        new($"BitsAndBytes: {source.Name}: {ModelFormatException.Quote(key)}: {problem}", inner) { File = source.Name, Key = key };
}
