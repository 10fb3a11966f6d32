using LowRank.Adapters;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>Layers that are computed once more for the gradient have the bits of those that are kept, dropout of adapters included, and take less memory.</summary>
public class RecomputeTests
{
    [Theory, InlineData("gemma2"), InlineData("gpt2_lm"), InlineData("opt")]
    public void Recomputed_layers_have_the_same_bits_and_less_memory(string name)
    {
        (float[][] kept, long most) = Gradients(name, recompute: false);
        (float[][] made, long least) = Gradients(name, recompute: true);
        Assert.Equal(kept, made);
        Assert.Contains(kept, g => g.Any(v => v != 0));
        Assert.True(least < most, $"{name}: peak {least} bytes where layers are computed once more, {most} where they are kept");
    }

    [Fact]
    public void Next_word_loss_is_that_of_the_logits_with_and_without_an_adapter_on_the_head()
    {
        using Device device = Devices.Open("cpu");
        using TextModel model = Load("gemma2", device);
        TextBatch batch = Batch(model);
        int[] targets = [.. batch.Ids.Select((id, i) => i % 5 == 0 ? -100 : (id * 3) % model.Vocabulary)];
        double Loss() { using Scope scope = device.BeginScope(); return model.NextWordLoss(batch, targets, smoothing: 0.1).Item(); }
        double Want() { using Scope scope = device.BeginScope(); return new CrossEntropy(Smoothing: 0.1).Apply(model.Forward(batch).Logits!, scope.Of([targets.Length], targets)).Item(); }
        Assert.Equal(Want(), Loss(), Close.Model);
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 2, Targets = ["lm_head"] });
        Parameter b = adapted.Parameters.Single(p => p.Name.EndsWith("lora_B.weight", StringComparison.Ordinal));
        double before = Loss();
        b.Value.Fill(0.05);
        Assert.NotEqual(before, Loss());
        Assert.Equal(Want(), Loss(), Close.Model);
    }

    private static (float[][] Gradients, long Bytes) Gradients(string name, bool recompute)
    {
        using Device device = Devices.Open("cpu");
        using TextModel model = Load(name, device);
        model.RecomputesLayers = recompute;
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 2, Dropout = 0.3, Targets = Names.AllLinear });
        TextBatch batch = Batch(model);
        device.ResetPeak();
        long before = device.Bytes;
        using Tape tape = device.BeginTape();
        tape.Backward(model.NextWordLoss(batch, [.. batch.Ids.Select(id => (id + 1) % model.Vocabulary)]));
        return ([.. adapted.Parameters.Select(p => p.Gradient!.ToArray())], device.PeakBytes - before);
    }

    private static TextModel Load(string name, Device device) => (TextModel)PretrainedModel.Load(Path.Combine(Golden.Repository, "tests", "golden", "models", name), device);

    private static TextBatch Batch(TextModel model) => new(4, [.. Enumerable.Range(0, 4 * 30).Select(i => 3 + (i * 7 % (model.Vocabulary - 3)))]);
}
