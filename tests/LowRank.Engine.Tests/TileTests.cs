using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The tiled products of product.cu and skinny.cu on the emulator: every kernel forced by a case, in every type, against the float64 references; the same
/// bits under every schedule; planted bugs do not pass. Plans are called directly, so that no other architecture's kernel comes first.</summary>
public class TileTests
{
    /// <summary>Kernel, tokens m, columns n, steps k: what a plain product of that order launches.</summary>
    public static TheoryData<string, int, int, int> Products => new()
    {
        { "product_64_kk", 70, 65, 40 },
        { "product_64_km", 1, 72, 72 },
        { "product_64_mm", 72, 24, 45 },
        { "product_128_kk", 300, 63, 72 },
        { "product_128_km", 129, 264, 40 },
        { "product_128_mm", 264, 72, 45 },
    };

    /// <summary>Kernels that a forward and backward pass of an adapter launches, in 16-bit types and in F32, and its shape; Subs, Tiles cut the pass over dy.</summary>
    internal static readonly LoraCase[] Cases =
    [
        new(1, 40, 72, 8, ["skinny_16_kk", "lora_dy_16", "skinny_16_mm"], ["skinny_16_km"]),
        new(7, 24, 40, 1, ["skinny_16_kk"], ["skinny_16_kk"]),
        new(7, 40, 1040, 8, ["skinny_end"], ["skinny_16_kk"]),
        new(64, 136, 64, 16, ["lora_dy_16"], ["skinny_16_mm"]) { Bias = true },
        new(300, 520, 16, 5, ["lora_dy_16", "product_128_kmc"], ["product_128_kmc"]) { Bias = true, Scaled = true, Grid = new LoraDyGrid(4, 2) },
        new(129, 264, 72, 24, ["skinny_32_kk", "lora_dy_32", "skinny_32_mm"], ["skinny_32_kk", "skinny_32_km", "skinny_32_mm"]) { Scaled = true },
        new(70, 264, 40, 64, ["skinny_64_kk", "lora_dy_64", "skinny_64_mm", "product_64_kmc"], ["skinny_64_kk", "skinny_64_km", "skinny_64_mm"]) { Scaled = true, Grid = new LoraDyGrid(2, 1) },
        new(70, 48, 24, 128, ["skinny_128_kk", "skinny_128_km", "skinny_128_mm"], ["skinny_128_kk", "skinny_128_km", "skinny_128_mm"]) { Own = true },
        new(7, 24, 16, 136, ["skinny_128_kk", "skinny_round"], []),
        new(40, 48, 32, 20, ["skinny_32_km"], []) { OnlyX = true },
        new(9, 16, 24, 8, ["skinny_16_km"], []) { OnlyX = true },
        new(9, 16, 24, 40, ["skinny_64_km"], []) { OnlyX = true },
    ];

    public static TheoryData<DType, int> Loras
    {
        get
        {
            var data = new TheoryData<DType, int>();
            foreach (DType type in (DType[])[DType.F32, DType.BF16, DType.F16])
            {
                for (int i = 0; i < Cases.Length; i++)
                {
                    data.Add(type, i);
                }
            }
            return data;
        }
    }

    /// <summary>The cases as rows of <see cref="KernelRowTests"/>.</summary>
    internal static IEnumerable<(string Name, Action<CudaDriver, DType> Run)> Rows =>
    [
        .. from p in Products let row = p.Data select ($"tiles {row.Item1[^2..]} [{row.Item2}, {row.Item4}] [{row.Item3}, {row.Item4}]", (Action<CudaDriver, DType>)((driver, type) => Multiply(driver, type, row.Item1, row.Item2, row.Item3, row.Item4, out _))),
        .. from c in Cases select ($"tiles LoRA {c}", (Action<CudaDriver, DType>)((driver, type) => c.Run(driver, type))),
    ];

    /// <summary>Faults of the ring and of the tiles: each leaves out or bends one thing that the products need.</summary>
    public static TheoryData<string, string, string> Faults => new()
    {
        { "a step used before its copies are done", "lr_cp_async_wait<Stages - 2>", "lr_cp_async_wait<Stages - 1>" },
        { "no sync before a stage is used again", "        lr_sync(); // all threads'", "        // all threads'" },
        { "no swizzle on the read", "lr_piece<Pitch>(row + lane % 16, step / 8 + lane / 16)", "static_cast<uint32_t>((row + lane % 16) * Pitch + (step / 8 + lane / 16) * 16)" },
        { "a ragged end that is not cut off", "line < lines ? end - inner : 0", "line < lines ? Lanes : 0" },
    };

    [Theory, MemberData(nameof(Products))]
    public void Emulated_product_matches_the_reference(string kernel, int m, int n, int k)
    {
        foreach (DType type in (DType[])[DType.F32, DType.BF16, DType.F16])
        {
            using var driver = new EmulatedDriver();
            _ = Multiply(driver, type, kernel, m, n, k, out double error);
            Assert.True(error <= Close.Bound(type), $"{kernel} in {type}: relative error {error:E2}");
            Assert.Contains((kernel, type), driver.Launches.Keys);
        }
    }

