namespace LowRank;

/// <summary>Float64 specifications of the wavelet kernels; formulas and shapes stand in lowrank.h.</summary>
internal static class WaveletReferences
{
    public static void Down(in WaveletArgs p)
    {
        Elements x = new(p.X, p.DType), ll = Band(p, p.Ll), lh = Band(p, p.Lh), hl = Band(p, p.Hl), hh = Band(p, p.Hh);
        (Entry[][] rows, Entry[][] cols) = (Read(p.Rows, p.DType, p.BandRows, up: false), Read(p.Cols, p.DType, p.BandCols, up: false));
        for (int i = 0; i < p.BandRows; i++)
        {
            double[] low = new double[p.XCols], high = new double[p.XCols];     // the matrix filtered down its columns
            foreach (Entry row in rows[i])
            {
                for (int c = 0; c < p.XCols; c++)
                {
                    double value = x[((long)row.Index * p.Ldx) + c];
                    low[c] += row.Low * value;
                    high[c] += row.High * value;
                }
            }
            for (int j = 0; j < p.BandCols; j++)
            {
                long at = ((long)i * p.Ldb) + j;
                ll.Put(at, p.Scale * cols[j].Sum(c => c.Low * low[c.Index]), p.Add, 0);
                lh.Put(at, p.Scale * cols[j].Sum(c => c.High * low[c.Index]), p.Add, 1);
                hl.Put(at, p.Scale * cols[j].Sum(c => c.Low * high[c.Index]), p.Add, 2);
                hh.Put(at, p.Scale * cols[j].Sum(c => c.High * high[c.Index]), p.Add, 3);
            }
        }
    }

    public static void Up(in WaveletArgs p)
    {
        Elements x = new(p.X, p.DType), w = new(p.W, p.DType), ll = Band(p, p.Ll), lh = Band(p, p.Lh), hl = Band(p, p.Hl), hh = Band(p, p.Hh);
        (Entry[][] rows, Entry[][] cols) = (Read(p.Rows, p.DType, p.XRows, up: true), Read(p.Cols, p.DType, p.XCols, up: true));
        for (int i = 0; i < p.XRows; i++)
        {
            double[] low = new double[p.BandCols], high = new double[p.BandCols];       // a row between the two axes
            foreach (Entry row in rows[i])
            {
                for (int c = 0; c < p.BandCols; c++)
                {
                    long at = ((long)row.Index * p.Ldb) + c;
                    low[c] += (ll.Present ? row.Low * ll[at] : 0) + (hl.Present ? row.High * hl[at] : 0);
                    high[c] += (lh.Present ? row.Low * lh[at] : 0) + (hh.Present ? row.High * hh[at] : 0);
                }
            }
            for (int j = 0; j < p.XCols; j++)
            {
                long at = ((long)i * p.Ldx) + j;
                x.Put(at, (w.Present ? w[at] : 0) + (p.Scale * cols[j].Sum(c => (c.Low * low[c.Index]) + (c.High * high[c.Index]))), p.Add, 0);
            }
        }
    }

    private static Elements Band(in WaveletArgs p, nint data) => MatrixReferences.Param(data, p.DType);

    private readonly record struct Entry(int Index, double Low, double High);

    /// <summary>The rows of an axis, spelled out; of an absent axis those of the identity.</summary>
    private static Entry[][] Read(nint table, DType type, int count, bool up)
    {
        if (table == 0)
        {
            return [.. Enumerable.Range(0, count).Select(i => (Entry[])[new(i, 1, 0)])];
        }
        const int Header = 8;
        var head = new Elements(table, DType.I32);
        (int first, int last, int taps, int start, int edges, int width) = ((int)head[2], (int)head[3], (int)head[4], (int)head[5], (int)head[6], (int)head[7]);
        (int phases, int step) = up ? (2, 1) : (1, 2);
        DType real = type.ForParameters();
        Elements weights = new(table + (Header * sizeof(int)), real);
        long low = 2L * phases * taps, high = low + ((long)edges * width);
        var indices = new Elements(table + (Header * sizeof(int)) + (nint)((high + ((long)edges * width)) * real.Size()), DType.I32);
        var rows = new Entry[count][];
        for (int row = 0, edge = 0; row < count; row++)
        {
            int unit = row / phases, band = row % phases * 2 * taps;
            if (unit >= first && unit < last)
            {
                rows[row] = [.. Enumerable.Range(0, taps).Select(j => new Entry((step * unit) + start + j, weights[band + j], weights[band + taps + j]))];
                continue;
            }
            rows[row] = [.. Enumerable.Range(edge * width, width).Select(e => new Entry((int)indices[e], weights[low + e], weights[high + e]))];
            edge++;
        }
        return rows;
    }
}
