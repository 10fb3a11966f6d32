namespace LowRank.Training;

/// <summary>Losses over a batch, made in the current scope, and the measures that go with them.</summary>
public static class Losses
{
    /// <summary>Mean over the batch of -Σ q log softmax(logits), q = (1-smoothing)·onehot + smoothing/classes; logits [batch, classes], labels [batch] → [1].</summary>
    /// <exception cref="ShapeException">The batch is empty, or a label is out of range: names it.</exception>
    public static Tensor CrossEntropy(Tensor logits, ReadOnlySpan<int> labels, double smoothing = 0)
    {
        RequireBatch("CrossEntropy", labels.Length);
        return new CrossEntropy(Smoothing: smoothing).Apply(logits, Scope(logits).Of([labels.Length], labels));
    }

    /// <summary>The label that goes into no loss.</summary>
    public const int Ignored = -100;

    /// <summary>Labels as a causal model is asked for them: each place predicts the next token of its row, the last none.</summary>
    /// <param name="labels">[rows, tokens], <see cref="Ignored"/> where nothing is asked.</param>
    /// <param name="tokens">Of a row.</param>
    public static int[] Shifted(ReadOnlySpan<int> labels, int tokens)
    {
        var shifted = new int[labels.Length];
        for (int i = 0; i < shifted.Length; i++)
        {
            shifted[i] = (i + 1) % tokens == 0 ? Ignored : labels[i + 1];
        }
        return shifted;
    }

    /// <summary>Mean cross-entropy of the next tokens over those asked for; logits [rows, tokens, vocabulary], labels [rows, tokens] as
    /// <see cref="Shifted"/> takes them → [1].</summary>
    /// <exception cref="ShapeException">The batch is empty, or a label is out of range: names it.</exception>
    public static Tensor NextToken(Tensor logits, ReadOnlySpan<int> labels, double smoothing = 0) =>
        logits.Shape.Rank == 3 && logits.Shape.Rows == labels.Length ? CrossEntropy(logits, Shifted(labels, logits.Shape[1]), smoothing)
            : throw new ShapeException($"NextToken: logits is {logits.Shape}, want [rows, tokens, vocabulary] for {labels.Length} labels");

    /// <summary>Mean over the batch and its labels of log(1 + e^y) - target·y: independent yes-no labels; y [batch, labels], targets row-major → [1].</summary>
    /// <exception cref="ShapeException">The batch is empty or the number of values differs.</exception>
    public static Tensor BinaryCrossEntropy(Tensor y, ReadOnlySpan<float> target)
    {
        RequireBatch("BinaryCrossEntropy", target.Length);
        return new BinaryCrossEntropy().Apply(y, Scope(y).Of(y.Shape, target, y.DType));
    }

    /// <summary>Mean of (y - target)² over all elements; y [batch, ...], target row-major values of the same shape → [1].</summary>
    /// <exception cref="ShapeException">The batch is empty or the number of values differs.</exception>
    public static Tensor SquaredError(Tensor y, ReadOnlySpan<float> target)
    {
        RequireBatch("SquaredError", target.Length);
        return new SquaredError().Apply(y, Scope(y).Of(y.Shape, target, y.DType));
    }

    /// <summary>Mean over anchors of -log softmax over all candidates of cos(anchor, candidate)/temperature at the anchor's own: candidate i belongs to anchor i, all
    /// others are its negatives (arXiv 1705.00652); anchors [batch, d], candidates [batch or more, d] → [1].</summary>
    /// <exception cref="ShapeException">There are fewer candidates than anchors, widths differ, or the temperature is not above 0.</exception>
    public static Tensor InBatchNegatives(Tensor anchors, Tensor candidates, double temperature)
    {
        RequireBatch("InBatchNegatives", anchors.Shape.Rows);
        if (candidates.Shape.Rows < anchors.Shape.Rows || candidates.Shape.Cols != anchors.Shape.Cols || !(temperature > 0))
        {
            throw new ShapeException($"InBatchNegatives: candidates is {candidates.Shape} and temperature {temperature}, want at least [{anchors.Shape.Rows}, {anchors.Shape.Cols}] and above 0");
        }
        var unit = new RmsNorm(Smallest);       // x·√d/|x|, so a cosine is the product over d
        Tensor scores = new MatMul(TransposeB: true, Scale: 1 / (anchors.Shape.Cols * temperature)).Apply(unit.Apply(anchors), unit.Apply(candidates));
        return CrossEntropy(scores, [.. Enumerable.Range(0, anchors.Shape.Rows)]);
    }

    /// <summary>How many rows of logits [batch, classes] are largest at their label; the first of equals counts.</summary>
    /// <exception cref="ShapeException">Not one label a row.</exception>
    public static int Correct(Tensor logits, ReadOnlySpan<int> labels)
    {
        int classes = logits.Shape.Cols, correct = 0;
        if (logits.Shape.Rows != labels.Length)
        {
            throw new ShapeException($"Losses: labels has {labels.Length} values, want one a row of {logits.Shape}");
        }
        float[] values = logits.ToArray();
        for (int i = 0; i < labels.Length; i++)
        {
            ReadOnlySpan<float> row = values.AsSpan(i * classes, classes);
            int best = 0;
            for (int j = 1; j < classes; j++)
            {
                best = row[j] > row[best] ? j : best;
            }
            correct += best == labels[i] ? 1 : 0;
        }
        return correct;
    }

    private const double Smallest = 1e-12;

    private static Scope Scope(Tensor t) => t.Device.Current ?? throw new InvalidOperationException("Losses: no scope is open; call BeginScope or BeginTape first");

    private static void RequireBatch(string op, int count)
    {
        if (count == 0)
        {
            throw new ShapeException($"{op}: the batch is empty, want at least one sample");
        }
    }
}
