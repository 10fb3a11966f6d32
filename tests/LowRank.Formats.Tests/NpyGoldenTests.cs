using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Arrays as NumPy writes them, and files that only look so.</summary>
public class NpyGoldenTests
{
    private const string Folder = "formats/npy";

    public static TheoryData<string> Arrays => Golden.Cases(Folder, name => !IsArchive(name), ".npy");

    public static TheoryData<string> Archives => Golden.Cases(Folder, IsArchive, ".npz");

    [Theory, MemberData(nameof(Arrays))]
    public void Golden_npy(string name) => Golden.Run(Folder, name, c =>
    {
        JsonElement verdict = GoldenFiles.Verdict(c);
        if (verdict.GetProperty("expect").GetString() is not "accept")
        {
            // Where the verdict is "either" this reader refuses too: bytes behind the data, an order of no file, a header without an end.
            GoldenFiles.Refused(c.Path, () => NpyFile.Open(c.Path));
            return;
        }
        using SafeTensorsFile want = GoldenFiles.Beside(c, "expected.safetensors");
        using NpyFile got = NpyFile.Open(c.Path);
        Same(want, "out." + name, got, NpyFile.ArrayName);
        Assert.Equal(want["out." + name].Dimensions, got[NpyFile.ArrayName].Dimensions);
    }, ending: ".npy");

    [Theory, MemberData(nameof(Archives))]
    public void Golden_npz(string name) => Golden.Run(Folder, name, c =>
    {
        JsonElement verdict = GoldenFiles.Verdict(c, ".npz");
        if (verdict.GetProperty("expect").GetString() == "reject")
        {
            GoldenFiles.Refused(c.Path, () =>
            {
                using NpzFile bad = NpzFile.Open(c.Path);
                return bad.Entries.Select(e => bad.Bytes(e.Name).Length).ToArray();      // a checksum shows when the data are read
            });
            return;
        }
        using SafeTensorsFile want = GoldenFiles.Beside(c, "expected.safetensors");
        using NpzFile got = NpzFile.Open(c.Path);
        string[] members = [.. verdict.GetProperty("members").EnumerateArray().Select(m => m.GetString()!)];
        Assert.Equal(members, got.Entries.Select(e => e.Name));
        Assert.All(members, m => Same(want, "npz." + m, got, m));
    }, ending: ".npz");

    /// <summary>The writer's files are NumPy's, byte for byte.</summary>
    [Theory, InlineData("le_f2"), InlineData("le_f4"), InlineData("le_f8"), InlineData("le_i1"), InlineData("le_i2"), InlineData("le_i4"), InlineData("le_i8"), InlineData("le_u1"),
     InlineData("le_u2"), InlineData("le_u4"), InlineData("le_u8"), InlineData("bool"), InlineData("zero_d_f4"), InlineData("empty_0x3"), InlineData("one"), InlineData("rank6"), InlineData("specials_f4")]
    public void Golden_npy_written(string name) => Golden.Run(Folder, name, c =>
    {
        string path = Path.GetTempFileName();
        try
        {
            using (NpyFile file = NpyFile.Open(c.Path))
            {
                NpyFile.Save(path, TensorData.Of(file, NpyFile.ArrayName));
            }
            Assert.Equal(File.ReadAllBytes(c.Path), File.ReadAllBytes(path));
        }
        finally
        {
            File.Delete(path);
        }
    }, ending: ".npy");

    // required.txt names cases without their ending.
    private static bool IsArchive(string name) => Golden.Find($"{Folder}/{name}.npz") is not null;

    // The expected file holds unsigned numbers as signed ones and special floats as integers: the bytes are the same.
    private static void Same(SafeTensorsFile want, string name, TensorSource got, string array) => Assert.Equal(want.Bytes(name), got.Bytes(array));
}
