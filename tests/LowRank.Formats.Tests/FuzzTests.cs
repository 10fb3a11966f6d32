using System.IO.Compression;
using System.Text;
using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Tens of thousands of damaged files: two in three changed where the format has its structure, the others anywhere.</summary>
public sealed class FuzzTests(ITestOutputHelper output) : FolderTest
{
    private const int Limit = 120_000;      // ms for a whole run, which takes a few seconds: more is a hang
    private const int Stored = 64, Packed = 2048;       // bytes allocated for a byte of the file; deflate alone makes a thousand of one

    private static readonly string[] SafeTensorsSeeds =
    [
        """{"__metadata__":{"format":"pt","é":"\u00e9\n"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b.weight":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"c":{"dtype":"U8","shape":[],"data_offsets":[32,33]}}""",
        """{"w":{"dtype":"F8_E4M3","shape":[2,2,2],"data_offsets":[0,8]},"z":{"dtype":"I64","shape":[0,7],"data_offsets":[8,8]},"v":{"dtype":"F4","shape":[2],"data_offsets":[8,9]},"u":{"dtype":"BOOL","shape":[3],"data_offsets":[9,12]}}""",
        """{"x":{"shape":[1],"extra":{"deep":[1,[2]]},"data_offsets":[0,8],"dtype":"C64"},"y":{"dtype":"F64","shape":[1],"data_offsets":[8,16]},"t":{"dtype":"F16","shape":[1,1,2],"data_offsets":[16,20]}}""",
    ];

    private static readonly int[] SafeTensorsData = [33, 12, 20];

    [Fact(Timeout = Limit)]
    public Task Safetensors()
    {
        JsonElement[] seeds = [.. SafeTensorsSeeds.Select(Parse)];
        var json = new JsonFuzz([.. Enum.GetValues<SafeTensorsType>().Select(t => t.Name()), "f32", "F33", "", "a", "__metadata__", "dtype", "shape", "data_offsets"]);
        return Run(11, 20_000, Stored, Make, file => ReadAll(SafeTensorsFile.Read(file)));

        byte[] Make(Random random)
        {
            int seed = random.Next(seeds.Length);
            if (random.Next(3) == 0)
            {
                return Fuzz.Damage(Frame(SafeTensorsSeeds[seed], SafeTensorsData[seed]), random);
            }
            string text = json.Change(seeds[seed], random, Fuzz.Pick<int>([8, 20, 60], random));
            return Frame(random.Next(8) == 0 ? text + new string(' ', random.Next(9)) : text, SafeTensorsData[seed] + Fuzz.Pick<int>([0, 0, 0, 0, 0, 0, -1, 1, 8, 24], random), Fuzz.Pick<int>([0, 0, 0, 0, 0, 0, -1, 1, 8, int.MaxValue], random));
        }
    }

    [Fact(Timeout = Limit)]
    public Task Sharded_index()
    {
        SafeTensorsIndex.Save(Folder, Writer.Tensors(1, 4), shardBytes: 16);
        string index = At(SafeTensorsIndex.FileName), text = File.ReadAllText(index);
        JsonElement seed = Parse(text);
        var json = new JsonFuzz([.. Files(), "../model-00001-of-00003.safetensors", "/etc/passwd", "..", ".", "", "a\0.safetensors", "C:\\a.safetensors", "model-00009-of-00003.safetensors", "a", "b", "weight_map", "metadata"]);
        return Run(
            12, 4_000, Stored,
            random => random.Next(3) == 0 ? Fuzz.Damage(Encoding.UTF8.GetBytes(text), random) : Encoding.UTF8.GetBytes(json.Change(seed, random, Fuzz.Pick<int>([4, 8, 20], random))),
            file => ReadAll(SafeTensorsIndex.Read(file, index)));
    }

    [Fact(Timeout = Limit)]
    public Task Npy() => Run(13, 8_000, Stored, Array, file => ReadAll(NpyFile.Read(file)));

    [Fact(Timeout = Limit)]
    public Task Npz() => Run(14, 4_000, Packed, Archive, file => ReadAll(NpzFile.Read(file)));

