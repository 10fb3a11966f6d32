using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Bench;

/// <summary>One measured row; medians, ratio = peer_ms / ours_ms. <paramref name="CeilingShare"/> is of the float32 multiply-add or the copy ceiling,
/// whichever binds; <paramref name="Error"/> the largest relative difference of the results.</summary>
public sealed record RowResult(
    string Group, string Shape, int Rank, string Dtype, int Threads, string Cpu, string Isa, double OursMs, string Peer, double PeerMs, double Ratio,
    double CeilingShare, int Samples, double OursSpread, double PeerSpread, double Error);

/// <summary>Ceilings of the machine: GFLOP/s of float32 multiply-adds, GB/s of a copy.</summary>
public sealed record CeilingResult(int Threads, double FmaGflops, double CopyGbs);

/// <summary>A figure that is no comparison.</summary>
public sealed record Figure(string Name, double Value, string Unit);

/// <summary>A run: what the JSON file holds.</summary>
public sealed record Report(string Date, string Cpu, string Isa, string Peer, IReadOnlyList<CeilingResult> Ceilings, IReadOnlyList<RowResult> Rows, IReadOnlyList<Figure> Figures)
{
    /// <summary>Marks in a Markdown file between which the table stands.</summary>
    public const string Begin = "<!-- bench: begin -->", End = "<!-- bench: end -->";

    /// <summary>Reads a run.</summary>
    /// <exception cref="FormatException">The file holds something else.</exception>
    public static Report Read(string path)
    {
        try
        {
            return JsonSerializer.Deserialize(File.ReadAllText(path), ReportJson.Default.Report) ?? throw new FormatException($"{path}: the file is null, want a run of the bench");
        }
        catch (JsonException error)
        {
            throw new FormatException($"{path}: {error.Message}, want a run of the bench", error);
        }
    }

    /// <summary>Writes the run.</summary>
    public void Write(string path)
    {
        if (Path.GetDirectoryName(Path.GetFullPath(path)) is { } folder)
        {
            Directory.CreateDirectory(folder);
        }
        File.WriteAllText(path, JsonSerializer.Serialize(this, ReportJson.Default.Report) + "\n");
    }

    /// <summary>Puts the table into a Markdown file in place of the one there.</summary>
    /// <exception cref="FormatException">The file has no marks.</exception>
    public void WriteInto(string markdown)
    {
        string text = File.ReadAllText(markdown);
        int from = text.IndexOf(Begin, StringComparison.Ordinal), to = text.IndexOf(End, StringComparison.Ordinal);
        if (from < 0 || to < from)
        {
            throw new FormatException($"{markdown}: no lines {Begin} and {End}, want both to put the table between");
        }
        File.WriteAllText(markdown, $"{text[..from]}{Begin}\n{Table()}{text[to..]}");
    }

    /// <summary>This run with what an earlier one on the same machine measured and this did not.</summary>
    public Report With(Report earlier) => earlier.Cpu != Cpu || earlier.Isa != Isa ? this : this with
    {
        Ceilings = [.. Ceilings.Concat(earlier.Ceilings).DistinctBy(c => c.Threads).OrderBy(c => c.Threads)],
        Rows = [.. Rows.Concat(earlier.Rows).DistinctBy(Key).OrderBy(r => Places.GetValueOrDefault(Key(r), int.MaxValue))],
        Figures = [.. Figures.Concat(earlier.Figures).DistinctBy(f => f.Name)],
    };

    /// <summary>The table as Markdown.</summary>
    public string Table()
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"{Date}, {Cpu}, {Isa}; peer {Peer}. ");
        text.AppendLine($"Ceilings measured in the run: {string.Join("; ", Ceilings.Select(c => Format($"{c.Threads} thread{(c.Threads > 1 ? "s" : "")} {c.FmaGflops:F0} GFLOP/s, {c.CopyGbs:F1} GB/s")))}.");
        foreach (IGrouping<string, RowResult> group in Rows.GroupBy(r => r.Group))
        {
            text.AppendLine().AppendLine(Format($"| {group.Key} | rank | dtype | threads | ours ms | peer ms | peer/ours | of the ceiling | peer's form |"));
            text.AppendLine("|---|---:|---|---:|---:|---:|---:|---:|---|");
            foreach (RowResult r in group)
            {
                string ratio = Format($"{r.Ratio:F2}"), rank = r.Rank == 0 ? "" : Format($"{r.Rank}");
                text.AppendLine(Format($"| {r.Shape} | {rank} | {r.Dtype} | {r.Threads} | {r.OursMs:G4} | {r.PeerMs:G4} | {(r.Ratio < 1 ? $"{ratio} (slower)" : $"**{ratio}**")} | {r.CeilingShare:P0} | {(r.Peer.StartsWith(Peer, StringComparison.Ordinal) ? r.Peer[(Peer.Length + 1)..] : r.Peer)} |"));
            }
        }
        List<(string, double)> own = [.. Own()];
        if (own.Count > 0 || Figures.Count > 0)
        {
            text.AppendLine().AppendLine("| figure | value |").AppendLine("|---|---:|");
            own.ForEach(o => text.AppendLine(Format($"| {o.Item1} | {o.Item2:F2} |")));
            foreach (Figure f in Figures)
            {
                text.AppendLine(Format($"| {f.Name} | {f.Value:G4} {f.Unit} |"));
            }
        }
        return text.ToString();
    }

    /// <summary>Our own rows against each other: what the adapter adds to the layer, DoRA to LoRA, a busy neighbour to a step.</summary>
    private IEnumerable<(string Name, double Ratio)> Own()
    {
        foreach ((string over, string under) in ((string, string)[])[
            ("lora forward", "linear"), ("dora forward", "lora forward"), ("dora forward+backward", "lora forward+backward"), ("vit step, a core busy", "vit step"), ("loss of words, logits whole", "loss of words")])
        {
            foreach (RowResult a in Rows.Where(r => r.Group == over))
            {
                RowResult? b = Rows.FirstOrDefault(r => r.Group == under && (r.Shape, r.Dtype, r.Threads) == (a.Shape, a.Dtype, a.Threads) && (r.Rank == a.Rank || r.Rank == 0));
                if (b is not null)
                {
                    string rank = a.Rank == 0 ? "" : $", r={a.Rank}";
                    yield return ($"ours, {over} / {under}: {a.Shape}{rank}, {a.Dtype}, {a.Threads} thread{(a.Threads > 1 ? "s" : "")}", a.OursMs / b.OursMs);
                    if (over.Contains("busy", StringComparison.Ordinal))
                    {
                        yield return ($"peer, {over} / {under}: {a.Shape}{rank}, {a.Dtype}, {a.Threads} threads", a.PeerMs / b.PeerMs);
                    }
                }
            }
        }
    }

    private static readonly Dictionary<(string, string, int, string, int), int> Places =
        Bench.Rows.All.Select((r, i) => (Key: (r.Group, r.Shape, r.Rank, $"{r.Type}".ToLowerInvariant(), r.Threads), i)).ToDictionary(p => p.Key, p => p.i);

    private static (string, string, int, string, int) Key(RowResult r) => (r.Group, r.Shape, r.Rank, r.Dtype, r.Threads);

    private static string Format(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, NumberHandling = JsonNumberHandling.AllowNamedFloatingPointLiterals)]
[JsonSerializable(typeof(Report))]
internal sealed partial class ReportJson : JsonSerializerContext;
