using Xunit;

namespace LowRank.Models.Tests;

/// <summary>What loading takes beside the model itself: sharded folders stream in.</summary>
public sealed class LoadingTests : IDisposable
{
    private const double Most = 1.1;      // of the resident form
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-loading-").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void Loading_takes_little_beside_what_stays()
    {
        using Device device = Device.Cpu();
        using (TextModel model = TextModel.Create(ModelConfig.Parse("""
            {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 12000, "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 4,
             "intermediate_size": 768, "tie_word_embeddings": false}
            """), device))
        {
            foreach (DType stored in (ReadOnlySpan<DType>)[DType.F32, DType.BF16, DType.F16])
            {
                model.Save(Path.Combine(folder, $"{stored}"), stored, shardBytes: 4 << 20);
            }
        }
        // As the file has it; widened; narrowed
        foreach ((DType stored, DType type) in (ReadOnlySpan<(DType, DType)>)[(DType.F32, DType.F32), (DType.BF16, DType.BF16), (DType.BF16, DType.F32), (DType.F16, DType.F32), (DType.F32, DType.BF16)])
        {
            string from = Path.Combine(folder, $"{stored}");
            var options = new LoadOptions { Type = type };
            PretrainedModel.Load(from, device, options).Dispose();      // what is made once a process
            long before = device.Bytes, managed = GC.GetAllocatedBytesForCurrentThread();
            device.ResetPeak();
            using PretrainedModel loaded = PretrainedModel.Load(from, device, options);
            long resident = device.Bytes - before, peak = device.PeakBytes - before + GC.GetAllocatedBytesForCurrentThread() - managed;
            Assert.InRange(loaded.Parameters.Values.Sum(p => (long)p.Value.Bytes), resident * 9 / 10, resident);
            Assert.True(peak <= Most * resident, $"{stored} as {type}: {peak} bytes at the most, {resident} stay");
        }
    }
}
