using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>A whole training step runs on native kernels: a fallback to the float64 reference would cost it a hundredfold and no result would show it.</summary>
public class NativeStepTests
{
    [Theory, InlineData(DType.F32), InlineData(DType.BF16)]
    public void Training_step_of_the_vision_transformer_never_falls_back(DType type)
    {
        var config = new VisionTransformerConfig { HiddenSize = 24, Layers = 2, Heads = 3, IntermediateSize = 40, ImageSize = 8, PatchSize = 4, Channels = 1 };
        using Device device = Devices.Open("cpu");
        using var model = new VisionTransformer(config, device, new Rng(5), type);
        model.TrainAll();
        using var optimizer = new AdamW([.. model.Parameters.Values]) { MaxGradientNorm = 1 };
        double[] pixels = [.. Enumerable.Range(0, 3 * 8 * 8).Select(i => Math.Sin(i))];
        using (Tape tape = device.BeginTape())
        {
            Tensor logits = model.Forward(tape.Of([3, 1, 8, 8], pixels, type));
            tape.Backward(new CrossEntropy().Apply(logits, tape.Of([3], (ReadOnlySpan<int>)[0, 1, 0])));
        }
        optimizer.Step();
        Assert.Equal(1, optimizer.Steps);
        Assert.True(device.Fallbacks.Count == 0, $"in {type} these fell back to the reference: {string.Join(", ", device.Fallbacks.Keys)}");
    }
}
