using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary>How images become a network's input, and what its outputs are called; lowrank.json beside the weights, so that an evaluation repeats it.</summary>
internal sealed record Preprocessing
{
    public const string FileName = LowRankFile.Name;

    private static readonly float[] GrayWeights = [0.299f, 0.587f, 0.114f];     // ITU-R BT.601, as PNG files are read

    /// <summary>Channels, rows and columns of the network's input.</summary>
    public required int Channels { get; init; }

    /// <inheritdoc cref="Channels"/>
    public required int Height { get; init; }

    /// <inheritdoc cref="Channels"/>
    public required int Width { get; init; }

    /// <summary>Subtracted, a value a channel; pixels are 0..1.</summary>
    public required IReadOnlyList<float> Mean { get; init; }

    /// <summary>Divided by, a value a channel.</summary>
    public required IReadOnlyList<float> Deviation { get; init; }

    /// <summary>Names of the outputs in their order.</summary>
    public required IReadOnlyList<string> Classes { get; init; }

    /// <summary>Rows and columns of the images as they were before they were resized.</summary>
    public required int SourceHeight { get; init; }

    /// <inheritdoc cref="SourceHeight"/>
    public required int SourceWidth { get; init; }

    /// <summary>What was trained on; null where that is not known.</summary>
    public ImageChoice? Data { get; init; }

    /// <summary>Input of a network of that size for such images: mean and deviation are those of <paramref name="train"/> unless <paramref name="known"/> brings its own.</summary>
    public static Preprocessing For(ImageSet train, int channels, int size, Preprocessing? known, ImageChoice? data)
    {
        ImageSet sized = Channelled(train, channels).Resize(size, size);
        (float[] mean, float[] deviation) = known is null ? sized.ChannelStatistics() : ([.. known.Mean], [.. known.Deviation]);
        return new Preprocessing
        {
            Channels = channels,
            Height = size,
            Width = size,
            Mean = mean,
            Deviation = [.. deviation.Select(d => d > 0 ? d : 1)],      // images of one colour
            Classes = [.. train.Classes],
            SourceHeight = train.Height,
            SourceWidth = train.Width,
            Data = data,
        };
    }

    /// <summary>The settings of a folder, or null where it has none: nothing was trained there from images.</summary>
    /// <exception cref="ModelFormatException">The file is damaged or contradicts itself.</exception>
    public static Preprocessing? Read(string folder)
    {
        JsonObject whole = LowRankFile.Read(folder);
        if (!whole.ContainsKey("channels"))
        {
            return null;
        }
        string path = Path.Combine(folder, FileName);
        try
        {
            Preprocessing read = whole.Deserialize(PreprocessingJson.Default.Preprocessing)!;
            bool fits = read.Channels is 1 or 3 && read.Height is > 0 and < 1 << 16 && read.Width is > 0 and < 1 << 16 && read.Mean.Count == read.Channels
                && read.Deviation.Count == read.Channels && read.Mean.All(float.IsFinite) && read.Deviation.All(d => d > 0 && float.IsFinite(d)) && read.Classes.Count > 0;
            return fits ? read : throw new ModelFormatException($"Preprocessing: {path}: sizes, mean, deviation and classes do not fit together; train again, or copy the file from the folder it came from") { File = path };
        }
        catch (JsonException error)
        {
            throw new ModelFormatException($"Preprocessing: {path}: {error.Message}", error) { File = path, Key = error.Path };
        }
    }

    /// <summary>Writes lowrank.json into a folder that is there.</summary>
    public void Write(string folder) => LowRankFile.Write(folder, JsonSerializer.SerializeToNode(this, PreprocessingJson.Default.Preprocessing)!.AsObject());

    /// <summary>The network's input: right channels, resized, normalised.</summary>
    public ImageSet Apply(ImageSet images) => Channelled(images, Channels).Resize(Height, Width).Normalize([.. Mean], [.. Deviation]);

    /// <summary>These images with labels that count in this network's classes. Names decide; numbers do where the images' classes have no names of their own.</summary>
    /// <exception cref="ModelFormatException">The images have another size than those trained on, or a class that the network does not have: names it.</exception>
    public ImageSet Match(ImageSet images, string source)
    {
        if (images.Height != SourceHeight || images.Width != SourceWidth)
        {
            throw new ModelFormatException($"{source}: images are {images.Height}x{images.Width}, want {SourceHeight}x{SourceWidth}, the size this model was trained on: resize them first");
        }
        bool numbered = images.Classes.Index().All(c => c.Item == c.Index.ToString(System.Globalization.CultureInfo.InvariantCulture));
        int[] places = [.. images.Classes.Index().Select(c => Place(c.Item, numbered ? c.Index : -1))];
        int[] used = [.. images.Labels.Distinct().Where(label => places[label] < 0)];
        if (used.Length > 0)
        {
            throw new ModelFormatException($"{source}: label {images.Classes[used[0]]} is out of range, want one of the model's {Classes.Count} classes: {string.Join(", ", Classes.Take(12))}{(Classes.Count > 12 ? ", ..." : "")}");
        }
        return new ImageSet(images.Pixels, [.. images.Labels.Select(label => places[label])], images.Channels, images.Height, images.Width, Classes);
    }

    private int Place(string name, int number)
    {
        int byName = Classes.Index().Where(c => c.Item == name).Select(c => c.Index).DefaultIfEmpty(-1).First();
        return byName >= 0 || number >= Classes.Count ? byName : number;
    }

    private static ImageSet Channelled(ImageSet images, int channels)
    {
        if (images.Channels == channels)
        {
            return images;
        }
        if ((images.Channels, channels) is not ((1, 3) or (3, 1)))
        {
            throw new ShapeException($"Preprocessing: images have {images.Channels} channels and the model takes {channels}, want equal numbers, or 1 and 3");
        }
        int plane = images.Height * images.Width;
        float[] pixels = new float[images.Count * channels * plane];
        for (int i = 0; i < images.Count; i++)
        {
            ReadOnlySpan<float> from = images.Image(i);
            Span<float> to = pixels.AsSpan(i * channels * plane, channels * plane);
            for (int c = 0; c < Math.Max(images.Channels, channels); c++)
            {
                for (int j = 0; j < plane; j++)
                {
                    if (channels == 1)
                    {
                        to[j] += GrayWeights[c] * from[c * plane + j];
                    }
                    else
                    {
                        to[c * plane + j] = from[j];
                    }
                }
            }
        }
        return new ImageSet(pixels, images.Labels, channels, images.Height, images.Width, images.Classes);
    }
}

[JsonSourceGenerationOptions(WriteIndented = true, NewLine = "\n", PropertyNamingPolicy = JsonKnownNamingPolicy.SnakeCaseLower, AllowDuplicateProperties = false)]
[JsonSerializable(typeof(Preprocessing))]
internal sealed partial class PreprocessingJson : JsonSerializerContext;
