namespace LowRank.Testing;

/// <summary>Tolerances of the tests of linear algebra and random streams.</summary>
public static class LinalgTolerance
{
    /// <summary>Standard deviations within which a sample's moment must lie.</summary>
    public const double Deviations = 5;
}
