using ScottPlot;
using SkiaSharp;

namespace LowRank.Cli;

/// <summary>The embedded font of all charts: a machine without fonts (a container) would draw none of the text, and others each their own.</summary>
internal sealed class ReportFont : IFontResolver
{
    public const string Family = "LowRank report";

    private static readonly ReportFont Instance = new();
    private readonly Lazy<SKTypeface> typeface = new(Load);

    /// <summary>Makes <see cref="Family"/> known to ScottPlot and the font of every plot made after it; calling it again changes nothing.</summary>
    public static void Register()
    {
        lock (Instance)
        {
            if (!Fonts.FontResolvers.Contains(Instance))
            {
                Fonts.FontResolvers.Insert(0, Instance);
                Fonts.Default = Family;
            }
        }
    }

    /// <inheritdoc/>
    public SKTypeface? CreateTypeface(string fontName, FontWeight weight, FontSlant slant, FontSpacing spacing) => Find(fontName);

    /// <inheritdoc/>
    public SKTypeface? CreateTypeface(string fontName, bool bold, bool italic) => Find(fontName);

    private SKTypeface? Find(string family) => family == Family ? typeface.Value : null;

    private static SKTypeface Load()
    {
        using Stream stream = typeof(ReportFont).Assembly.GetManifestResourceStream("report.ttf")
            ?? throw new InvalidOperationException("ReportFont: resource report.ttf is missing from lowrank");
        return SKTypeface.FromStream(stream);
    }
}