    [Theory, MemberData(nameof(Loras))]
    public void Emulated_adapter_matches_the_reference(DType type, int index)
    {
        LoraCase shape = Cases[index];
        using var driver = new EmulatedDriver();
        foreach ((string name, byte[] _, double error) in shape.Run(driver, type))
        {
            Assert.True(error <= Close.Bound(type), $"{shape} in {type}: relative error of {name} is {error:E2}");
        }
        Assert.All(type == DType.F32 ? shape.Exact : shape.Halves, kernel => Assert.Contains((kernel, type), driver.Launches.Keys));
    }

    [Theory, InlineData(DType.F32), InlineData(DType.BF16), InlineData(DType.F16)]
    public void Emulated_merge_multiplies_in_F32_whatever_the_weight(DType type)
    {
        using var driver = new EmulatedDriver();
        using Device host = Device.Cpu();
        using Scope scope = host.NewStore();
        Tensor w = LoraCase.Draw(scope, "w", [24, 72], type), b = LoraCase.Draw(scope, "b", [24, 8], DType.F32), a = LoraCase.Draw(scope, "a", [8, 72], DType.F32);
        Tensor y = scope.NewZeros([24, 72], type), want = scope.NewZeros([24, 72], DType.F64);
        var args = new AddMatMulArgs { W = w.Data, B = b.Data, A = a.Data, Y = y.Data, N = 24, K = 72, R = 8, Scale = 0.5, DType = type, WType = type };
        LoraCase.With(driver, stream => CudaMatrixPlans.AddMatMul(stream, in args));
        host.Launch(Kernels.AddMatMul, args with { W = LoraCase.Wide(scope, w), B = LoraCase.Wide(scope, b), A = LoraCase.Wide(scope, a), Y = want.Data, DType = DType.F64, WType = DType.F64 });
        Assert.Contains(("product_64_km", DType.F32), driver.Launches.Keys);
        Close.Check(y.ToDoubles(), want.ToDoubles(), Close.Bound(type), $"merge in {type}");
    }

    [Theory, InlineData(DType.F32), InlineData(DType.BF16)]
    public void Emulated_tiles_have_the_same_bits_under_every_schedule(DType type)
    {
        using var driver = new EmulatedDriver();
        List<byte[]>? first = null;
        foreach (EmulatorSchedule schedule in EmulatorTests.Schedules)
        {
            driver.Schedule = schedule;
            List<byte[]> bits = [.. new LoraCase(40, 136, 136, 12, [], []) { Bias = true }.Run(driver, type).Select(r => r.Bits)];
            first ??= bits;
            Assert.All(bits.Zip(first), pair => Assert.True(pair.First.AsSpan().SequenceEqual(pair.Second), $"{schedule}: bits differ from those of the first schedule"));
        }
    }

    [Theory, MemberData(nameof(Faults))]
    public void Mutation_of_the_tiles_is_caught(string fault, string from, string to)
    {
        using var driver = new EmulatedDriver(EmulatorTests.Build(fault, "products.cuh", from, to, "product.cu"));
        string[] passed = [.. EmulatorTests.Schedules.Where(schedule => Passes(driver, schedule)).Select(s => $"{s}")];
        Assert.True(passed.Length < EmulatorTests.Schedules.Count(), $"{fault}: passed under every schedule");
    }

    [Fact]
    public void Mutation_harness_passes_the_tiles_as_they_are()
    {
        using var driver = new EmulatedDriver(EmulatorTests.Build("tiles as they are", "products.cuh", "constexpr bool Across", "constexpr bool Across", "product.cu"));
        Assert.All(EmulatorTests.Schedules, schedule => Assert.True(Passes(driver, schedule), $"{schedule}"));
    }

    private static bool Passes(EmulatedDriver driver, EmulatorSchedule schedule)
    {
        driver.Schedule = schedule;
        try
        {
            _ = Multiply(driver, DType.BF16, "product_64_kk", 40, 40, 200, out double error);
            return error <= Close.Bound(DType.BF16);
        }
        catch (KernelException)
        {
            return false;
        }
    }

    /// <summary>A product in the order that ends the kernel's name, and its error to float64.</summary>
    private static byte[] Multiply(CudaDriver driver, DType type, string kernel, int m, int n, int k, out double error)
    {
        using Device host = Device.Cpu();
        using Scope scope = host.NewStore();
        Tensor a = LoraCase.Draw(scope, "a", [m, k], type), b = LoraCase.Draw(scope, "b", [k, n], type), c = scope.NewZeros([m, n], type), want = scope.NewZeros([m, n], DType.F64);
        bool acrossA = kernel.EndsWith("mm", StringComparison.Ordinal), alongB = kernel.EndsWith("kk", StringComparison.Ordinal);
        var args = new MatMulArgs { A = a.Data, B = b.Data, C = c.Data, M = m, N = n, K = k, TransposeA = acrossA ? 1 : 0, TransposeB = alongB ? 1 : 0, Scale = 0.75, DType = type };
        LoraCase.With(driver, stream => CudaMatrixPlans.MatMul(stream, in args));
        host.Launch(Kernels.MatMul, args with { A = LoraCase.Wide(scope, a), B = LoraCase.Wide(scope, b), C = want.Data, DType = DType.F64 });
        error = Close.Error(c.ToDoubles(), want.ToDoubles());
        return c.ToBytes();
    }
}
