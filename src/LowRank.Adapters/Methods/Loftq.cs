using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>How LoftQ quantises, as PEFT's loftq_config has it.</summary>
/// <param name="Bits">4: NF4 in blocks of 64; 8: a scale a row.</param>
/// <param name="Iterations">Rounds of quantising and decomposing.</param>
[JsonConverter(typeof(LoftqConverter))]
public sealed record LoftqOptions(int Bits = 4, int Iterations = 1);

/// <summary>LoftQ (arXiv 2310.08659): W ≈ Q + B·A where Q [out,in] holds quantised values. From R = W, every round takes Q = quantised R, the largest r
/// singular components U·S·Vt of W - Q, B = U·√S, A = √S·Vt, and R = W - B·A. The scale s is left out of it, as in PEFT's code: W_eff nears W where s = 1.</summary>
internal static class Loftq
{
    /// <summary>A, B and Q in the current scope.</summary>
    /// <exception cref="NumericException">W holds NaN or infinity.</exception>
    public static (Tensor A, Tensor B, Tensor Base) Start(LoftqOptions options, Tensor w, int rank)
    {
        Scope scope = w.Device.Current!;
        Tensor rest = w, a = w, b = w, quantized = w;
        for (int i = 0; i < options.Iterations; i++)
        {
            quantized = Quantized(rest, options.Bits, scope);
            SvdFactors factors = Svd.Of(new Add(-1).Apply(w, quantized), scope, rank);
            Tensor root = scope.Of(factors.S.Shape, [.. factors.S.ToDoubles().Select(Math.Sqrt)], w.DType);
            (a, b) = (new ScaleRows().Apply(factors.Vt, root), new Mul().Apply(factors.U, root));
            rest = new AddMatMul(-1).Apply(w, b, a);
        }
        return (a, b, quantized);
    }

    /// <summary>The values that codes of <paramref name="w"/> stand for; for 8 bits PEFT's quantiser rounds them to float16 first.</summary>
    private static Tensor Quantized(Tensor w, int bits, Scope scope)
    {
        float[] values = w.ToArray();
        QuantizedMatrix codes = bits == 4
            ? QuantizedMatrix.Quantize(values, w.Shape, Quantization.NF4)
            : QuantizedMatrix.Quantize(Array.ConvertAll(values, v => (float)(Half)v), w.Shape, Quantization.Int8Rows);
        return codes.ToTensor(scope).ConvertTo(w.DType, scope);
    }
}

/// <summary>PEFT writes an empty object where there is none.</summary>
internal sealed class LoftqConverter : JsonConverter<LoftqOptions?>
{
    private const string Bits = "loftq_bits", Iterations = "loftq_iter";

    public override bool HandleNull => true;

    public override LoftqOptions? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType == JsonTokenType.Null)
        {
            return null;
        }
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            throw new JsonException("want an object");
        }
        LoftqOptions? read = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string key = reader.GetString()!;
            reader.Read();
            int value = reader.TokenType == JsonTokenType.Number && reader.TryGetInt32(out int number) ? number : throw new JsonException("want whole numbers");
            read = key switch
            {
                Bits => (read ?? new()) with { Bits = value },
                Iterations => (read ?? new()) with { Iterations = value },
                _ => throw new JsonException($"want {Bits} and {Iterations}"),
            };
        }
        return read;
    }

    public override void Write(Utf8JsonWriter writer, LoftqOptions? value, JsonSerializerOptions options)
    {
        writer.WriteStartObject();
        if (value is not null)
        {
            writer.WriteNumber(Bits, value.Bits);
            writer.WriteNumber(Iterations, value.Iterations);
        }
        writer.WriteEndObject();
    }
}
