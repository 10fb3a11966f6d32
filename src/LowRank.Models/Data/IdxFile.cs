using System.Buffers.Binary;
using System.Globalization;
using System.IO.Compression;
using LowRank.Formats;

namespace LowRank.Models.Data;

/// <summary>An array of bytes in the IDX format of MNIST, plain or gzipped (told by content): two zero bytes, the type (0x08: unsigned bytes),
/// the number of dimensions, each dimension as a big-endian 32-bit number, the values.</summary>
public sealed record IdxFile
{
    private const int UnsignedByte = 0x08;
    private const int MostDimensions = 4;

    private IdxFile(string name, int[] shape, byte[] values) => (Name, Shape, Values) = (name, shape, values);

    /// <summary>Where the array came from, for messages.</summary>
    public string Name { get; }

    /// <summary>The dimensions, outermost first.</summary>
    public IReadOnlyList<int> Shape { get; }

    /// <summary>The values, row-major.</summary>
    public byte[] Values { get; }

    /// <summary>Reads a file.</summary>
    /// <exception cref="FileNotFoundException">The file is not there.</exception>
    /// <exception cref="ModelFormatException">The file is not an IDX array of unsigned bytes, or is cut short, or goes on after its values.</exception>
    public static IdxFile Read(string path)
    {
        using FileStream stream = File.OpenRead(path);
        return Read(stream, path);
    }

    /// <summary>Reads a seekable stream to its end; <paramref name="name"/> is what messages call it.</summary>
    /// <exception cref="ModelFormatException">As for a file.</exception>
    public static IdxFile Read(Stream stream, string name)
    {
        ArgumentNullException.ThrowIfNull(stream);
        try
        {
            long start = stream.Position;
            bool zipped = stream.ReadByte() == 0x1f && stream.ReadByte() == 0x8b;
            stream.Position = start;
            if (!zipped)
            {
                return ReadPlain(stream, name);
            }
            using GZipStream plain = new(stream, CompressionMode.Decompress, leaveOpen: true);
            return ReadPlain(plain, name);
        }
        catch (InvalidDataException error)
        {
            throw new ModelFormatException($"IdxFile: {name} is a damaged gzip file: {error.Message}");
        }
    }

    /// <summary>Reads <c>PART-images-idx3-ubyte</c> and <c>PART-labels-idx1-ubyte</c>, with or without <c>.gz</c>, from a folder.</summary>
    /// <param name="folder">The folder.</param>
    /// <param name="part">"train" or "t10k" in the data sets laid out like MNIST.</param>
    /// <param name="classes">Class names; null: the labels' numbers, up to the largest.</param>
    /// <exception cref="FileNotFoundException">A file is not there.</exception>
    /// <exception cref="ModelFormatException">A file is damaged, or images and labels do not fit.</exception>
    public static ImageSet ReadFolder(string folder, string part, IReadOnlyList<string>? classes = null) =>
        ToImages(Read(Find(folder, $"{part}-images-idx3-ubyte")), Read(Find(folder, $"{part}-labels-idx1-ubyte")), classes);

    /// <summary>Gray images [N, height, width] with labels [N]; a byte b becomes b / <paramref name="white"/>.</summary>
    /// <exception cref="ModelFormatException">The shapes do not fit, a value is above white, or a label has no class.</exception>
    public static ImageSet ToImages(IdxFile images, IdxFile labels, IReadOnlyList<string>? classes = null, int white = 255)
    {
        ArgumentNullException.ThrowIfNull(images);
        ArgumentNullException.ThrowIfNull(labels);
        if (images.Shape.Count != 3 || images.Shape.Contains(0))
        {
            throw new ModelFormatException($"IdxFile: {images.Name} is [{string.Join(", ", images.Shape)}], want images [N, height, width]");
        }
        if (labels.Shape.Count != 1 || labels.Shape[0] != images.Shape[0])
        {
            throw new ModelFormatException($"IdxFile: {labels.Name} is [{string.Join(", ", labels.Shape)}], want [{images.Shape[0]}], one label an image of {images.Name}");
        }
        float[] pixels = new float[images.Values.Length];
        for (int i = 0; i < pixels.Length; i++)
        {
            if (images.Values[i] > white)
            {
                throw new ModelFormatException($"IdxFile: value {i} of {images.Name} is {images.Values[i]}, want 0..{white}");
            }
            pixels[i] = images.Values[i] / (float)white;
        }
        int[] numbers = [.. labels.Values.Select(label => (int)label)];
        classes ??= [.. Enumerable.Range(0, numbers.Max() + 1).Select(c => c.ToString(CultureInfo.InvariantCulture))];
        return new ImageSet(pixels, numbers, 1, images.Shape[1], images.Shape[2], classes);
    }

    private static string Find(string folder, string name)
    {
        string plain = Path.Combine(folder, name);
        string zipped = plain + ".gz";
        return File.Exists(plain) ? plain : File.Exists(zipped) ? zipped
            : throw new FileNotFoundException($"IdxFile: neither {name} nor {name}.gz is in {folder}", plain);
    }

    private static IdxFile ReadPlain(Stream stream, string name)
    {
        Span<byte> head = stackalloc byte[4];
        ReadHead(stream, head, name);
        if (head[0] != 0 || head[1] != 0)
        {
            throw new ModelFormatException($"IdxFile: {name} begins with bytes {head[0]:x2} {head[1]:x2}, want 00 00: not an IDX file");
        }
        if (head[2] != UnsignedByte)
        {
            throw new ModelFormatException($"IdxFile: {name} holds type 0x{head[2]:x2}, want 0x08 (unsigned bytes)");
        }
        if (head[3] is 0 or > MostDimensions)
        {
            throw new ModelFormatException($"IdxFile: {name} has {head[3]} dimensions, want 1..{MostDimensions}");
        }
        int[] shape = new int[head[3]];
        long count = 1;
        for (int i = 0; i < shape.Length; i++)
        {
            ReadHead(stream, head, name);
            uint size = BinaryPrimitives.ReadUInt32BigEndian(head);
            // count stays below 2^31 before each product, so the product cannot overflow.
            count *= size;
            if (count > Array.MaxLength)
            {
                throw new ModelFormatException($"IdxFile: {name} claims more than {Array.MaxLength} values (dimension {i} is {size})");
            }
            shape[i] = (int)size;
        }
        return new IdxFile(name, shape, ReadValues(stream, (int)count, name));
    }

    private static void ReadHead(Stream stream, Span<byte> head, string name)
    {
        if (stream.ReadAtLeast(head, head.Length, throwOnEndOfStream: false) < head.Length)
        {
            throw new ModelFormatException($"IdxFile: {name} ends inside its header");
        }
    }

    // Grows with what the stream really gives: a header that claims gigabytes allocates nothing.
    private static byte[] ReadValues(Stream stream, int count, string name)
    {
        byte[] values = new byte[Math.Min(count, 1 << 16)];
        int got = 0;
        while (got < count)
        {
            if (got == values.Length)
            {
                Array.Resize(ref values, (int)Math.Min(count, 2L * values.Length));
            }
            int read = stream.Read(values.AsSpan(got));
            if (read == 0)
            {
                throw new ModelFormatException($"IdxFile: {name} has {got} values, want {count}: the file is cut short");
            }
            got += read;
        }
        return stream.ReadByte() < 0 ? values : throw new ModelFormatException($"IdxFile: {name} goes on after its {count} values");
    }
}
