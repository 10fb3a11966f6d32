namespace LowRank;

/// <summary>Float64 specification of attention; formulas and shapes stand in lowrank.h.</summary>
internal static class AttentionReferences
{
    public static void Forward(in AttentionArgs p)
    {
        var (q, k, v) = (new Elements(p.Q, p.DType), new Elements(p.K, p.DType), new Elements(p.V, p.DType));
        var (mask, y, lse) = (new Elements(p.Mask, DType.U8), new Elements(p.Y, p.DType), MatrixReferences.Param(p.Lse, p.DType));
        Elements bias = MatrixReferences.Param(p.Bias, p.DType);
        var score = new double[p.Keys];
        for (int row = 0; row < p.Batch * p.Heads * p.Queries; row++)
        {
            var at = new Row(row, p.Queries, p.Heads, p.KvHeads, p.Keys, p.Dim);
            double max = double.NegativeInfinity, sum = 0;
            for (int j = 0; j < p.Keys; j++)
            {
                score[j] = Allowed(mask, at, j, p.Keys, p.Queries, p.Causal, p.Window) ? PointwiseReferences.Capped(p.Scale * Dot(q, at.Query, k, at.Key(j), p.Dim), p.Cap) + (bias.Present ? bias[at.Pair(j)] : 0) : double.NegativeInfinity;
                max = Math.Max(max, score[j]);
            }
            for (int j = 0; j < p.Keys; j++)
            {
                score[j] = double.IsNegativeInfinity(max) ? 0 : Math.Exp(score[j] - max);
                sum += score[j];
            }
            for (int d = 0; d < p.Dim; d++)
            {
                double value = 0;
                for (int j = 0; sum > 0 && j < p.Keys; j++)
                {
                    value += score[j] / sum * (score[j] > 0 ? v[at.Key(j) + d] : 0);
                }
                y[at.Query + d] = value;
            }
            lse[row] = sum > 0 ? max + Math.Log(sum) : double.NegativeInfinity;
        }
    }

    public static void Backward(in AttentionGradArgs p)
    {
        var (q, k, v) = (new Elements(p.Q, p.DType), new Elements(p.K, p.DType), new Elements(p.V, p.DType));
        var (mask, y, dy, lse) = (new Elements(p.Mask, DType.U8), new Elements(p.Y, p.DType), new Elements(p.Dy, p.DType), MatrixReferences.Param(p.Lse, p.DType));
        Elements bias = MatrixReferences.Param(p.Bias, p.DType);
        var dq = new double[(long)p.Batch * p.Queries * p.Heads * p.Dim];
        var dk = new double[(long)p.Batch * p.Keys * p.KvHeads * p.Dim];
        var dv = new double[dk.LongLength];
        var dbias = new double[p.Dbias == 0 ? 0 : (long)p.Heads * p.Queries * p.Keys];
        for (int row = 0; row < p.Batch * p.Heads * p.Queries; row++)
        {
            var at = new Row(row, p.Queries, p.Heads, p.KvHeads, p.Keys, p.Dim);
            double mean = Dot(dy, at.Query, y, at.Query, p.Dim);
            for (int j = 0; j < p.Keys; j++)
            {
                if (double.IsNegativeInfinity(lse[row]) || !Allowed(mask, at, j, p.Keys, p.Queries, p.Causal, p.Window))
                {
                    continue;
                }
                double z = PointwiseReferences.Capped(p.Scale * Dot(q, at.Query, k, at.Key(j), p.Dim), p.Cap);
                double weight = Math.Exp(z + (bias.Present ? bias[at.Pair(j)] : 0) - lse[row]);
                double ds = weight * (Dot(dy, at.Query, v, at.Key(j), p.Dim) - mean);
                if (p.Dbias != 0)
                {
                    dbias[at.Pair(j)] += ds;
                }
                ds *= PointwiseReferences.CapSlope(z, p.Cap) * p.Scale;
                for (int d = 0; d < p.Dim; d++)
                {
                    dq[at.Query + d] += ds * k[at.Key(j) + d];
                    dk[at.Key(j) + d] += ds * q[at.Query + d];
                    dv[at.Key(j) + d] += weight * dy[at.Query + d];
                }
            }
        }
        Put(new Elements(p.Dq, p.DType), dq, p.Add, 0);
        Put(new Elements(p.Dk, p.DType), dk, p.Add, 1);
        Put(new Elements(p.Dv, p.DType), dv, p.Add, 2);
        Put(MatrixReferences.Param(p.Dbias, p.DType), dbias, p.Add, 3);
    }

    private static bool Allowed(Elements mask, in Row at, int j, int keys, int queries, int causal, int window) =>
        (!mask.Present || mask[((long)at.Batch * keys) + j] != 0) && (causal == 0 || j <= at.Index + keys - queries) && (window == 0 || j > at.Index + keys - queries - window);

    private static double Dot(Elements a, long ia, Elements b, long ib, int count)
    {
        double sum = 0;
        for (int d = 0; d < count; d++)
        {
            sum += a[ia + d] * b[ib + d];
        }
        return sum;
    }

    private static void Put(Elements to, double[] values, uint add, int bit)
    {
        for (long i = 0; to.Present && i < values.LongLength; i++)
        {
            to.Put(i, values[i], add, bit);
        }
    }

    /// <summary>Where query row (batch, head, index) and its keys lie.</summary>
    private readonly struct Row
    {
        private readonly int keys, kvHeads, kvHead, dim;
        private readonly long pairs;

        public Row(int row, int queries, int heads, int kvHeads, int keys, int dim)
        {
            Index = row % queries;
            int head = row / queries % heads;
            Batch = row / queries / heads;
            pairs = (((long)head * queries) + Index) * keys;
            Query = ((((long)Batch * queries) + Index) * heads + head) * dim;
            (this.keys, this.kvHeads, this.dim) = (keys, kvHeads, dim);
            kvHead = head / (heads / kvHeads);
        }

        public int Batch { get; }

        public int Index { get; }

        public long Query { get; }

        public long Pair(int j) => pairs + j;

        public long Key(int j) => ((((long)Batch * keys) + j) * kvHeads + kvHead) * dim;
    }
}
