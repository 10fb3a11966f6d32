namespace LowRank.Models;

/// <summary>One vector a text: the mean of the last hidden state over the tokens that are no padding, of length 1 (arXiv 1908.10084).</summary>
public static class SentenceEmbedding
{
    private const float Smallest = 1e-12f;

    /// <summary>Embeddings of a batch.</summary>
    /// <param name="model">An encoder, or a decoder without its head.</param>
    /// <param name="batch">Token ids and mask.</param>
    /// <param name="normalize">Scale each to length 1.</param>
    /// <returns>A row [d] a text; a text of padding alone gives zeros.</returns>
    public static float[][] Of(TextModel model, TextBatch batch, bool normalize = true)
    {
        using Scope scope = model.Device.BeginScope();
        Tensor last = model.Hidden(batch);
        float[] values = last.ToArray();
        int d = last.Shape.Cols;
        var rows = new float[batch.Rows][];
        for (int row = 0; row < rows.Length; row++)
        {
            var sum = new double[d];
            int count = 0;
            for (int at = row * batch.Tokens; at < (row + 1) * batch.Tokens; at++)
            {
                if (batch.IsText(at))
                {
                    count++;
                    for (int j = 0; j < d; j++)
                    {
                        sum[j] += values[((long)at * d) + j];
                    }
                }
            }
            double length = normalize ? Math.Max(Math.Sqrt(sum.Sum(v => v * v)) / Math.Max(count, 1), Smallest) : 1;
            rows[row] = [.. sum.Select(v => (float)(v / Math.Max(count, 1) / length))];
        }
        return rows;
    }
}
