using LowRank.Models;

namespace LowRank.Cli;

/// <summary>How a model does on labelled samples.</summary>
/// <param name="Count">Samples by class.</param>
/// <param name="Correct">Those whose largest output is at their label, by class.</param>
/// <param name="Loss">Mean cross-entropy in nats.</param>
internal sealed record ClassEvaluation(IReadOnlyList<int> Count, IReadOnlyList<int> Correct, double Loss)
{
    /// <summary>Share of all samples.</summary>
    public double Accuracy => (double)Correct.Sum() / Math.Max(1, Count.Sum());

    /// <summary>Runs samples through a model.</summary>
    /// <param name="model">The model.</param>
    /// <param name="samples">How many there are.</param>
    /// <param name="batch">How many at once.</param>
    /// <param name="classes">How many classes.</param>
    /// <param name="run">Outputs [count, classes] and labels of some samples.</param>
    /// <param name="cancellation">Stops between two batches.</param>
    public static ClassEvaluation Of(PretrainedModel model, int samples, int batch, int classes, Func<int[], (Tensor Logits, IReadOnlyList<int> Labels)> run, CancellationToken cancellation = default)
    {
        (int[] count, int[] correct, double loss) = (new int[classes], new int[classes], 0);
        for (int start = 0; start < samples; start += batch)
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            (Tensor logits, IReadOnlyList<int> labels) = run([.. Enumerable.Range(start, Math.Min(batch, samples - start))]);
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
        return new ClassEvaluation(count, correct, loss / Math.Max(1, samples));
    }
}
