using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace LowRank.Cuda.Bench;

/// <summary>The Python process on the other side: one JSON object a line there, one back. It holds its own copy of the data, and
/// the two sides take turns on the one GPU. A peer that fails, or gives no answer in time, is a line of the table, never the end.</summary>
internal sealed class Peer : IDisposable
{
    private static readonly TimeSpan ToStart = TimeSpan.FromSeconds(120), ToPrepare = TimeSpan.FromSeconds(240), ToSample = TimeSpan.FromSeconds(60);
    private readonly string? script;
    private readonly string device, work;
    private Process? process;

    /// <summary>Starts <paramref name="script"/>, if one is named; what it says besides goes to a log in <paramref name="work"/>.</summary>
    public Peer(string? script, string device, string work)
    {
        (this.script, this.device, this.work) = (script, device, work);
        Start();
    }

    /// <summary>Why there is none, or null.</summary>
    public string? Missing { get; private set; }

    /// <summary>Names and versions of what it runs on.</summary>
    public Dictionary<string, string> Versions { get; } = [];

    /// <summary>Hands it the data of a row; the ways it knows to do the work.</summary>
    public IReadOnlyList<string> Offer(CudaRow row, DataSet set, int sets)
    {
        if (Missing is not null)
        {
            return [];
        }
        JsonObject Write(IReadOnlyDictionary<string, Tensor> tensors, string prefix)
        {
            var list = new JsonObject();
            foreach ((string name, Tensor tensor) in tensors)
            {
                string file = Path.Combine(work, $"{prefix}{name}.bin");
                File.WriteAllBytes(file, tensor.ToBytes());
                list.Add(name, new JsonObject { ["file"] = file, ["type"] = $"{tensor.DType}".ToLowerInvariant(), ["shape"] = new JsonArray([.. tensor.Shape.Select(d => (JsonNode)d)]) });
            }
            return list;
        }
        JsonNode? answer = Ask(
            new JsonObject
            {
                ["do"] = "offer",
                ["family"] = row.Family,
                ["shape"] = row.Shape,
                ["sets"] = sets,
                ["attributes"] = new JsonObject([.. row.Attributes.Select(a => KeyValuePair.Create(a.Key, (JsonNode?)a.Value))]),
                ["inputs"] = Write(set.Inputs, "in-"),
                ["results"] = Write(set.Results, "out-"),
            },
            ToPrepare);
        return answer?["ways"] is JsonArray ways ? [.. ways.Select(way => way!.GetValue<string>())] : [];
    }

    /// <summary>Makes one of its ways ready: checks its results against ours, warms it up, records it. Null error: it is no equal work, only a yardstick.</summary>
    /// <param name="way">One of those that it offered.</param>
    /// <param name="alone">Forget the others, so that its memory is its own.</param>
    public (double? Error, string? Failed) Prepare(string way, bool alone = false)
    {
        JsonNode? answer = Ask(new JsonObject { ["do"] = "prepare", ["way"] = way, ["alone"] = alone }, ToPrepare);
        return answer is null ? (null, Missing ?? "no answer in time") : ((double?)answer["error"], (string?)answer["failed"]);
    }

    /// <summary>Microseconds a call over so many replays of all sets.</summary>
    public double? Sample(string way, int replays) => (double?)Ask(new JsonObject { ["do"] = "sample", ["way"] = way, ["replays"] = replays }, ToSample)?["us"];

    /// <summary>Gives the memory of a row back.</summary>
    public void End() => Ask(new JsonObject { ["do"] = "end" }, ToSample);

    /// <summary>Any other request; null where there is no answer.</summary>
    public JsonNode? Ask(JsonObject request) => Ask(request, ToPrepare);

    /// <inheritdoc/>
    public void Dispose() => Stop();

    private void Start()
    {
        if (script is null)
        {
            Missing = "none was asked for";
            return;
        }
        try
        {
            process = Process.Start(new ProcessStartInfo("python3", [script, "--device", device, "--work", work]) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
        }
        catch (System.ComponentModel.Win32Exception error)
        {
            Missing = $"no python3 ({error.Message})";
            return;
        }
        JsonNode? hello = Ask(new JsonObject { ["do"] = "hello" }, ToStart);
        Missing = hello is null ? "the peer did not start; see peer.log" : (string?)hello["missing"];
        foreach ((string name, JsonNode? version) in hello?["versions"]?.AsObject() ?? [])
        {
            Versions[name] = version!.GetValue<string>();
        }
    }

    private JsonNode? Ask(JsonObject request, TimeSpan limit)
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
        // It hangs or has died: another takes its place, without the row's data.
        Stop();
        if ((string?)request["do"] != "hello")
        {
            Start();
        }
        return null;
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
