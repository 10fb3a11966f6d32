namespace LowRank.Adapters;

/// <summary>Data for methods whose start reads what reaches the layers: batches that are run through the model without adapters, in turn and as often as
/// the method asks.</summary>
/// <param name="Count">Number of batches.</param>
/// <param name="Run">Runs the batch of a number below <paramref name="Count"/> through the model; a scope is open.</param>
public sealed record Calibration(int Count, Action<int> Run)
{
    /// <summary>Rows of a layer's input in a batch that count, numbered over rows and tokens, such as those of text whose label is not masked; null: all.</summary>
    public Func<int, IReadOnlyList<int>>? Rows { get; init; }

    /// <summary>Runs a batch and shows the rows that count of every input [rows, in] of the given layers.</summary>
    internal void Watch(Device device, int batch, IReadOnlyList<Site> sites, Action<Site, double[]> seen)
    {
        IReadOnlyList<int>? rows = Rows?.Invoke(batch);
        Observe(device, batch, sites, (site, x) => seen(site, Chosen(x, rows)));
    }

    /// <summary>The same as tensors that live while the batch runs: the inputs themselves where all rows count.</summary>
    internal void WatchTensors(Device device, int batch, IReadOnlyList<Site> sites, Action<Site, Tensor> seen)
    {
        IReadOnlyList<int>? rows = Rows?.Invoke(batch);
        Observe(device, batch, sites, (site, x) => seen(site, rows is null ? x : device.Current!.Of([rows.Count, x.Shape.Cols], Chosen(x, rows), x.DType)));
    }

    private void Observe(Device device, int batch, IReadOnlyList<Site> sites, Action<Site, Tensor> seen)
    {
        try
        {
            foreach (Site site in sites)
            {
                site.Observer = x => seen(site, x);
            }
            using Scope scope = device.BeginScope();
            Run(batch);
        }
        finally
        {
            foreach (Site site in sites)
            {
                site.Observer = null;
            }
        }
    }

    private static double[] Chosen(Tensor x, IReadOnlyList<int>? rows)
    {
        double[] values = x.ToDoubles();
        int cols = x.Shape.Cols;
        return rows is null ? values : [.. rows.SelectMany(row => new ArraySegment<double>(values, row * cols, cols))];
    }
}

/// <summary>What a method made of the data: settings for the layers as it found them, and first values by parameter name.</summary>
internal sealed record CalibratedStart(AdapterConfig Config, Dictionary<string, double[]> Values);
