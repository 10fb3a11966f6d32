using System.Diagnostics;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models.Data;
using LowRank.Subspaces;
using SkiaSharp;

namespace LowRank.Cli;

/// <summary>Restores the missing pixels of a picture as the matrix [height, width·channels] of its bytes; known pixels stay as they are.</summary>
internal static class PictureCompletion
{
    private const byte Opaque = 255;
    private const int Gap = 8;      // pixels between the two pictures
    private const double Brightest = 255;

    /// <summary>Fits, measures where the truth is known, and writes.</summary>
    public static JsonObject Run(string file, double? share, CompletionWish wish, CancellationToken cancellation)
    {
        long began = Stopwatch.GetTimestamp();
        DecodedImage picture = PngDecoder.DecodeWithAlpha(file);
        (int height, int width, int channels) = (picture.Height, picture.Width, picture.Channels - 1);
        bool[] hidden = Hidden(picture, share, wish.Options.Seed, file);
        int count = hidden.Count(h => h);
        if (count == 0 || count == hidden.Length)
        {
            throw new UsageException($"complete: {file} has {count} missing pixels of {hidden.Length}, want some of both; --missing 0.5 hides half of them at random");
        }
        byte Of(int pixel, int channel) => picture.Pixels[(pixel * picture.Channels) + channel];
        List<int> rows = [], cols = [];
        List<double> values = [];
        for (int pixel = 0; pixel < hidden.Length; pixel++)
        {
            for (int c = 0; c < channels && !hidden[pixel]; c++)
            {
                rows.Add(pixel / width);
                cols.Add((pixel % width * channels) + c);
                values.Add(Of(pixel, c));
            }
        }
        var data = new Observations(height, width * channels, [.. rows], [.. cols], [.. values]);
        using FolderLock own = FolderLock.Take(wish.Output!);
        CompletionChoice choice = wish.Choose(data, cancellation);
        Completion found = CompletionSearch.Fit(data, wish.Options, choice, wish.Progress, cancellation);
        byte[] before = new byte[hidden.Length * channels], after = new byte[hidden.Length * channels];
        double squares = 0;
        for (int i = 0; i < after.Length; i++)
        {
            (int pixel, int c) = (i / channels, i % channels);
            double value = hidden[pixel] ? Math.Clamp(found.Predict(pixel / width, (pixel % width * channels) + c), 0, Brightest) : Of(pixel, c);
            squares += hidden[pixel] ? (value - Of(pixel, c)) * (value - Of(pixel, c)) : 0;
            (before[i], after[i]) = (hidden[pixel] ? (byte)0 : Of(pixel, c), (byte)Math.Round(value));
        }
        string restored = Path.Combine(wish.Output!, "restored.png"), both = Path.Combine(wish.Output!, "before-after.png");
        AtomicFile.WriteBytes(restored, Png(after, height, width, channels));
        AtomicFile.WriteBytes(both, Png(SideBySide(before, after, height, width, channels), height, (2 * width) + Gap, channels));
        Output.Warn(found.Warnings.Where(w => !w.StartsWith("not converged", StringComparison.Ordinal)));
        double rmse = Math.Sqrt(squares / ((double)count * channels));
        return new JsonObject
        {
            ["image"] = file,
            ["height"] = height,
            ["width"] = width,
            ["channels"] = channels,
            ["missing_pixels"] = count,
            ["rank"] = found.Rank,
            ["lambda"] = choice.Lambda,
            ["known_rmse"] = found.Rmse(data, 0, Brightest),
            ["missing_rmse"] = share is null ? null : rmse,
            ["missing_psnr_db"] = share is null ? null : Output.Value(20 * Math.Log10(Brightest / rmse)),
            ["restored"] = restored,
            ["before_after"] = both,
            ["seconds"] = Math.Round(Stopwatch.GetElapsedTime(began).TotalSeconds, 3),
        };
    }

    /// <summary>A share at random; else pixels that are not opaque; else black ones.</summary>
    private static bool[] Hidden(DecodedImage picture, double? share, ulong seed, string file)
    {
        int count = picture.Height * picture.Width, channels = picture.Channels;
        if (share is { } part)
        {
            if (part is not (> 0 and < 1))
            {
                throw new UsageException($"complete: missing is {part} for {file}, want a share between 0 and 1");
            }
            var hidden = new bool[count];
            Array.ForEach(new Rng(seed).Fork("missing pixels").Permutation(count)[..(int)Math.Round(part * count)], pixel => hidden[pixel] = true);
            return hidden;
        }
        bool[] clear = [.. Enumerable.Range(0, count).Select(pixel => picture.Pixels[(pixel * channels) + channels - 1] < Opaque)];
        return clear.Contains(true) ? clear : [.. Enumerable.Range(0, count).Select(pixel => !picture.Pixels.AsSpan(pixel * channels, channels - 1).ContainsAnyExcept((byte)0))];
    }

    private static byte[] SideBySide(byte[] left, byte[] right, int height, int width, int channels)
    {
        int row = width * channels, wide = (2 * row) + (Gap * channels);
        byte[] both = new byte[height * wide];
        Array.Fill(both, Opaque);
        for (int y = 0; y < height; y++)
        {
            left.AsSpan(y * row, row).CopyTo(both.AsSpan(y * wide));
            right.AsSpan(y * row, row).CopyTo(both.AsSpan((y * wide) + row + (Gap * channels)));
        }
        return both;
    }

    private static byte[] Png(byte[] pixels, int height, int width, int channels)
    {
        byte[] whole = channels == 1 ? pixels : new byte[height * width * 4];
        for (int pixel = 0; channels == 3 && pixel < height * width; pixel++)
        {
            pixels.AsSpan(3 * pixel, 3).CopyTo(whole.AsSpan(4 * pixel));
            whole[(4 * pixel) + 3] = Opaque;
        }
        using SKImage image = SKImage.FromPixelCopy(new SKImageInfo(width, height, channels == 1 ? SKColorType.Gray8 : SKColorType.Rgba8888, SKAlphaType.Opaque), whole);
        using SKData encoded = image.Encode(SKEncodedImageFormat.Png, 100);
        return encoded.ToArray();
    }
}
