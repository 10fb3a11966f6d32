using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Tiny models of Hugging Face: outputs, hidden states, loss, the gradient of every weight, and generation.</summary>
public class ModelGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("models", name => name != "buckets");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_models(string name) => Golden.Run("models", name, Check);

    private static void Check(GoldenCase c)
    {
        SkipWhatIsNotBuilt(c);
        foreach (DType type in (ReadOnlySpan<DType>)[DType.F64, DType.F32])
        {
            CheckFolder(c, c.Path, type);
            foreach (string other in (ReadOnlySpan<string>)["config_classic.json", "model_classic.safetensors"])
            {
                if (File.Exists(c.PathOf(other)))
                {
                    using var copy = new ClassicFolder(c.Path, other);
                    CheckFolder(c, copy.Path, type);
                }
            }
            if (Directory.Exists(c.PathOf("sharded")))
            {
                CheckFolder(c, c.PathOf("sharded"), type);
            }
        }
    }

    private static void CheckFolder(GoldenCase c, string folder, DType type)
    {
        using Device device = Devices.Open("cpu");
        using var model = PretrainedModel.Load(folder, device, new LoadOptions { Type = type });
        model.TrainAll();
        using (Tape tape = device.BeginTape())
        {
            Dictionary<string, Tensor> results = model switch
            {
                TextModel text => TextGolden.Results(c, text),
                T5 t5 => SequenceGolden.Results(c, t5),
                Whisper whisper => SequenceGolden.Results(c, whisper, tape, type),
                Clip clip => ClipGolden.Results(c, clip, tape, type),
                _ => Vision(c, (VisionModel)model, tape, type),
            };
            Tensor total = Total(c, tape, results, type);
            results.Add("total", total);
            tape.Backward(total);
            byte[]? mask = c.Has("in.attention_mask") ? [.. c.Ints("in.attention_mask").Select(m => (byte)m)] : null;
            Compare(c, type, "out", n => results.GetValueOrDefault(n)?.ToDoubles(), n => mask is not null && results[n].Shape is { Rank: 3 } s && (long)s[0] * s[1] == mask.Length ? mask : null);
            Compare(c, type, "grad", n => Gradient(model, n), _ => null);
            Assert.Equal(model.Parameters.Keys.Order(StringComparer.Ordinal), c.Names("grad.").Select(n => n["grad.".Length..]));
        }
        if (model is EncoderDecoder writer && c.Names("out.").Any(n => n.EndsWith("generated", StringComparison.Ordinal)))
        {
            SequenceGolden.CheckGeneration(c, writer, type);
        }
        if (model is TextModel decoder && c.Has("in.prompt"))
        {
            TextGolden.CheckGeneration(c, decoder, type);
        }
    }

    private static Dictionary<string, Tensor> Vision(GoldenCase c, VisionModel model, Tape tape, DType type)
    {
        IReadOnlyList<Tensor> hidden = model.HiddenStates(c.Load("in.pixel_values", tape, type), out Tensor last, out Tensor output);
        var results = new Dictionary<string, Tensor>();
        for (int i = 0; i < hidden.Count; i++)
        {
            results.Add($"hidden.{i}", hidden[i]);
        }
        if (c.Has("in.labels"))
        {
            results.Add("logits", output);
            results.Add("loss", new CrossEntropy().Apply(output, tape.Of([output.Shape[0]], c.Ints("in.labels"))));
        }
        else if (model is Deit deit && c.Has("in.gy.logits"))
        {
            results.Add("logits", output);
            (Tensor own, Tensor? taught) = deit.Logits(last);
            results.Add("cls_logits", own);
            results.Add("distillation_logits", taught!);
        }
        else
        {
            results.Add("last_hidden_state", last);
            results.Add("pooler_output", output);
        }
        return results;
    }

    private static double[]? Gradient(PretrainedModel model, string name)
    {
        if (!model.Parameters.TryGetValue(name, out Parameter? parameter))
        {
            return null;
        }
        double[] values = parameter.Gradient?.ToDoubles() ?? new double[parameter.Value.Shape.Count];    // what the loss does not reach
        return model.IsTransposedInFile(parameter) ? Turned(values, parameter.Value.Shape[0], parameter.Value.Shape[1]) : values;
    }

    private static double[] Turned(double[] values, int rows, int cols) =>
        [.. from c in Enumerable.Range(0, cols) from r in Enumerable.Range(0, rows) select values[(r * cols) + c]];

    private static void SkipWhatIsNotBuilt(GoldenCase c)
    {
        string architecture = JsonElement.Parse(File.ReadAllText(c.PathOf("config.json"))).GetProperty("model_type").GetString()!;
        if (!PretrainedModel.ModelTypes.Contains(architecture))
        {
            Assert.Skip($"architecture {architecture} is not built yet");
        }
    }

    /// <summary>The attention probabilities are never stored: the fused kernel keeps their log-sum-exp only. Generation is compared by itself.</summary>
    private static bool IsCompared(string name) => !name.Contains("attn.", StringComparison.Ordinal) && !name.StartsWith("left.", StringComparison.Ordinal) && !name.StartsWith("generated", StringComparison.Ordinal);

    private static void Compare(GoldenCase c, DType type, string kind, Func<string, double[]?> got, Func<string, byte[]?> maskOf)
    {
        string prefix = type == DType.F64 ? kind + "64." : kind + ".";
        IReadOnlyList<string> names = [.. c.Names(prefix).Where(n => IsCompared(n[prefix.Length..]))];
        Assert.NotEmpty(names);
        foreach (string name in names)
        {
            double[] values = got(name[prefix.Length..]) ?? throw new InvalidOperationException($"{c}: nothing computes {name}"), want = c.Doubles(name);
            if (maskOf(name[prefix.Length..]) is { } mask)
            {
                (values, want) = (Kept(values, mask), Kept(want, mask));
            }
            if (type == DType.F64)
            {
                Close.CheckMax(values, want, Close.Golden64, Close.Golden64, $"{c}: {name}");
            }
            else
            {
                Close.CheckMax(values, want, c.Tolerance.Rtol, c.Tolerance.Atol, $"{c}: {name}");
            }
        }
    }

    /// <summary>The rows [row, token] that are text.</summary>
    private static double[] Kept(double[] values, byte[] mask)
    {
        int width = values.Length / mask.Length;
        return [.. values.Where((_, i) => mask[i / width] != 0)];
    }

    /// <summary>loss + Σ over in.gy of Σ output ⊙ gy.</summary>
    private static Tensor Total(GoldenCase c, Tape tape, Dictionary<string, Tensor> results, DType type)
    {
        Tensor? total = results.GetValueOrDefault("loss");
        foreach (string name in c.Names("in.gy."))
        {
            Tensor y = results[name["in.gy.".Length..]];
            int count = checked((int)y.Shape.Count);
            Tensor dot = new Linear().Apply(y.Reshape([1, count]), c.Load(name, tape, type).Reshape([1, count])).Reshape([1]);
            total = total is null ? dot : new Add().Apply(total, dot);
        }
        return total!;
    }

    /// <summary>A copy of a case's folder with one file in its older layout.</summary>
    private sealed class ClassicFolder : IDisposable
    {
        public ClassicFolder(string folder, string classic)
        {
            Path = Directory.CreateTempSubdirectory("lowrank-classic-").FullName;
            foreach (string file in (ReadOnlySpan<string>)["config.json", "model.safetensors"])
            {
                File.Copy(System.IO.Path.Combine(folder, file), System.IO.Path.Combine(Path, file));
            }
            File.Copy(System.IO.Path.Combine(folder, classic), System.IO.Path.Combine(Path, classic.Replace("_classic", "", StringComparison.Ordinal)), overwrite: true);
        }

        public string Path { get; }

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }
}
