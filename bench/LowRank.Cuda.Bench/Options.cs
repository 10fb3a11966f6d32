using System.Globalization;

namespace LowRank.Cuda.Bench;

/// <summary>The words after the command.</summary>
internal sealed record Options
{
    /// <summary>Device by the name that DeviceList.Open knows.</summary>
    public string Device { get; private init; } = "cuda";

    /// <summary>Folder for the part of the results; null writes none.</summary>
    public string? Parts { get; private init; }

    /// <summary>Folder for data on its way to the peer, logs and the model of the step.</summary>
    public string Work { get; private init; } = "work";

    /// <summary>The peer's script; null: no peer.</summary>
    public string? Peer { get; private init; }

    /// <summary>Seconds after which no further row is begun.</summary>
    public double Seconds { get; private init; } = 540;

    /// <summary>Random shapes.</summary>
    public int Count { get; private init; } = 100;

    /// <summary>Seed of the random shapes.</summary>
    public ulong Seed { get; private init; } = 1;

    /// <summary>Small shapes and few samples, for the emulator.</summary>
    public bool Tiny { get; private init; }

    /// <summary>Reads the words.</summary>
    /// <exception cref="FormatException">A word is unknown, or its value is missing or no number.</exception>
    public static Options Parse(ReadOnlySpan<string> words)
    {
        var options = new Options();
        for (int i = 0; i < words.Length; i++)
        {
            if (words[i] == "--tiny")
            {
                options = options with { Tiny = true };
                continue;
            }
            string value = i + 1 < words.Length ? words[i + 1] : throw new FormatException($"{words[i]}: its value is missing");
            options = words[i++] switch
            {
                "--device" => options with { Device = value },
                "--parts" => options with { Parts = value },
                "--work" => options with { Work = value },
                "--peer" => options with { Peer = value },
                "--seconds" => options with { Seconds = double.Parse(value, CultureInfo.InvariantCulture) },
                "--count" => options with { Count = int.Parse(value, CultureInfo.InvariantCulture) },
                "--seed" => options with { Seed = ulong.Parse(value, CultureInfo.InvariantCulture) },
                _ => throw new FormatException($"{words[i - 1]}: no such option, want --device, --parts, --work, --peer, --seconds, --count, --seed or --tiny"),
            };
        }
        return options;
    }
}
