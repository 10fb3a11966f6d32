using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>A model in shards is the model in one file.</summary>
public sealed class ShardTests : IDisposable
{
    private const long ShardBytes = 20_000;
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-shards-").FullName;

    [Fact]
    public void A_model_saved_in_shards_loads_bit_for_bit()
    {
        using Device device = Devices.Open("cpu");
        using PretrainedModel whole = PretrainedModel.Load(Golden.Find("models/vit_1ch")!, device);
        whole.Save(folder, shardBytes: ShardBytes);
        Assert.False(File.Exists(Path.Combine(folder, PretrainedModel.WeightFile)));
        using (SafeTensorsIndex index = SafeTensorsIndex.Open(Path.Combine(folder, SafeTensorsIndex.FileName)))
        {
            Assert.InRange(index.Shards.Count, 2, index.Entries.Count);
            Assert.All(index.Shards.Values.Where(s => s.Entries.Count > 1), s => Assert.InRange(s.Entries.Sum(e => e.Length), 1, ShardBytes));
        }
        using PretrainedModel again = PretrainedModel.Load(folder, device);
        Assert.Equal(whole.Parameters.Keys, again.Parameters.Keys);
        Assert.All(whole.Parameters, p => Assert.Equal(p.Value.Value.ToBytes(), again.Parameters[p.Key].Value.ToBytes()));
    }

    [Fact]
    public void A_folder_with_a_pickle_only_says_how_to_convert_it()
    {
        File.Copy(Path.Combine(Golden.Find("models/vit_1ch")!, "config.json"), Path.Combine(folder, "config.json"));
        File.WriteAllBytes(Path.Combine(folder, "pytorch_model.bin"), [0x80, 2]);
        using Device device = Devices.Open("cpu");
        var error = Assert.Throws<FileNotFoundException>(() => PretrainedModel.Load(folder, device));
        Assert.Contains($"{folder} has no {PretrainedModel.WeightFile}", error.Message, StringComparison.Ordinal);
        Assert.Contains("pytorch_model.bin: a pickle", error.Message, StringComparison.Ordinal);
    }

    public void Dispose() => Directory.Delete(folder, recursive: true);
}
