using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>Losses, measures and what they refuse.</summary>
public sealed class LossTests : IDisposable
{
    private readonly Device device = Devices.Open("cpu");
    private readonly Scope scope;

    public LossTests() => scope = device.BeginScope();

    public void Dispose()
    {
        scope.Dispose();
        device.Dispose();
    }

    [Fact]
    public void Cross_entropy_is_the_mean_of_minus_log_softmax()
    {
        Tensor logits = scope.Of([2, 3], [0.0, Math.Log(2), Math.Log(5), 1, 1, 1], DType.F64);
        double want = (-Math.Log(2.0 / 8) - Math.Log(1.0 / 3)) / 2;
        Assert.Equal(want, Losses.CrossEntropy(logits, [1, 0]).Item(), Close.Bound(DType.F64));
        double smooth = (0.7 * want) + (0.3 * ((-(Math.Log(1.0 / 8) + Math.Log(2.0 / 8) + Math.Log(5.0 / 8)) / 3) - Math.Log(1.0 / 3)) / 2);
        Assert.Equal(smooth, Losses.CrossEntropy(logits, [1, 0], smoothing: 0.3).Item(), Close.Bound(DType.F64));
    }

    [Fact]
    public void Squared_error_is_the_mean_over_all_elements() =>
        Assert.Equal((1 + 4 + 0 + 9) / 4.0, Losses.SquaredError(scope.Of([2, 2], [1.0, 2, 3, 4], DType.F64), [0, 4, 3, 1]).Item(), Close.Bound(DType.F64));

    [Fact]
    public void An_anchor_is_told_from_the_other_rows_and_from_negatives_by_cosine()
    {
        Tensor anchors = scope.Of([2, 2], [3.0, 4, 1, 0], DType.F64), candidates = scope.Of([3, 2], [6.0, 8, 0, 2, 5, 0], DType.F64);
        double[][] cosines = [[1, 0.8, 0.6], [0.6, 0, 1]];
        const double temperature = 0.5;
        double want = cosines.Select((row, own) => Math.Log(row.Sum(c => Math.Exp(c / temperature))) - (row[own] / temperature)).Average();
        Assert.Equal(want, Losses.InBatchNegatives(anchors, candidates, temperature).Item(), Close.Bound(DType.F64));
        Assert.Contains("candidates is [2, 2] and temperature 1, want at least [3, 2]", Assert.Throws<ShapeException>(() => Losses.InBatchNegatives(candidates, anchors, 1)).Message, StringComparison.Ordinal);
        Assert.Contains("temperature 0, want", Assert.Throws<ShapeException>(() => Losses.InBatchNegatives(anchors, candidates, 0)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void The_first_of_equal_logits_counts_as_the_answer() =>
        Assert.Equal(2, Losses.Correct(scope.Of([3, 2], [1f, 1, 0, 3, 2, 1]), [0, 1, 1]));

    [Theory]
    [InlineData(3)]
    [InlineData(-1)]
    [InlineData(int.MaxValue)]
    public void A_label_out_of_range_is_named(int label)
    {
        var error = Assert.Throws<ShapeException>(() => Losses.CrossEntropy(scope.NewZeros([2, 3], DType.F32), [0, label]));
        Assert.Contains($"{label}, want 0 .. 2", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void An_empty_batch_is_refused()
    {
        Tensor none = scope.New([0, 3], DType.F32);
        Assert.Contains("batch is empty", Assert.Throws<ShapeException>(() => Losses.CrossEntropy(none, [])).Message, StringComparison.Ordinal);
        Assert.Contains("batch is empty", Assert.Throws<ShapeException>(() => Losses.SquaredError(none, [])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Counts_that_differ_are_refused()
    {
        Tensor logits = scope.NewZeros([2, 3], DType.F32);
        Assert.Throws<ShapeException>(() => Losses.CrossEntropy(logits, [0, 1, 2]));
        Assert.Throws<ShapeException>(() => Losses.SquaredError(logits, [1, 2, 3]));
        Assert.Contains("labels has 1 values", Assert.Throws<ShapeException>(() => Losses.Correct(logits, [0])).Message, StringComparison.Ordinal);
    }
}
