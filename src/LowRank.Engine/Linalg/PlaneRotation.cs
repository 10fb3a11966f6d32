namespace LowRank;

/// <summary>Numbers behind the implicit QR iterations.</summary>
internal static class PlaneRotation
{
    private const double Small = 1e-140, Large = 1e140;

    /// <summary>(c, s, r) with c·f + s·g = r and c·g - s·f = 0.</summary>
    public static (double C, double S, double R) Make(double f, double g)
    {
        if (g == 0)
        {
            return (1, 0, f);
        }
        if (f == 0)
        {
            return (0, Math.CopySign(1, g), Math.Abs(g));
        }
        double larger = Math.Max(Math.Abs(f), Math.Abs(g));
        if (larger < Small || larger > Large)
        {
            (double c, double s, double r) = Make(f / larger, g / larger);
            return (c, s, r * larger);
        }
        double length = Math.Sqrt((f * f) + (g * g)), inverse = Math.CopySign(1 / length, f);
        return (Math.Abs(f) / length, g * inverse, Math.CopySign(length, f));
    }

    /// <summary>The smaller singular value of [[f, g], [0, h]] to nearly full relative accuracy.</summary>
    public static double SmallerSingularValue(double f, double g, double h)
    {
        double least = Math.Min(Math.Abs(f), Math.Abs(h)), most = Math.Max(Math.Abs(f), Math.Abs(h)), off = Math.Abs(g);
        if (least == 0)
        {
            return 0;
        }
        double sum = 1 + (least / most), difference = (most - least) / most;
        if (off < most)
        {
            double square = off / most * (off / most);
            return least * (2 / (Math.Sqrt((sum * sum) + square) + Math.Sqrt((difference * difference) + square)));
        }
        double ratio = most / off;
        if (ratio == 0)
        {
            return least * most / off;
        }
        double c = 1 / (Math.Sqrt(1 + (sum * ratio * (sum * ratio))) + Math.Sqrt(1 + (difference * ratio * (difference * ratio))));
        return 2 * (least * c) * ratio;
    }
}
