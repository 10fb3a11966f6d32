using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>The buckets of distances of T5 and DeBERTa, against tables of the official functions.</summary>
public class BucketGoldenTests
{
    [Fact]
    public void Golden_buckets() => Golden.Run("models", "buckets", c =>
    {
        int[] distances = c.Ints("in.relative_position");
        foreach (string name in c.Names("out."))
        {
            string[] parts = name.Split('.');
            (int count, int most) = (int.Parse(parts[^2], null), int.Parse(parts[^1], null));
            Func<int, int> bucket = parts[1] == "t5" ? r => T5.Bucket(r, count, most, causal: parts[2] == "causal") : r => DebertaV2.Bucket(r, count, most);
            Assert.Equal(c.Ints(name), distances.Select(bucket));
        }
    });
}
