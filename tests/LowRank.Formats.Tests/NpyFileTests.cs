using System.IO.Compression;
using System.Text;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>NumPy arrays of our own, and hostile ones.</summary>
public sealed class NpyFileTests : FolderTest
{
    [Theory, InlineData(false), InlineData(true)]
    public void Archives_come_back(bool compress)
    {
        TensorData[] tensors = [TensorData.Of("w/a", [2, 3], [1f, 2, 3, 4, 5, 6]), TensorData.Of("é", [], [7L]), TensorData.Of("big", [100_000], new float[100_000])];
        NpzFile.Save(At("a.npz"), tensors, compress);
        NpzFile.Save(At("b.npz"), tensors, compress);
        Assert.Equal(File.ReadAllBytes(At("a.npz")), File.ReadAllBytes(At("b.npz")));      // no clock in it
        using TensorSource source = TensorSource.Open(At("a.npz"));
        Assert.Equal(["w/a", "é", "big"], source.Entries.Select(e => e.Name));
        Assert.Equal("F32[2, 3]", source["w/a"].ToString());
        Assert.Equal([1f, 2, 3, 4, 5, 6], source.ReadSingle("w/a"));
        Assert.Equal([7L], source.ReadInt64("é"));
        Assert.Equal(new float[100_000], source.ReadSingle("big"));
        Assert.Equal(compress, new FileInfo(At("a.npz")).Length < 400_000);
        Assert.Contains("NpzFile: " + At("a.npz") + " has no tensor 'none'", Assert.Throws<ModelFormatException>(() => source.ReadSingle("none")).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Types_that_numpy_lacks_are_refused_before_anything_is_written()
    {
        TensorData bf16 = TensorData.Of("w", [1], [1f], DType.BF16);
        Assert.Contains("'w' is BF16", Assert.Throws<ArgumentException>(() => NpyFile.Save(At("a.npy"), bf16)).Message, StringComparison.Ordinal);
        Assert.Throws<ArgumentException>(() => NpzFile.Save(At("a.npz"), [bf16]));
        Assert.Throws<ArgumentException>(() => NpyFile.Save(At("a.npy"), TensorData.Of("w", SafeTensorsType.U8, new long[65], Array.Empty<byte>())));
        TensorData one = TensorData.Of("t", [1], [1f]);
        Assert.Throws<ArgumentException>(() => NpzFile.Save(At("a.npz"), [one, one]));
        Assert.Throws<ArgumentException>(() => NpzFile.Save(At("a.npz"), [TensorData.Of("../t", [1], [1f])]));
        Assert.Empty(Files());
    }

    [Theory]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }", "")]
    [InlineData("{\"shape\":(2,1),\"descr\":\"<f4\",\"fortran_order\":False}", "")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (2), }", "a number in brackets as shape, want a tuple: (2,)")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'descr': '<f4'}", "has descr twice")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,), }", "a size of 2^63 or more")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "8 bytes of data but its header describes 12: it is cut short")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "8 bytes of data but its header describes 4: something was appended")]
    [InlineData("{'descr': '|f4', 'fortran_order': False, 'shape': (2,), }", "has descr '|f4', want numbers")]
    [InlineData("{'descr': '', 'fortran_order': False, 'shape': (2,), }", "has descr '', want numbers")]
    [InlineData("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "an object array is a pickle inside")]
    [InlineData("{'descr': '<V2', 'fortran_order': False, 'shape': (4,), }", "no bfloat16")]
    [InlineData("{'descr': 4, 'fortran_order': False, 'shape': (4,), }", "want descr in quotes")]
    [InlineData("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,), }", "want True or False")]
    [InlineData("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,), }", "want whole numbers from 0")]
    public void Headers_are_read_as_python_would_or_refused(string literal, string want)
    {
        byte[] file = [0x93, .. "NUMPY"u8, 1, 0, (byte)(literal.Length + 1), 0, .. Encoding.ASCII.GetBytes(literal), (byte)'\n', .. new byte[8]];
        if (want.Length == 0)
        {
            using NpyFile good = NpyFile.Read(file);
            Assert.Equal("F32[2, 1]", good[NpyFile.ArrayName].ToString());
            return;
        }
        Assert.Contains(want, GoldenFiles.Refused("memory", () => NpyFile.Read(file)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Every_truncation_is_refused()
    {
        NpyFile.Save(At("a.npy"), TensorData.Of("t", [3], [1f, 2, 3]));
        NpzFile.Save(At("a.npz"), [TensorData.Of("t", [3], [1f, 2, 3]), TensorData.Of("u", [3], [1f, 2, 3])], compress: true);
        byte[] array = File.ReadAllBytes(At("a.npy")), archive = File.ReadAllBytes(At("a.npz"));
        Assert.All(Enumerable.Range(0, array.Length), n => Assert.Throws<ModelFormatException>(() => NpyFile.Read(array.AsMemory(0, n))));
        Assert.All(Enumerable.Range(0, archive.Length), n => Assert.Throws<ModelFormatException>(() => NpzFile.Read(archive.AsMemory(0, n))));
    }

    [Fact]
    public void A_bomb_is_refused_before_it_is_unpacked()
    {
        // A gigabyte of zeros in a megabyte.
        using (var zip = new ZipArchive(File.Create(At("bomb.npz")), ZipArchiveMode.Create))
        {
            using Stream member = zip.CreateEntry("w.npy").Open();
            string literal = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000,)}";
            member.Write([0x93, .. "NUMPY"u8, 1, 0, (byte)(literal.Length + 1), 0, .. Encoding.ASCII.GetBytes(literal), (byte)'\n']);
            var zeros = new byte[1_000_000];
            for (int i = 0; i < 1000; i++)
            {
                member.Write(zeros);
            }
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        ModelFormatException error = GoldenFiles.Refused(At("bomb.npz"), () => NpzFile.Open(At("bomb.npz")));
        Assert.Contains("'w' brings the archive over", error.Message, StringComparison.Ordinal);
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 1 << 20);
    }

    [Theory, InlineData(22), InlineData(18)]
    public void A_size_that_deflate_cannot_reach_is_refused(int field)
    {
        NpzFile.Save(At("a.npz"), [TensorData.Of("t", [3], [1f, 2, 3])]);
        byte[] file = File.ReadAllBytes(At("a.npz"));
        int directory = file.AsSpan().LastIndexOf("PK\u0001\u0002"u8);
        BitConverter.TryWriteBytes(file.AsSpan(directory + field + 2), 200_000_000);      // unpacked or packed size
        Assert.Contains("NpzFile: memory: 't' ", GoldenFiles.Refused("memory", () => NpzFile.Read(file)).Message, StringComparison.Ordinal);
    }
}
