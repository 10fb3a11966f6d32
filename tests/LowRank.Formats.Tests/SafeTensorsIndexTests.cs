using System.Text;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Shards and their index, written and read.</summary>
public sealed class SafeTensorsIndexTests : FolderTest
{
    [Fact]
    public void Shards_hold_no_more_than_asked_and_come_back()
    {
        TensorData[] tensors = [Tensor("d", 2), Tensor("a", 3), Tensor("huge", 40), Tensor("b", 1), Tensor("c", 2)];
        SafeTensorsIndex.Save(Folder, tensors, new Dictionary<string, string> { ["format"] = "pt" }, shardBytes: 4 * 5);
        Assert.Equal(
            ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors", SafeTensorsIndex.FileName], Files());
        using TensorSource source = TensorSource.Open(Folder);
        Assert.Equal(["a", "d", "huge", "b", "c"], source.Entries.Select(e => e.Name));
        Assert.Equal("pt", source.Metadata["format"]);
        Assert.All(tensors, t => Assert.Equal(Values(t.Name, (int)t.Length / 4), source.ReadSingle(t.Name)));
        Assert.Equal(
            """
            {
              "metadata": {
                "total_size": 192
              },
              "weight_map": {
                "a": "model-00001-of-00003.safetensors",
                "b": "model-00003-of-00003.safetensors",
                "c": "model-00003-of-00003.safetensors",
                "d": "model-00001-of-00003.safetensors",
                "huge": "model-00002-of-00003.safetensors"
              }
            }

            """.ReplaceLineEndings("\n"), File.ReadAllText(At(SafeTensorsIndex.FileName)));
    }

    [Fact]
    public void A_folder_turns_from_one_file_to_shards_and_back()
    {
        File.WriteAllText(At("config.json"), "{}");
        foreach ((float value, long shardBytes, int files) in new[] { (1f, 100L, 2), (2f, 16L, 5), (3f, 16L, 5), (4f, 8L, 5), (5f, 1000L, 2) })
        {
            SafeTensorsIndex.Save(Folder, Writer.Tensors(value, 4), shardBytes: shardBytes);
            Assert.Equal(value, Value(Folder));
            Assert.Equal(files, Files().Length);
        }
    }

    [Fact]
    public void Weights_may_come_from_the_very_shards_they_replace()
    {
        SafeTensorsIndex.Save(Folder, Writer.Tensors(7, 4), shardBytes: 16);
        using (TensorSource source = TensorSource.Open(Folder))
        {
            SafeTensorsIndex.Save(Folder, source.Entries.Select(e => TensorData.Of(source, e.Name)), shardBytes: 32);
        }
        Assert.Equal(7, Value(Folder));
    }

    [Fact]
    public void A_name_twice_is_refused_though_it_lies_in_two_shards()
    {
        Assert.Throws<ArgumentException>(() => SafeTensorsIndex.Save(Folder, [Tensor("a", 4), Tensor("b", 4), Tensor("a", 4)], shardBytes: 16));
        Assert.Throws<ArgumentOutOfRangeException>(() => SafeTensorsIndex.Save(Folder, [Tensor("a", 4)], shardBytes: 0));
        Assert.Empty(Files());
    }

    [Theory]
    [InlineData("", "the file is empty")]
    [InlineData("[]", "is a StartArray, want an object with weight_map")]
    [InlineData("{", "not valid JSON near byte")]
    [InlineData("{\"weight_map\": {\"a\": \"m.safetensors\"}} x", "not valid JSON near byte")]
    [InlineData("{\"weight_map\": {}}", "'weight_map' is empty")]
    [InlineData("{\"weight_map\": [], \"metadata\": {}}", "'weight_map' is a StartArray")]
    [InlineData("{\"weight_map\": {\"a\": \"m.safetensors\"}, \"weight_map\": {}}", "'weight_map' occurs twice")]
    [InlineData("{\"weight_map\": {\"a\": \"m.safetensors\", \"a\": \"m.safetensors\"}}", "'a' occurs twice")]
    [InlineData("{\"weight_map\": {\"a\": \"m.safetensors\", \"b\": \"m.safetensors\"}}", "'b' is not in 'm.safetensors' nor in any other shard")]
    [InlineData("{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"a\": \"/m.safetensors\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"a\": \"..\\\\m.safetensors\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"a\": \"..\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"a\": \"\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"a\": \"m\\u0000.safetensors\"}}", "plain name")]
    [InlineData("{\"weight_map\": {\"\\ud800\": \"m.safetensors\"}}", "not valid JSON")]
    [InlineData("{\"weight_map\": {\"a\": \"n.safetensors\"}}", "'a' lies in 'n.safetensors', which is not there")]
    [InlineData("\u0080\u0002}q", "pickle")]
    public void Bad_indexes_are_named(string json, string want)
    {
        SafeTensorsFile.Save(At("m.safetensors"), [Tensor("a", 1)]);
        File.WriteAllBytes(At("bad.index.json"), Encoding.Latin1.GetBytes(json));
        Assert.Contains(want, GoldenFiles.Refused(At("bad.index.json"), () => SafeTensorsIndex.Open(At("bad.index.json"))).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_damaged_shard_is_named_itself()
    {
        SafeTensorsIndex.Save(Folder, Writer.Tensors(7, 4), shardBytes: 16);
        string shard = At("model-00002-of-00003.safetensors");
        File.WriteAllBytes(shard, File.ReadAllBytes(shard)[..^1]);
        GoldenFiles.Refused(shard, () => TensorSource.Open(Folder));
    }

    [Fact]
    public void A_folder_without_weights_says_what_it_wants()
    {
        var error = Assert.Throws<FileNotFoundException>(() => TensorSource.Open(Folder));
        Assert.Equal($"TensorSource: {Folder} has no model.safetensors and no model.safetensors.index.json, want a folder with one of them", error.Message);
        File.WriteAllText(At("pytorch_model.bin"), "");
        error = Assert.Throws<FileNotFoundException>(() => TensorSource.Open(Folder));
        Assert.Contains("only pytorch_model.bin: a pickle", error.Message, StringComparison.Ordinal);
        Assert.Contains("save_file", error.Message, StringComparison.Ordinal);
    }

    private static TensorData Tensor(string name, int elements) => TensorData.Of(name, [elements], Values(name, elements));

    private static float[] Values(string name, int elements) => [.. Enumerable.Range(name[0], elements).Select(i => (float)i)];
}
