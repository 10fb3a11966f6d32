using System.Globalization;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary>What the runs of one method give together.</summary>
/// <param name="Method">Its word.</param>
/// <param name="Title">Its name for people.</param>
/// <param name="Trainable">Trained elements.</param>
/// <param name="Accuracy">Mean over the seeds.</param>
/// <param name="Deviation">Sample standard deviation over the seeds; 0 for one.</param>
/// <param name="Seconds">Mean.</param>
/// <param name="Bytes">File of the trained weights.</param>
internal sealed record DemoResult(string Method, string Title, long Trainable, double Accuracy, double Deviation, double Seconds, long Bytes);

/// <summary>The demo's results as a table, as JSON and as a report with curves.</summary>
internal sealed class DemoReport
{
    private readonly Demo demo;
    private readonly IReadOnlyList<DemoRun> runs;

    public DemoReport(Demo demo, IReadOnlyList<DemoRun> runs)
    {
        (this.demo, this.runs) = (demo, runs);
        Results = [.. Demo.Methods.Select(m => Result(m.Method, m.Title, [.. runs.Where(r => r.Method == m.Method)]))];
        Before = runs.Average(r => r.Before);
    }

    /// <summary>A result a method.</summary>
    public IReadOnlyList<DemoResult> Results { get; }

    /// <summary>Accuracy before anything is trained.</summary>
    public double Before { get; }

    /// <summary>LoRA's mean accuracy less that of the head alone, and the standard error of that difference.</summary>
    public (double Gain, double Error) Gain
    {
        get
        {
            DemoResult lora = Results.Single(r => r.Method == "lora"), head = Results.Single(r => r.Method == "head");
            return (lora.Accuracy - head.Accuracy, Math.Sqrt((lora.Deviation * lora.Deviation + head.Deviation * head.Deviation) / demo.Seeds));
        }
    }

    /// <summary>For programs: methods and base_accuracy.</summary>
    public JsonObject Json(string output, string report) => new()
    {
        ["methods"] = new JsonArray([.. Results.Select(r => new JsonObject
        {
            ["method"] = r.Method,
            ["trainable"] = r.Trainable,
            ["accuracy"] = r.Accuracy,
            ["accuracy_sd"] = r.Deviation,
            ["seconds"] = Math.Round(r.Seconds, 3),
            ["adapter_bytes"] = r.Bytes,
        })]),
        ["base_accuracy"] = Before,
        ["seeds"] = demo.Seeds,
        ["images_per_class"] = demo.PerClass,
        ["held_out"] = runs[0].HeldOut,
        ["adapter"] = Path.Combine(output, "lora"),
        ["report"] = report,
    };

    /// <summary>For people: a row a method.</summary>
    public IReadOnlyList<JsonObject> Table() =>
    [
        .. Results.Select(r => new JsonObject
        {
            ["method"] = r.Title,
            ["trainable"] = Text($"{r.Trainable,9:N0}"),
            ["accuracy"] = Text($"{100 * r.Accuracy:F1} % ± {100 * r.Deviation:F1}"),
            ["seconds"] = Text($"{r.Seconds,7:F1}"),
            ["bytes"] = Text($"{r.Bytes,9:N0}"),
        }),
    ];

    /// <summary>What the table says in words.</summary>
    public string Verdict()
    {
        (double gain, double error) = Gain;
        return Text($"LoRA is {100 * gain:F1} points above the head alone ({gain / error:F1} standard errors); untrained: {100 * Before:F1} %.");
    }

    /// <summary>The report with its curves.</summary>
    public Report Report(string commandLine, string isa)
    {
        DemoRun first = runs[0];
        return new Report(
            $"{demo.Model} adapted to {demo.Data} with {demo.PerClass} images a class",
            [
                ("model", demo.Model),
                ("data", Text($"{demo.Data}: {demo.PerClass} images a class to train on, {first.HeldOut:N0} held out")),
                ("seeds", Text($"{demo.Seed} to {demo.Seed + (ulong)demo.Seeds - 1}; each chooses images, order and new weights")),
                ("steps", Text($"{first.Loss.Length} epochs in batches of {demo.BatchSize} for every method, AdamW")),
                ("learning rates", string.Join(", ", Demo.Methods.Select(m => Text($"{m.Title} {m.Rate:G}")))),
                ("accuracy before", Text($"{Before:P2}")),
                ("result", Verdict()),
                ("instruction set", isa),
                ("command", commandLine),
            ],
            ["method", "trainable", "accuracy", "deviation", "seconds", "adapter bytes"],
            [.. Results.Select(r => new object[] { r.Title, r.Trainable, r.Accuracy, r.Deviation, r.Seconds, r.Bytes })],
            [
                new ReportChart("accuracy", Text($"{demo.Data}, {demo.PerClass} images a class: accuracy on those held out, {demo.Seeds} seeds"), "epoch", "accuracy / %", Curves(r => r.Epochs, r => [.. r.Curve.Select(a => 100 * a)])),
                new ReportChart("loss", Text($"{demo.Data}, {demo.PerClass} images a class: loss of training, {demo.Seeds} seeds"), "epoch", "cross-entropy / nats", Curves(r => [.. r.Loss.Select((_, i) => i + 1.0)], r => r.Loss)),
            ]);
    }

    private Curve[] Curves(Func<DemoRun, double[]> x, Func<DemoRun, double[]> y) =>
    [
        .. from result in Results
           let own = runs.Where(r => r.Method == result.Method).ToArray()
           select Curve.Mean(Text($"{result.Title} ({result.Trainable:N0} trained)"), x(own[0]), [.. own.Select(y)]),
    ];

    private static DemoResult Result(string method, string title, IReadOnlyList<DemoRun> own)
    {
        double mean = own.Average(r => r.Accuracy);
        double deviation = own.Count < 2 ? 0 : Math.Sqrt(own.Sum(r => (r.Accuracy - mean) * (r.Accuracy - mean)) / (own.Count - 1));
        return new DemoResult(method, title, own[0].Trainable, mean, deviation, own.Average(r => r.Seconds), own.Max(r => r.Bytes) ?? 0);
    }

    private static string Text(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);
}
