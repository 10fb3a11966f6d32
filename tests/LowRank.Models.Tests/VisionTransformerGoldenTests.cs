using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Tiny vision transformers of Hugging Face: outputs, hidden states, loss and the gradient of every weight.</summary>
public class VisionTransformerGoldenTests
{
    public static TheoryData<string> Cases => Golden.Cases("models");

    [Theory, MemberData(nameof(Cases))]
    public void Golden_models(string name) => Golden.Run("models", name, Check);

    private static void Check(GoldenCase c)
    {
        SkipWhatIsNotBuilt(c);
        foreach (DType type in (ReadOnlySpan<DType>)[DType.F64, DType.F32])
        {
            using Device device = Devices.Open("cpu");
            using var model = VisionTransformer.Load(c.Path, device, new LoadOptions { Type = type });
            model.TrainAll();
            using Tape tape = device.BeginTape();
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
            else
            {
                results.Add("last_hidden_state", last);
                results.Add("pooler_output", output);
            }
            Tensor total = Total(c, tape, results, type);
            results.Add("total", total);
            tape.Backward(total);
            Compare(c, type, "out", n => results.GetValueOrDefault(n)?.ToDoubles());
            Compare(c, type, "grad", n => model.Parameters.TryGetValue(n, out Parameter? p) ? (p.Gradient ?? throw new InvalidOperationException($"{n} has no gradient")).ToDoubles() : null);
            Assert.Equal(model.Parameters.Keys.Order(StringComparer.Ordinal), c.Names("grad.").Select(n => n["grad.".Length..]));
        }
    }

    private static void SkipWhatIsNotBuilt(GoldenCase c)
    {
        string config = c.PathOf("config.json"), architecture = File.Exists(config) ? JsonElement.Parse(File.ReadAllText(config)).GetProperty("model_type").GetString()! : c.Name;
        if (!PretrainedModel.ModelTypes.Contains(architecture))
        {
            Assert.Skip($"architecture {architecture} is not built yet");
        }
    }

    /// <summary>The attention probabilities are never stored: the fused kernel keeps their log-sum-exp only.</summary>
    private static bool IsStored(string name) => !name.StartsWith("attn.", StringComparison.Ordinal);

    private static void Compare(GoldenCase c, DType type, string kind, Func<string, double[]?> got)
    {
        string prefix = type == DType.F64 ? kind + "64." : kind + ".";
        IReadOnlyList<string> names = [.. c.Names(prefix).Where(n => IsStored(n[prefix.Length..]))];
        Assert.NotEmpty(names);
        foreach (string name in names)
        {
            double[] values = got(name[prefix.Length..]) ?? throw new InvalidOperationException($"{c}: nothing computes {name}");
            if (type == DType.F64)
            {
                Close.CheckMax(values, c.Doubles(name), Close.Golden64, Close.Golden64, $"{c}: {name}");
            }
            else
            {
                c.Check(name, values);
            }
        }
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
}
