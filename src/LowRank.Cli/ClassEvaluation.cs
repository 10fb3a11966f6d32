using LowRank.Models;

namespace LowRank.Cli;

/// <summary>How a model does on labelled samples.</summary>
/// <param name="Classes">Names of the classes.</param>
/// <param name="Count">Samples by class.</param>
/// <param name="Correct">Those whose largest output is at their label, by class.</param>
/// <param name="Loss">Mean cross-entropy in nats.</param>
internal sealed record ClassEvaluation(IReadOnlyList<string> Classes, IReadOnlyList<int> Count, IReadOnlyList<int> Correct, double Loss) : TaskEvaluation
{
    /// <inheritdoc/>
    public override int Samples => Count.Sum();

    /// <inheritdoc/>
    public override IReadOnlyList<(string Name, double Value)> Metrics => [(Metric.Accuracy.Name, Accuracy), ("loss", Loss)];

    /// <inheritdoc/>
    public override IReadOnlyList<string> Columns => ["class", "count", "correct", "accuracy"];

    /// <inheritdoc/>
    public override IReadOnlyList<IReadOnlyList<object>> Rows =>
        [.. Classes.Select((name, i) => new object[] { name, Count[i], Correct[i], Count[i] == 0 ? double.NaN : (double)Correct[i] / Count[i] })];

    /// <summary>Share of all samples.</summary>
    public double Accuracy => (double)Correct.Sum() / Math.Max(1, Samples);

    /// <summary>Runs samples through a model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="batches">What is computed at once.</param>
    /// <param name="names">Names of the classes.</param>
    /// <param name="run">Outputs [count, classes] and labels of a batch.</param>
    /// <param name="cancellation">Stops between two batches.</param>
    public static ClassEvaluation Of<T>(PretrainedModel model, IEnumerable<T> batches, IReadOnlyList<string> names, Func<T, (Tensor Logits, IReadOnlyList<int> Labels)> run, CancellationToken cancellation = default)
    {
        int classes = names.Count;
        (int[] count, int[] correct, double loss) = (new int[classes], new int[classes], 0);
        foreach (T batch in batches)
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            (Tensor logits, IReadOnlyList<int> labels) = run(batch);
            float[] values = logits.ToArray();
            for (int i = 0; i < labels.Count; i++)
            {
                ReadOnlySpan<float> row = values.AsSpan(i * classes, classes);
                int label = labels[i], best = 0;
                for (int j = 1; j < classes; j++)
                {
                    best = row[j] > row[best] ? j : best;
                }
                double sum = 0;
                foreach (float value in row)
                {
                    sum += Math.Exp(value - row[best]);
                }
                loss += Math.Log(sum) + row[best] - row[label];
                count[label]++;
                correct[label] += best == label ? 1 : 0;
            }
        }
        return new ClassEvaluation(names, count, correct, loss / Math.Max(1, count.Sum()));
    }
}
