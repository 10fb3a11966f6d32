using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Training.Tests;

/// <summary>The schedule of golden/sltrain: warm-up along a line, then half a cosine down to a share of the rate.</summary>
public class ScheduleTests
{
    public static TheoryData<string> Cases => Golden.Cases("sltrain", name => name.StartsWith("schedule", StringComparison.Ordinal));

    [Theory, MemberData(nameof(Cases))]
    public void Golden_schedule(string name) => Golden.Run("sltrain", name, golden =>
    {
        JsonElement config = golden.Config;
        int steps = config.GetProperty("total").GetInt32();
        var schedule = new Schedule(Decay.Cosine, config.GetProperty("warmup").GetInt64(), config.GetProperty("min_lr_ratio").GetDouble());
        golden.Check("out.factor", [.. Enumerable.Range(0, steps).Select(step => schedule.At(step, steps))]);
    });
}
