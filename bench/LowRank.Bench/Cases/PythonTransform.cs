using System.Runtime.InteropServices;
using System.Text.Json.Nodes;

namespace LowRank.Bench.Cases;

/// <summary>SciPy's or PyWavelets' form of a row, in a Python process that takes turns with us; a call is a line there and a line back, some 0.05 ms of its time.</summary>
internal sealed class PythonTransform : IDisposable
{
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(60);
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-bench").FullName;
    private readonly PythonPipe pipe;

    /// <summary>Hands over the data.</summary>
    /// <param name="work">Method of bench/methods/transforms.py.</param>
    /// <param name="options">What it wants to know besides.</param>
    /// <param name="inputs">Its arrays.</param>
    /// <exception cref="PeerMissingException">There is no Python here, or a package is not there.</exception>
    /// <exception cref="InvalidOperationException">It cannot do the work.</exception>
    public PythonTransform(string work, JsonObject options, params float[][] inputs)
    {
        pipe = new(Path.Combine(Testing.Golden.Repository, "bench", "methods", "transforms.py"), "--work", folder);
        try
        {
            if (pipe.Missing is { } reason)
            {
                throw new PeerMissingException($"the peer is missing: {reason}; LOWRANK_PYTHON names an interpreter with SciPy and PyWavelets");
            }
            var files = new JsonArray();
            foreach (float[] input in inputs)
            {
                string file = Path.Combine(folder, $"in-{files.Count}.bin");
                File.WriteAllBytes(file, MemoryMarshal.AsBytes(input.AsSpan()));
                files.Add(file);
            }
            (options["do"], options["work"], options["inputs"]) = ("offer", work, files);
            Ways = Ask(options)["ways"]!.AsArray().Select(way => way!.GetValue<string>()).ToDictionary(way => way, Call);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>What it can do, by name.</summary>
    public IReadOnlyDictionary<string, Action<int, Results?>> Ways { get; }

    /// <inheritdoc/>
    public void Dispose()
    {
        pipe.Dispose();
        Directory.Delete(folder, recursive: true);
    }

    private Action<int, Results?> Call(string way) => (_, results) =>
    {
        string? file = results is null ? null : Path.Combine(folder, "out.bin");
        Ask(new JsonObject { ["do"] = "call", ["way"] = way, ["result"] = file });
        if (file is not null)
        {
            results!.Values.Add([.. MemoryMarshal.Cast<byte, float>(File.ReadAllBytes(file)).ToArray().Select(v => (double)v)]);
        }
    };

    private JsonNode Ask(JsonObject request) => pipe.Ask(request, Limit) is not { } answer ? throw new InvalidOperationException("the peer gave no answer")
        : (string?)answer["failed"] is { } failed ? throw new InvalidOperationException($"the peer failed: {failed}") : answer;
}

/// <summary>A row whose peer is not on this machine: there is nothing to compare with.</summary>
public sealed class PeerMissingException(string message) : Exception(message);
