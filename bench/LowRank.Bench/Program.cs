using System.CommandLine;
using System.Globalization;
using System.Runtime.InteropServices;
using LowRank.Bench.Cases;
using LowRank.Bench.Methods;
using LowRank.Oracle;

namespace LowRank.Bench;

/// <summary>The bench's command line.</summary>
public static class Program
{
    private const int Done = 0, Failed = 1, Usage = 2, Cancelled = 130;

    /// <summary>Runs a command. Exit codes: 0 done, 1 a row failed or the peer is missing, 2 the words are wrong, 130 stopped before the end.</summary>
    public static int Main(string[] args)
    {
        if (args is [BusyCore.Command])
        {
            BusyCore.Spin();
            return Done;
        }
        var json = new Option<string?>("--json") { Description = "File for the results." };
        var group = new Option<string[]>("--group") { Description = "Only the rows of these groups.", AllowMultipleArgumentsPerToken = true };
        var keep = new Option<bool>("--keep") { Description = "Keep the other rows that the file holds already: a run in pieces." };
        var into = new Option<string?>("--into") { Description = "Markdown file to put the table into." };
        var root = new RootCommand("LowRank against TorchSharp on this machine.");
        Command Timed(string name, string description, double seconds)
        {
            var command = new Command(name, description) { json, group, keep, into };
            command.SetAction((parsed, stop) => Task.FromResult(Measure(TimeSpan.FromSeconds(seconds), parsed.GetValue(json), parsed.GetValue(group) ?? [], parsed.GetValue(keep), parsed.GetValue(into), stop)));
            return command;
        }
        root.Add(Timed("quick", "Every row, a few minutes.", 2));
        root.Add(Timed("full", "Every row, more samples.", 12));
        var list = new Command("list", "Names of the rows.");
        list.SetAction(_ =>
        {
            Console.WriteLine(string.Join('\n', Rows.All.Select(r => r.Name)));
            return Done;
        });
        root.Add(list);
        var names = new Argument<string>("name") { Description = "A row's name, or its beginning." };
        var run = new Command("run", "Rows by name, through BenchmarkDotNet.") { names };
        run.SetAction(parsed => SideBySide.Run(parsed.GetValue(names)!) ? Done : Usage);
        root.Add(run);
        var file = new Argument<string>("file") { Description = "Results of a run." };
        var table = new Command("table", "The results as Markdown.") { file, into };
        table.SetAction(parsed => Print(Report.Read(parsed.GetValue(file)!), parsed.GetValue(into)));
        root.Add(table);
        var method = new Argument<string?>("name") { Description = "An experiment; without it their names are listed.", Arity = ArgumentArity.ZeroOrOne };
        var methods = new Command("methods", "Experiments of single methods, scaled down.") { method };
        methods.SetAction((parsed, stop) => Task.FromResult(Try(parsed.GetValue(method), stop)));
        root.Add(methods);
        ParseResult command = root.Parse(args.Length == 0 ? ["--help"] : args);
        foreach (var error in command.Errors)
        {
            Console.Error.WriteLine(error.Message);
        }
        return command.Errors.Count > 0 ? Usage : command.Invoke(new InvocationConfiguration { ProcessTerminationTimeout = TimeSpan.FromSeconds(60) });
    }

    private static int Try(string? name, CancellationToken stop)
    {
        if (name is null)
        {
            Console.Write(string.Concat(Experiments.All.Select(e => $"{e.Name}: {e.Description}\n")));
            return Done;
        }
        if (Experiments.Find(name) is not { } experiment)
        {
            Console.Error.WriteLine($"name is '{name}', want one of {string.Join(", ", Experiments.All.Select(e => e.Name))}");
            return Usage;
        }
        try
        {
            Console.Write(experiment.Run(stop));
            return Done;
        }
        catch (OperationCanceledException)
        {
            return Cancelled;
        }
    }

    private static int Print(Report report, string? into)
    {
        if (into is null)
        {
            Console.Write(report.Table());
        }
        else
        {
            report.WriteInto(into);
        }
        return Done;
    }

    private static int Measure(TimeSpan perRow, string? json, string[] groups, bool keep, string? into, CancellationToken stop)
    {
        string[] known = [.. Rows.All.Select(r => r.Group).Distinct(), Figures.Group];
        if (groups.Except(known).FirstOrDefault() is { } unknown)
        {
            Console.Error.WriteLine($"--group is '{unknown}', want one of {string.Join(", ", known)}");
            return Usage;
        }
        if (TorchRuntime.Missing is { } reason)
        {
            Console.Error.WriteLine(reason);
            return Failed;
        }
        using Device device = Device.Cpu();
        var machine = new Machine();
        var runner = new Runner(device, machine, perRow, stop);
        Row[] rows = [.. Rows.All.Where(r => groups.Length == 0 || groups.Contains(r.Group))];
        List<RowResult> results = [];
        int failures = 0;
        foreach (Row row in rows)
        {
            try
            {
                RowResult r = runner.Measure(row);
                results.Add(r);
                Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{row.Name,-62} ours {r.OursMs,10:F4} ms  peer {r.PeerMs,10:F4} ms  {r.Ratio,6:F2}x{(r.Ratio < 1 ? " slower" : ""),-7} {r.CeilingShare,5:P0}  {r.Peer}"));
            }
            catch (OperationCanceledException)
            {
                break;
            }
            catch (PeerMissingException error)
            {
                Console.Error.WriteLine($"{row.Name}: {error.Message}");
            }
            catch (Exception error) when (error is InvalidDataException or ExternalException or InvalidOperationException or ArithmeticException or ArgumentException)     // sides that differ, torch's refusals, ours: the other rows count
            {
                failures++;
                Console.Error.WriteLine($"{row.Name}: {error.Message.Split('\n')[0]}");
            }
        }
        IReadOnlyList<Figure> figures = (groups.Length == 0 || groups.Contains(Figures.Group)) && !stop.IsCancellationRequested ? Figures.Measure(device) : [];
        foreach (Figure figure in figures)
        {
            Console.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{figure.Name}: {figure.Value:G4} {figure.Unit}"));
        }
        var report = new Report(DateTimeOffset.UtcNow.ToString("yyyy-MM-dd", CultureInfo.InvariantCulture), machine.Cpu, machine.Isa, TorchRuntime.Name, machine.Measured, results, figures);
        if (keep && json is not null && File.Exists(json))
        {
            report = report.With(Report.Read(json));
        }
        if (json is not null)
        {
            report.Write(json);
        }
        if (into is not null)
        {
            report.WriteInto(into);
        }
        return stop.IsCancellationRequested ? Cancelled : failures > 0 ? Failed : Done;
    }
}
