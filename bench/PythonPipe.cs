using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LowRank.Bench;

/// <summary>A Python process on the other end of two pipes, one JSON object a line there and one back, as bench/pipe.py answers them. One that hangs or dies
/// is replaced by another, which knows nothing of what was asked before.</summary>
internal sealed class PythonPipe : IDisposable
{
    private static readonly TimeSpan ToStart = TimeSpan.FromSeconds(120);
    private readonly string[] command;
    private Process? process;

    /// <summary>Starts a script; a null script is none.</summary>
    public PythonPipe(string? script, params string[] arguments)
    {
        command = script is null ? [] : [script, .. arguments];
        Start();
    }

    /// <summary>Why there is none, or null.</summary>
    public string? Missing { get; private set; }

    /// <summary>Names and versions of what it runs on.</summary>
    public Dictionary<string, string> Versions { get; } = [];

    /// <summary>The interpreter: LOWRANK_PYTHON, or python3 of the path.</summary>
    public static string Interpreter => Environment.GetEnvironmentVariable("LOWRANK_PYTHON") is { Length: > 0 } named ? named : "python3";

    /// <summary>The answer; null where there is none within the limit.</summary>
    public JsonNode? Ask(JsonObject request, TimeSpan limit)
    {
        if (process is null)
        {
            return null;
        }
        try
        {
            process.StandardInput.WriteLine(request.ToJsonString());
            process.StandardInput.Flush();
            Task<string?> line = process.StandardOutput.ReadLineAsync();
            if (line.Wait(limit) && line.Result is { } text)
            {
                return JsonNode.Parse(text);
            }
        }
        catch (Exception error) when (error is IOException or AggregateException or JsonException)
        {
            Console.Error.WriteLine($"peer: {error.Message}");
        }
        Stop();
        if ((string?)request["do"] != "hello")
        {
            Start();
        }
        return null;
    }

    /// <inheritdoc/>
    public void Dispose() => Stop();

    private void Start()
    {
        if (command.Length == 0)
        {
            Missing = "none was asked for";
            return;
        }
        try
        {
            process = Process.Start(new ProcessStartInfo(Interpreter, command) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
        }
        catch (System.ComponentModel.Win32Exception error)
        {
            Missing = $"no {Interpreter} ({error.Message})";
            return;
        }
        JsonNode? hello = Ask(new JsonObject { ["do"] = "hello" }, ToStart);
        Missing = hello is null ? "the peer did not start; see peer.log" : (string?)hello["missing"];
        foreach ((string name, JsonNode? version) in hello?["versions"]?.AsObject() ?? [])
        {
            Versions[name] = version!.GetValue<string>();
        }
    }

    private void Stop()
    {
        if (process is null)
        {
            return;
        }
        try
        {
            process.StandardInput.Close();
            if (!process.WaitForExit(5000))
            {
                process.Kill(entireProcessTree: true);
            }
        }
        catch (Exception error) when (error is IOException or InvalidOperationException)
        {
            // It had ended by itself.
        }
        process.Dispose();
        process = null;
    }
}