    private static byte[] Array(Random random)
    {
        (string descr, string shape, int data) = Fuzz.Pick<(string, string, int)>([("'<f4'", "(2, 3)", 24), ("'>f8'", "(3,)", 24), ("'|u1'", "()", 1), ("\"<i2\"", "(0, 5)", 0), ("'>c8'", "(1, 2L, 1)", 16)], random);
        descr = Mostly(descr, ["'<f3'", "'|O'", "'<U3'", "[('a', '<f4')]", "'='", "''", "4", "'<f4", "'<i4'", "'=f4'", "'|f4'"]);
        shape = Mostly(shape, ["(6)", "(2, 3", "(4611686018427387904, 4)", "(4294967296, 4294967296, 4294967296)", "(-1,)", "(1.0,)", "(True,)", "(((((1)))))", "[2, 3]", "(,)", "(6,)", Ones(64), Ones(65), Ones(300), Ones(20_000)]);
        string[] fields = [$"'descr': {descr}", $"'fortran_order': {Mostly(Fuzz.Pick<string>(["False", "True"], random), ["0", "'no'", "Falsehood", ""])}", $"'shape': {shape}"];
        random.Shuffle(fields);
        string text = $"{{{string.Join(", ", fields)}{Mostly("", [", 'x': 1", ", " + fields[0], ", __import__('os')"])}, }}   {Mostly("\n", ["", "\0\n", "1\n", "\n\n"])}";
        byte version = Mostly<byte>(Fuzz.Pick<byte>([1, 2, 3], random), [0, 4, 255]);
        byte[] length = BitConverter.GetBytes(text.Length + Mostly(0, [1, -1, 1 << 20]));
        byte[] file = [0x93, .. "NUMPY"u8, version, 0, .. version == 1 ? length.AsSpan(0, 2) : length, .. Encoding.Latin1.GetBytes(text), .. new byte[data + Mostly(0, [1, 8, 24, -data])]];
        return random.Next(3) == 0 ? Fuzz.Damage(file, random) : file;

        T Mostly<T>(T good, IReadOnlyList<T> bad) => random.Next(8) == 0 ? Fuzz.Pick(bad, random) : good;

        static string Ones(int rank) => $"({string.Join(", ", Enumerable.Repeat("1", rank))})";
    }

    private static byte[] Archive(Random random)
    {
        var stream = new MemoryStream();
        using (var zip = new ZipArchive(stream, ZipArchiveMode.Create, leaveOpen: true))
        {
            for (int members = random.Next(4); members > 0; members--)
            {
                ZipArchiveEntry member = zip.CreateEntry(Fuzz.Pick<string>(["w.npy", "v.npy", "d/u.npy", "../w.npy", "/w.npy", ".npy", "w", "é.npy", "d/"], random), Fuzz.Pick<CompressionLevel>([CompressionLevel.Optimal, CompressionLevel.NoCompression], random));
                using Stream into = member.Open();
                into.Write(random.Next(3) == 0 ? Array(random) : [0x93, .. "NUMPY"u8, 1, 0, 55, 0, .. "{'descr':'<f4','fortran_order':False,'shape':(2,3),}    \n"u8, .. new byte[24]]);
            }
        }
        byte[] file = stream.ToArray();
        int directory = file.AsSpan().IndexOf("PK\u0001\u0002"u8);
        if (directory >= 0 && random.Next(3) == 0)
        {
            // A field of the directory: method, checksum, sizes, offset of the member, or the length of its name.
            (int field, int size) = Fuzz.Pick<(int, int)>([(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)], random);
            BitConverter.GetBytes(Fuzz.Pick<int>([0, 1, 8, 12, 100, 65535, 1 << 20, int.MaxValue, -1], random)).AsSpan(0, size).CopyTo(file.AsSpan(directory + field));
        }
        return random.Next(3) == 0 ? Fuzz.Damage(file, random) : file;
    }

    private async Task Run(int seed, int files, long factor, Func<Random, byte[]> make, Action<byte[]> read)
    {
        FuzzReport report = await Task.Run(() => Fuzz.Run(seed, files, make, read, factor), TestContext.Current.CancellationToken);
        output.WriteLine($"seed {seed}: {report}");
        Assert.InRange(report.Accepted, files / 50, files - (files / 5));
        Assert.InRange(report.Refusals, 10, files);
    }

    private static void ReadAll(TensorSource opened)
    {
        using TensorSource source = opened;
        foreach (SafeTensorsEntry entry in source.Entries)
        {
            Assert.Equal(entry.Length, source.Bytes(entry.Name).Length);
            if (entry.Type.TryToDType(out _))
            {
                Assert.Equal(entry.Count, source.ReadDouble(entry.Name).Length);
            }
        }
    }

    private static byte[] Frame(string header, int data, int surplus = 0)
    {
        byte[] text = Encoding.UTF8.GetBytes(header);
        return [.. BitConverter.GetBytes((long)text.Length + surplus), .. text, .. new byte[Math.Max(data, 0)]];
    }

    private static JsonElement Parse(string text)
    {
        using JsonDocument json = JsonDocument.Parse(text);
        return json.RootElement.Clone();
    }
}
