using ScottPlot;
using ScottPlot.Plottables;

namespace LowRank.Cli;

/// <summary>One line of a chart: y over x, and where <paramref name="Deviation"/> is given a band of y ± deviation.</summary>
/// <param name="Label">What the legend calls it.</param>
/// <param name="X">Increasing.</param>
/// <param name="Y">As many as X.</param>
/// <param name="Deviation">As many as X, or null.</param>
internal sealed record Curve(string Label, double[] X, double[] Y, double[]? Deviation = null)
{
    /// <summary>Mean and sample standard deviation, point by point, over runs with the same x (seeds); no deviation for a single run.</summary>
    /// <exception cref="ShapeException">There is no run, or a run has another number of points.</exception>
    public static Curve Mean(string label, double[] x, IReadOnlyList<double[]> runs)
    {
        if (runs.Count == 0 || runs.FirstOrDefault(r => r.Length != x.Length) is not null)
        {
            throw new ShapeException($"Curve: runs of {label} have [{string.Join(", ", runs.Select(r => r.Length))}] points, want {x.Length} each");
        }
        double[] mean = [.. x.Select((_, i) => runs.Average(r => r[i]))];
        return new Curve(label, x, mean, runs.Count == 1 ? null
            : [.. x.Select((_, i) => Math.Sqrt(runs.Sum(r => (r[i] - mean[i]) * (r[i] - mean[i])) / (runs.Count - 1)))]);
    }
}

/// <summary>A picture of curves over one x axis.</summary>
/// <param name="Name">File name without ending, and key in report.json.</param>
/// <param name="Title">Above the picture.</param>
/// <param name="XLabel">With its unit.</param>
/// <param name="YLabel">With its unit.</param>
/// <param name="Curves">At least one.</param>
internal sealed record ReportChart(string Name, string Title, string XLabel, string YLabel, IReadOnlyList<Curve> Curves)
{
    private const int Width = 900;
    private const int Height = 520;

    /// <summary>The picture as the bytes of a PNG file; needs neither display nor fonts.</summary>
    /// <exception cref="ShapeException">A curve has as many x as y values or deviations not.</exception>
    public byte[] ToPng()
    {
        ReportFont.Register();
        using Plot plot = new();
        for (int i = 0; i < Curves.Count; i++)
        {
            Curve curve = Curves[i];
            if (curve.X.Length != curve.Y.Length || (curve.Deviation ?? curve.X).Length != curve.X.Length)
            {
                throw new ShapeException($"Curve: {curve.Label} has {curve.X.Length} x, {curve.Y.Length} y and {curve.Deviation?.Length} deviations, want as many of each");
            }
            Scatter line = plot.Add.ScatterLine(curve.X, curve.Y, plot.Add.Palette.GetColor(i));
            line.LegendText = curve.Label;
            line.LineWidth = 2;
            // A single point has no line: a marker shows it.
            line.MarkerSize = curve.X.Length == 1 ? 8 : 0;
            if (curve.Deviation is { } deviation)
            {
                FillY band = plot.Add.FillY(curve.X, [.. curve.Y.Zip(deviation, (y, d) => y - d)], [.. curve.Y.Zip(deviation, (y, d) => y + d)]);
                band.FillColor = line.Color.WithAlpha(0.15);
                band.LineWidth = 0;
            }
        }
        plot.Title(Title);
        plot.XLabel(XLabel);
        plot.YLabel(YLabel);
        plot.ShowLegend(Edge.Right);
        return plot.GetImageBytes(Width, Height, ImageFormat.Png);
    }
}
