using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Cuda.Bench;

/// <summary>Samples of one side in microseconds.</summary>
internal sealed record Spread(double Median, double P10, double P90, int Samples)
{
    public static Spread Of(IEnumerable<double> samples)
    {
        double[] sorted = [.. samples.Order()];
        double At(double share) => sorted[(int)Math.Round(share * (sorted.Length - 1))];
        return new Spread((sorted[sorted.Length / 2] + sorted[(sorted.Length - 1) / 2]) / 2, At(0.1), At(0.9), sorted.Length);
    }
}

/// <summary>One way of a peer: its times, how far its results are from ours, or why it failed; the ratio that is wanted, if any.</summary>
internal sealed record PeerResult(string Name, Spread? Times, double? Error, string? Failed, double? Want);

/// <summary>One row as measured.</summary>
internal sealed record RowResult(string Family, string Shape, string Type, double FloorUs, string How, int Sets, int Replays, Spread Ours, IReadOnlyList<PeerResult> Peers);

/// <summary>A figure that is no row: bytes, milliseconds. <paramref name="Want"/> is the most it may be.</summary>
internal sealed record Figure(string Name, double Value, string Unit, double? Want = null);

/// <summary>What a stage found: rows and figures, and what failed in it.</summary>
internal sealed record StageResult(
    string Stage, string Date, string Gpu, string StateBefore, string StateAfter, IReadOnlyDictionary<string, string> Versions, IReadOnlyList<RowResult> Rows, IReadOnlyList<Figure> Figures, IReadOnlyList<string> Failures);

/// <summary>All stages run so far: the results file and the table.</summary>
internal sealed record Report(IReadOnlyList<StageResult> Stages)
{
    /// <summary>Reads the parts that stages left in a folder.</summary>
    public static Report Read(string folder) => new([.. Directory.GetFiles(folder, "*.json").Order(StringComparer.Ordinal)
        .Select(file => JsonSerializer.Deserialize(File.ReadAllText(file), ReportJson.Default.StageResult)!)]);

    /// <summary>Writes a stage's part.</summary>
    public static void Write(string folder, StageResult stage)
    {
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, stage.Stage + ".json"), JsonSerializer.Serialize(stage, ReportJson.Default.StageResult) + "\n");
    }

    /// <summary>Writes results.json and results.md.</summary>
    public void Write(string folder)
    {
        Directory.CreateDirectory(folder);
        File.WriteAllText(Path.Combine(folder, "results.json"), JsonSerializer.Serialize(this, ReportJson.Default.Report) + "\n");
        File.WriteAllText(Path.Combine(folder, "results.md"), Table());
    }

    /// <summary>The table as Markdown.</summary>
    public string Table()
    {
        var text = new StringBuilder();
        foreach (StageResult stage in Stages)
        {
            text.AppendLine(Format($"## {stage.Stage}")).AppendLine();
            text.AppendLine(Format($"{stage.Date}; {stage.Gpu}; before: {stage.StateBefore}; after: {stage.StateAfter}."));
            if (stage.Versions.Count > 0)
            {
                text.AppendLine().AppendLine($"Peers: {string.Join(", ", stage.Versions.Select(v => $"{v.Key} {v.Value}"))}.");
            }
            if (stage.Rows.Count > 0)
            {
                text.AppendLine().AppendLine("| family | shape | type | ours us (p10..p90) | of the floor | peer | peer us (p10..p90) | peer/ours | want | error | run as |").AppendLine("|---|---|---|---:|---:|---|---:|---:|---:|---:|---|");
                foreach (RowResult row in stage.Rows)
                {
                    Append(text, row);
                }
            }
            if (stage.Figures.Count > 0)
            {
                text.AppendLine().AppendLine("| figure | value | want at most |").AppendLine("|---|---:|---:|");
                foreach (Figure f in stage.Figures)
                {
                    text.AppendLine(Format($"| {f.Name} | {f.Value:G5} {f.Unit} | {(f.Want is { } w ? Format($"{w:G5}{(f.Value <= w ? "" : ", missed")}") : "")} |"));
                }
            }
            foreach (string failure in stage.Failures)
            {
                text.AppendLine().AppendLine($"- failed: {failure}");
            }
            text.AppendLine();
        }
        return text.ToString();
    }

    private static void Append(StringBuilder text, RowResult row)
    {
        string ours = Format($"{row.Family} | {row.Shape} | {row.Type} | {row.Ours.Median:F1} ({row.Ours.P10:F1}..{row.Ours.P90:F1}) | {row.FloorUs / row.Ours.Median:P0}");
        string how = Format($"{row.How}, {row.Sets} sets, {row.Replays} replays, {row.Ours.Samples} samples");
        if (row.Peers.Count == 0)
        {
            text.AppendLine($"| {ours} | no peer | | | | | {how} |");
        }
        foreach (PeerResult peer in row.Peers)
        {
            string error = peer.Error is { } e ? Format($"{e:E1}") : "", want = peer.Want is { } w ? Format($"{w:F2}") : "";
            if (peer.Times is not { } times)
            {
                text.AppendLine($"| {ours} | {peer.Name} | failed: {peer.Failed?.ReplaceLineEndings(" ").Replace('|', '/')} | | {want} | {error} | {how} |");
                continue;
            }
            double ratio = times.Median / row.Ours.Median;
            string verdict = peer.Want is { } least && ratio < least ? ", missed" : "";
            text.AppendLine(Format($"| {ours} | {peer.Name} | {times.Median:F1} ({times.P10:F1}..{times.P90:F1}) | {ratio:F2} | {want}{verdict} | {error} | {how} |"));
        }
    }

    private static string Format(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(Report))]
[JsonSerializable(typeof(StageResult))]
internal sealed partial class ReportJson : JsonSerializerContext;
