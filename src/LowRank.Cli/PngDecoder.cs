using LowRank.Formats;
using LowRank.Models.Data;
using SkiaSharp;

namespace LowRank.Cli;

/// <summary>PNG files for <see cref="ImageFolder"/>: 8-bit gray or RGB; a transparent image is refused, because what lies behind it is unknown.</summary>
internal static class PngDecoder
{
    private const long MostPixels = 1L << 26;

    /// <summary>Decodes one file.</summary>
    /// <exception cref="FileNotFoundException">The file is not there.</exception>
    /// <exception cref="ModelFormatException">The file is not a PNG image, is damaged, too large or transparent.</exception>
    public static DecodedImage Decode(string path)
    {
        DecodedImage image = Read(path);
        return image.Channels == 1 ? image : new DecodedImage(WithoutAlpha(image.Pixels, path), 3, image.Height, image.Width);
    }

    /// <summary>Decodes one file with its transparency as the last channel: gray and alpha, or RGB and alpha; 255 is opaque.</summary>
    /// <exception cref="FileNotFoundException">The file is not there.</exception>
    /// <exception cref="ModelFormatException">The file is not a PNG image, is damaged or too large.</exception>
    public static DecodedImage DecodeWithAlpha(string path)
    {
        DecodedImage image = Read(path);
        return image.Channels == 4 ? image : new DecodedImage([.. image.Pixels.SelectMany(gray => (byte[])[gray, 255])], 2, image.Height, image.Width);
    }

    /// <summary>Gray, or RGB and alpha.</summary>
    private static DecodedImage Read(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        using SKData data = SKData.CreateCopy(file);
        using SKCodec codec = SKCodec.Create(data) ?? throw new ModelFormatException($"PngDecoder: {path} is not an image that can be read");
        if (codec.EncodedFormat != SKEncodedImageFormat.Png)
        {
            throw new ModelFormatException($"PngDecoder: {path} is {codec.EncodedFormat}, want PNG");
        }
        SKImageInfo info = codec.Info;
        if ((long)info.Width * info.Height > MostPixels)
        {
            throw new ModelFormatException($"PngDecoder: {path} is {info.Height}x{info.Width}, want at most {MostPixels} pixels");
        }
        bool gray = info.ColorType == SKColorType.Gray8;
        SKImageInfo wanted = new(info.Width, info.Height, gray ? SKColorType.Gray8 : SKColorType.Rgba8888, gray ? SKAlphaType.Opaque : SKAlphaType.Unpremul);
        byte[] pixels = new byte[wanted.BytesSize];
        unsafe
        {
            fixed (byte* start = pixels)
            {
                SKCodecResult result = codec.GetPixels(wanted, (nint)start);
                if (result != SKCodecResult.Success)
                {
                    throw new ModelFormatException($"PngDecoder: {path} is damaged ({result})");
                }
            }
        }
        return new DecodedImage(pixels, gray ? 1 : 4, info.Height, info.Width);
    }

    private static byte[] WithoutAlpha(byte[] rgba, string path)
    {
        byte[] rgb = new byte[rgba.Length / 4 * 3];
        for (int i = 0; i < rgba.Length / 4; i++)
        {
            if (rgba[4 * i + 3] != 255)
            {
                throw new ModelFormatException($"PngDecoder: {path} is transparent at pixel {i}, want an opaque image: flatten it first");
            }
            rgba.AsSpan(4 * i, 3).CopyTo(rgb.AsSpan(3 * i));
        }
        return rgb;
    }
}
