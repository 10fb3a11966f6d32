using System.Text.Json.Nodes;

namespace LowRank.Models.Blocks;

/// <summary>Frequencies of rotary position embeddings as config.json gives them, plain or scaled for longer contexts, and the table of their angles, which
/// grows with the positions asked for.</summary>
internal sealed class RotaryAngles
{
    private readonly Device device;
    private readonly DType type;
    private readonly double[] frequencies;
    private readonly double factor = 1;
    private Scope? store;
    private Tensor? table;

    /// <param name="config">Holds rope_parameters, or the older rope_theta (gpt-neox: rotary_emb_base, rotary_pct) and rope_scaling.</param>
    /// <param name="headDim">Channels a head.</param>
    /// <param name="device">Where the table goes.</param>
    /// <param name="type">Of the activations.</param>
    /// <param name="parameters">Stand for rope_parameters where layers differ.</param>
    /// <exception cref="LowRank.Formats.ModelFormatException">The kind of scaling is unknown, or a number of it is missing.</exception>
    public RotaryAngles(ModelConfig config, int headDim, Device device, DType type, JsonObject? parameters = null)
    {
        (this.device, this.type) = (device, type);
        JsonObject scaling = parameters ?? config.Object("rope_parameters") ?? config.Object("rope_scaling") ?? [];
        double theta = config.Number(scaling, "rope_theta", config.Number("rope_theta", config.Number("rotary_emb_base", 10000)));
        double partial = config.Number(scaling, "partial_rotary_factor", config.Number("partial_rotary_factor", config.Number("rotary_pct", 1)));
        int rotated = (int)(headDim * partial);
        frequencies = [.. Enumerable.Range(0, rotated / 2).Select(i => Math.Pow(theta, -2.0 * i / rotated))];
        double longest = config.Count("max_position_embeddings", 2048);
        double Number(string key, double? missing = null) => config.Number(scaling, key, missing);
        switch ((scaling["rope_type"] ?? scaling["type"])?.GetValue<string>() ?? "default")
        {
            case "default":
                break;
            case "linear":
                Scale(_ => 1 / Number("factor"));
                break;
            case "llama3":
                double length = Number("original_max_position_embeddings", longest), low = Number("low_freq_factor"), high = Number("high_freq_factor");
                Scale(i => Smooth(((length * frequencies[i] / (2 * Math.PI)) - low) / (high - low), Number("factor")));
                break;
            case "yarn":
                double original = Number("original_max_position_embeddings", longest), divisor = Number("factor");
                double Channel(double turns) => rotated * Math.Log(original / (turns * 2 * Math.PI)) / (2 * Math.Log(theta));
                double from = Math.Max(Math.Floor(Channel(Number("beta_fast", 32))), 0), to = Math.Min(Math.Ceiling(Channel(Number("beta_slow", 1))), rotated - 1);
                Scale(i => Smooth(1 - Math.Clamp((i - from) / Math.Max(to - from, 0.001), 0, 1), divisor));
                factor = Number("attention_factor", (0.1 * Math.Log(divisor)) + 1);
                break;
            case var other:
                throw config.Wrong("rope_type", other, "default, linear, llama3 or yarn");
        }
    }

    /// <summary>The table for positions 0 .. count-1 at least.</summary>
    public Tensor Table(int count)
    {
        if (table is null || table.Shape[0] < count)
        {
            store?.Dispose();
            store = device.NewStore();
            table = Rope.Angles(store, (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)Math.Max(count, 64)), frequencies, type, factor);
        }
        return table;
    }

    // Between the plain frequency (1 and more) and the divided one (0 and less).
    private static double Smooth(double kept, double divisor)
    {
        double share = Math.Clamp(kept, 0, 1);
        return share + ((1 - share) / divisor);
    }

    private void Scale(Func<int, double> by)
    {
        double[] factors = [.. Enumerable.Range(0, frequencies.Length).Select(by)];
        for (int i = 0; i < frequencies.Length; i++)
        {
            frequencies[i] *= factors[i];
        }
    }
}
