using LowRank.Adapters;
using LowRank.Models;
using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What a first training step makes NVRTC compile: a bf16 vision transformer of width 768 with LoRA of rank 16 on every linear layer, 32 images of
/// 197 tokens, AdamW. Twelve layers launch what two do.</summary>
public class StepModuleTests
{
    [Theory, InlineData(80, 108, Ampere), InlineData(90, 132, Hopper)]
    public void A_training_step_compiles_the_kernels_it_launches_and_no_other(int architecture, int multiprocessors, string kernels)
    {
        IEnumerable<string> files = Modules(architecture, multiprocessors).GroupBy(m => $"{m.File} {m.Type}").Select(file => $"{file.Key}: {string.Join(' ', file.Select(m => m.Kernel))}");
        Assert.Equal(kernels, string.Join('\n', files));
    }

    [Theory, InlineData(80, 108), InlineData(90, 132)]
    public void Nvrtc_makes_the_same_of_each_kernel_alone_as_of_its_file(int architecture, int multiprocessors)
    {
        Assert.SkipWhen(CudaCompiler.Version is null, Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc));
        foreach (CudaVariant module in Modules(architecture, multiprocessors))
        {
            CudaBinary alone = NvrtcTests.Compiler.Get(module), file = NvrtcTests.Compiler.Get(module with { Kernel = null });
            Assert.Equal([module.Kernel!], alone.Kernels.Keys);
            Assert.Equal(file.Kernels[module.Kernel!], alone.Kernels[module.Kernel!]);
        }
    }

    private static IReadOnlyList<CudaVariant> Modules(int architecture, int multiprocessors)
    {
        const int Images = 32, Classes = 10;
        var driver = new ListingDriver(architecture, multiprocessors);
        using Device device = new CudaDevice(driver);
        VisionTransformerConfig config = new VisionTransformerConfig { Layers = 2 }.WithClasses(Classes);
        using var model = new VisionTransformer(config, device, new Rng(1), DType.BF16);
        using AdaptedModel adapted = model.Attach(new LoraConfig { Rank = 16, Targets = Names.AllLinear });
        using var optimizer = new AdamW(adapted.Parameters);
        using Scope inputs = device.NewStore();
        Tensor images = inputs.NewZeros([Images, config.Channels, config.ImageSize, config.ImageSize], DType.BF16), labels = inputs.NewZeros([Images], DType.I32);
        using Tape tape = device.BeginTape();
        tape.Backward(new CrossEntropy().Apply(model.Forward(images), labels));
        adapted.Step(optimizer);
        return driver.Variants;
    }

    private const string Ampere = """
        adam.cu F32: adamw square_sum_parts square_sum_total
        attention_64.cu BF16: attention_backward_kv_64 attention_backward_q_64 attention_forward_64
        gemm.cu BF16: gemm
        loss.cu BF16: cross_entropy_backward cross_entropy_mean cross_entropy_rows
        norm.cu BF16: layer_norm_backward_x layer_norm_forward
        pointwise.cu F32: fill
        pointwise.cu BF16: add_backward_x add_backward_z add_forward fill gelu_backward gelu_forward
        product.cu BF16: product_128_kk product_128_km product_64_kk
        rows.cu BF16: gather_backward gather_forward prepend_forward unfold
        skinny.cu BF16: lora_dy_16 skinny_16_kk skinny_16_mm skinny_end skinny_round
        """;

    private const string Hopper = """
        adam.cu F32: adamw square_sum_parts square_sum_total
        attention_64.cu BF16: attention_backward_kv_64 attention_backward_q_64 attention_forward_64
        gemm.cu BF16: gemm
        linear_input_sm90.cu BF16: linear_input_128x256 linear_input_64x128
        lora_r16_sm90.cu BF16: lora_forward_128x256_r16 lora_forward_64x128_r16
        loss.cu BF16: cross_entropy_backward cross_entropy_mean cross_entropy_rows
        norm.cu BF16: layer_norm_backward_x layer_norm_forward
        pointwise.cu F32: fill
        pointwise.cu BF16: add_backward_x add_backward_z add_forward fill gelu_backward gelu_forward
        product.cu BF16: product_64_kk
        rows.cu BF16: gather_backward gather_forward pad prepend_forward unfold
        skinny.cu BF16: lora_dy_16 skinny_16_mm skinny_end skinny_round
        """;
}
