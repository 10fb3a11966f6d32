using System.Text.Json.Nodes;
using LowRank.Bench;

namespace LowRank.Cuda.Bench;

/// <summary>The Python process on the other side. It holds its own copy of the data, and the two sides take turns on the one GPU. A peer that fails, or gives no answer in time, is a line of the table, never the end.</summary>
internal sealed class Peer : IDisposable
{
    private static readonly TimeSpan ToPrepare = TimeSpan.FromSeconds(240), ToSample = TimeSpan.FromSeconds(60);
    private readonly PythonPipe pipe;
    private readonly string work;

    /// <summary>Starts <paramref name="script"/>, if one is named; what it says besides goes to a log in <paramref name="work"/>.</summary>
    public Peer(string? script, string device, string work) => (pipe, this.work) = (new(script, "--device", device, "--work", work), work);

    /// <summary>Why there is none, or null.</summary>
    public string? Missing => pipe.Missing;

    /// <summary>Names and versions of what it runs on.</summary>
    public IReadOnlyDictionary<string, string> Versions => pipe.Versions;

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
        JsonNode? answer = pipe.Ask(
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
        JsonNode? answer = pipe.Ask(new JsonObject { ["do"] = "prepare", ["way"] = way, ["alone"] = alone }, ToPrepare);
        return answer is null ? (null, Missing ?? "no answer in time") : ((double?)answer["error"], (string?)answer["failed"]);
    }

    /// <summary>Microseconds a call over so many replays of all sets.</summary>
    public double? Sample(string way, int replays) => (double?)pipe.Ask(new JsonObject { ["do"] = "sample", ["way"] = way, ["replays"] = replays }, ToSample)?["us"];

    /// <summary>Gives the memory of a row back.</summary>
    public void End() => pipe.Ask(new JsonObject { ["do"] = "end" }, ToSample);

    /// <summary>Any other request; null where there is no answer.</summary>
    public JsonNode? Ask(JsonObject request) => pipe.Ask(request, ToPrepare);

    /// <inheritdoc/>
    public void Dispose() => pipe.Dispose();
}
