using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary>How a model does on labelled images.</summary>
/// <param name="Count">Images by class.</param>
/// <param name="Correct">Those whose largest output is at their label, by class.</param>
/// <param name="Loss">Mean cross-entropy in nats.</param>
internal sealed record ImageEvaluation(IReadOnlyList<int> Count, IReadOnlyList<int> Correct, double Loss)
{
    private const int Batch = 256;

    /// <summary>Share of all images.</summary>
    public double Accuracy => (double)Correct.Sum() / Math.Max(1, Count.Sum());

    /// <summary>Runs every image through the model.</summary>
    /// <param name="model">Images → outputs, a class each.</param>
    /// <param name="images">As their source holds them; labels count in the model's classes.</param>
    /// <param name="preprocessing">From images to input.</param>
    /// <param name="cancellation">Stops between two batches.</param>
    public static ImageEvaluation Of(PretrainedModel model, ImageSet images, Preprocessing preprocessing, CancellationToken cancellation = default)
    {
        (int[] count, int[] correct, double loss) = (new int[images.Classes.Count], new int[images.Classes.Count], 0);
        for (int start = 0; start < images.Count; start += Batch)
        {
            cancellation.ThrowIfCancellationRequested();
            using Scope scope = model.Device.BeginScope();
            ImageSet part = preprocessing.Apply(images.Select([.. Enumerable.Range(start, Math.Min(Batch, images.Count - start))]));
            Tensor logits = model.Forward(part.ToTensor(model.Device));
            int classes = logits.Shape.Cols;
            float[] values = logits.ToArray();
            for (int i = 0; i < part.Count; i++)
            {
                ReadOnlySpan<float> row = values.AsSpan(i * classes, classes);
                int label = part.Labels[i], best = 0;
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
        return new ImageEvaluation(count, correct, loss / Math.Max(1, images.Count));
    }
}
