namespace LowRank.Models;

/// <summary>One vector a text: the mean of the last hidden state over the tokens that are no padding, of length 1 (arXiv 1908.10084).</summary>
public static class SentenceEmbedding
{
    private const float Smallest = 1e-12f;

    /// <summary>Means of a batch in the open tape, to be trained; their lengths are their own.</summary>
    /// <param name="model">An encoder, or a decoder without its head.</param>
    /// <param name="batch">Token ids and mask.</param>
    /// <returns>[rows, d] in parameter precision: P·h with P [rows, rows·tokens] = 1/count where a row's own text stands, h [rows·tokens, d].</returns>
    public static Tensor Mean(TextModel model, TextBatch batch)
    {
        Tensor last = model.Hidden(batch);
        DType type = last.DType.ForParameters();
        var weights = new float[(long)batch.Rows * batch.Ids.Length];
        for (int row = 0; row < batch.Rows; row++)
        {
            int[] text = [.. Enumerable.Range(row * batch.Tokens, batch.Tokens).Where(batch.IsText)];
            foreach (int at in text)
            {
                weights[((long)row * batch.Ids.Length) + at] = 1f / text.Length;
            }
        }
        Tensor flat = last.Reshape([batch.Ids.Length, last.Shape.Cols]);
        return new MatMul().Apply(model.Device.Current!.Of([batch.Rows, batch.Ids.Length], weights, type), flat.DType == type ? flat : new Cast(type).Apply(flat));
    }

    /// <summary>Embeddings of a batch, summed on the host in float64: a text's vector does not depend on its neighbours' lengths.</summary>
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
