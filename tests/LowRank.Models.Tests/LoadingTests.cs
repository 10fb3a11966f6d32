using LowRank.Testing;
using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What loading takes beside the model itself: sharded folders stream in.</summary>
public sealed class LoadingTests : IDisposable
{
    private const double Most = 1.1;      // of the resident form
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-loading-").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    // As the file has it; widened; narrowed
    [Theory]
    [InlineData(DType.F32, DType.F32)]
    [InlineData(DType.BF16, DType.F32)]
    [InlineData(DType.F16, DType.F32)]
    [InlineData(DType.F32, DType.BF16)]
    public void Loading_takes_little_beside_what_stays(DType stored, DType type)
    {
        using (Device making = Devices.Open("cpu"))
        using (TextModel model = TextModel.Create(ModelConfig.Parse("""
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 24000, "hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 6,
             "intermediate_size": 1536, "tie_word_embeddings": false}
            """), making))
        {
            model.Save(folder, stored, shardBytes: 16 << 20);
        }
        using Device device = Device.Cpu();
        PretrainedModel.Load(folder, device, new LoadOptions { Type = type }).Dispose();      // what is made once a process
        long before = device.Bytes, managed = GC.GetAllocatedBytesForCurrentThread();
        device.ResetPeak();
        using PretrainedModel loaded = PretrainedModel.Load(folder, device, new LoadOptions { Type = type });
        long resident = device.Bytes - before, peak = device.PeakBytes - before + GC.GetAllocatedBytesForCurrentThread() - managed;
        Assert.InRange(loaded.Parameters.Values.Sum(p => (long)p.Value.Bytes), resident * 9 / 10, resident);
        Assert.True(peak <= Most * resident, $"{stored} as {type}: {peak} bytes at the most, {resident} stay");
    }
}
