using System.Text.Json;
using LowRank.Testing;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Safetensors files of other tools: those that must open, with their values, and those that must be refused.</summary>
public class SafeTensorsGoldenTests
{
    private const string Folder = "formats/safetensors", Sharded = "formats/safetensors/sharded", Malformed = "formats/safetensors_malformed", Pickles = "formats/pytorch_pickle";

    // The Rust library lets these pass; the format's own text forbids them (extra_field it does not mention).
    private static readonly string[] StricterThanRust = ["starts_with_space", "starts_with_newline", "duplicate_tensor"];

    public static TheoryData<string> MalformedCases => Golden.Cases(Malformed);

    public static TheoryData<string> ValidCases => Golden.Cases(Folder + "/valid");

    public static TheoryData<string> BadIndexes => Golden.Cases(Sharded, name => name.StartsWith("bad_", StringComparison.Ordinal), ".json");

    [Theory, MemberData(nameof(MalformedCases))]
    public void Golden_malformed(string name) => Golden.Run(Malformed, name, c =>
    {
        if (GoldenFiles.Verdict(c).GetProperty("expect").GetString() == "accept" && !StricterThanRust.Contains(name))
        {
            SafeTensorsFile.Open(c.Path).Dispose();
            return;
        }
        GoldenFiles.Refused(c.Path, () => SafeTensorsFile.Open(c.Path));
    });

    [Theory, MemberData(nameof(ValidCases))]
    public void Golden_valid(string name) => Golden.Run(Folder + "/valid", name, c =>
    {
        using SafeTensorsFile file = SafeTensorsFile.Open(c.Path);
        if (!GoldenFiles.Verdict(c).TryGetProperty("tensors", out JsonElement tensors))
        {
            return;
        }
        Assert.Equal(tensors.EnumerateObject().Count(), file.Entries.Count);
        foreach (JsonProperty tensor in tensors.EnumerateObject())
        {
            SafeTensorsEntry entry = file[tensor.Name];
            Assert.Equal(tensor.Value.GetProperty("dtype").GetString(), entry.Type.Name());
            Assert.Equal(tensor.Value.GetProperty("shape").EnumerateArray().Select(d => d.GetInt64()), entry.Dimensions);
            Assert.Equal(tensor.Value.GetProperty("values").EnumerateArray().Select(v => v.GetDouble()), file.ReadDouble(tensor.Name));
        }
    });

    [Theory, InlineData("dtypes")]
    public void Golden_every_type(string name) => Golden.Run(Folder, name, c =>
    {
        using SafeTensorsFile want = GoldenFiles.Beside(c, "expected_dtypes.safetensors");
        Assert.Equal(want.Entries.Count, c.Tensors.Entries.Count);
        foreach (SafeTensorsEntry bits in want.Entries)
        {
            string tensor = "t." + bits.Name["bits.".Length..];
            SafeTensorsEntry entry = c.Tensors[tensor];
            Assert.Equal(bits.Dimensions, entry.Dimensions);
            switch (entry.Type)
            {
                case SafeTensorsType.F64:
                    Assert.Equal(want.ReadDouble(bits.Name), c.Tensors.ReadDouble(tensor));
                    break;
                case SafeTensorsType.U64 or SafeTensorsType.U32 or SafeTensorsType.U16:
                    Assert.Equal(want.Bytes(bits.Name), c.Tensors.Bytes(tensor));
                    break;
                case SafeTensorsType.I64 or SafeTensorsType.I32 or SafeTensorsType.I16 or SafeTensorsType.I8 or SafeTensorsType.U8 or SafeTensorsType.Bool:
                    Assert.Equal(want.ReadInt64(bits.Name), c.Tensors.ReadInt64(tensor));
                    break;
                default:
                    // NaN equals NaN here; zeros differ by their sign.
                    Assert.Equal(want.ReadInt32(bits.Name).Select(b => Text(BitConverter.Int32BitsToSingle(b))), c.Tensors.ReadSingle(tensor).Select(Text));
                    break;
            }
        }

        static string Text(float value) => float.IsNaN(value) ? "NaN" : $"{BitConverter.SingleToUInt32Bits(value):x8}";
    });

    [Theory, InlineData("sharded")]
    public void Golden_shards(string name) => Golden.Run(Folder, name, c =>
    {
        using TensorSource got = TensorSource.Open(c.Path);
        using SafeTensorsFile want = GoldenFiles.Beside(c, "expected_sharded.safetensors");
        Assert.Equal(3, Assert.IsType<SafeTensorsIndex>(got).Shards.Count);
        Assert.Equal(want.Entries.Count, got.Entries.Count);
        Assert.Equal("pt", got.Metadata["format"]);
        foreach (SafeTensorsEntry entry in want.Entries)
        {
            string tensor = entry.Name["out.".Length..];
            Assert.Equal(entry.Dimensions, got[tensor].Dimensions);
            Assert.Equal(want.Bytes(entry.Name), got.Bytes(tensor));
        }
    });

    [Theory, MemberData(nameof(BadIndexes))]
    public void Golden_bad_index(string name) => Golden.Run(Sharded, name, c =>
    {
        // The verdict of this one is "either": the index decides here.
        if (name == "bad_name_left_out.index")
        {
            using SafeTensorsIndex index = SafeTensorsIndex.Open(c.Path);
            Assert.False(index.Contains("model.layers.0.q.weight"));
            Assert.Equal(13, index.Entries.Count);
            return;
        }
        GoldenFiles.Refused(c.Path, () => SafeTensorsIndex.Open(c.Path));
    }, ending: ".json");

    [Theory, InlineData("legacy", ".pt"), InlineData("pytorch_model", ".bin"), InlineData("renamed_to", ".safetensors")]
    public void Golden_pickle_is_never_read(string name, string ending) => Golden.Run(Pickles, name, c =>
    {
        ModelFormatException error = GoldenFiles.Refused(c.Path, () => TensorSource.Open(c.Path));
        Assert.Contains("pickle", error.Message, StringComparison.Ordinal);
        Assert.Contains("safetensors.torch.save_file(", error.Message, StringComparison.Ordinal);
        Assert.Equal(error.Message, Assert.Throws<ModelFormatException>(() => SafeTensorsFile.Read(File.ReadAllBytes(c.Path), c.Path)).Message);
    }, ending: ending);
}
