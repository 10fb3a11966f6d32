using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The tiled attention on the emulator: every width, ragged tiles, what masks leave out, the same bits under every schedule, planted faults.</summary>
public class AttentionTests
{
    /// <summary>Head size, queries, keys, op; <c>Barred</c> bars every key of the first batch row.</summary>
    private static readonly (int Dim, int Queries, int Keys, Attention Op, bool Barred)[] Cases =
    [
        (8, 1, 1, new(2), false),
        (5, 19, 33, new(3, Causal: true), false),
        (16, 7, 7, new(2, Causal: true), false),
        (24, 65, 64, new(2), false),
        (32, 130, 65, new(1, Causal: true), false),
        (40, 1, 130, new(4, Causal: true, KvHeads: 1), false),
        (64, 130, 130, new(1, Causal: true), false),
        (64, 130, 190, new(2, Causal: true, KvHeads: 1, Window: 21), false),
        (64, 65, 130, new(2), true),
        (72, 64, 65, new(1), false),
        (80, 7, 130, new(4, Causal: true, KvHeads: 1), false),
        (128, 65, 130, new(4, KvHeads: 1), false),
        (128, 130, 64, new(1, Causal: true), true),
        (129, 9, 20, new(1), false),
        (200, 40, 70, new(1, Causal: true, Window: 30), false),
        (256, 64, 65, new(1), true),
        (256, 130, 64, new(2, Causal: true, KvHeads: 1), false),
    ];

    public static TheoryData<int, DType, string> Variants()
    {
        var data = new TheoryData<int, DType, string>();
        for (int i = 0; i < Cases.Length; i++)
        {
            foreach (DType type in (DType[])[DType.F32, DType.BF16, DType.F16])
            {
                data.Add(i, type, $"{Cases[i]}");
            }
        }
        return data;
    }

    /// <summary>Each leaves out one thing that the pipeline needs; all are seen with 64 elements a head and three tiles.</summary>
    public static TheoryData<string, string, string, string> Faults => new()
    {
        { "attention without the wait for a stage", "attention.cuh", "        lr_cp_async_wait<0>();\n        lr_sync(); // this stage has landed, the other one is no longer read\n        if (tile", "        lr_sync();\n        if (tile" },
        { "attention without the barrier before a stage is filled anew", "attention.cuh", "        lr_sync(); // this stage has landed, the other one is no longer read\n        if (tile + 1 < tiles.end) fetch(tile + 1);\n", "        if (tile + 1 < tiles.end) fetch(tile + 1);\n        lr_sync();\n" },
        { "attention without the rescaling of its sums", "attention.cuh", "sums[m][d][2 * h] *= shrink;", "" },
        { "attention with pieces exchanged wrongly on one side", "tiles.cuh", "lr_piece<RowBytes>(lane % 16, lane / 16);", "uint32_t(lane % 16 * RowBytes + (lane / 16 ^ lane % 4) * 16);" },
        { "attention gradient without the wait for a stage", "attention.cuh", "        lr_cp_async_wait<0>();\n        lr_sync(); // this stage has landed, the other one is no longer read\n        const bool", "        lr_sync();\n        const bool" },
        { "attention gradient with levels written into the stage in use", "attention.cuh", "sides[(step + 1) % 2 * 2 * Back + LR_TID] = next;", "sides[step % 2 * 2 * Back + LR_TID] = next;" },
    };

    [Theory, MemberData(nameof(Variants))]
    public void Emulated_attention_matches_the_float64_reference(int index, DType type, string name)
    {
        using Device device = Devices.Open("emulated"), reference = Devices.Open("cpu");
        OpRun run = Run(index, type);
        Check(run.On(device, type), run.On(reference, DType.F64), run, type, name);
        Assert.Empty(device.Fallbacks);
    }

    [Theory, InlineData(6, DType.BF16), InlineData(7, DType.F16), InlineData(7, DType.F32), InlineData(11, DType.BF16), InlineData(16, DType.F16)]
    public void Emulated_attention_has_the_same_bits_under_every_schedule(int index, DType type)
    {
        using var driver = new EmulatedDriver();
        using var device = new CudaDevice(driver);
        OpRun run = Run(index, type);
        (double[] Y, double[]?[] Gradients)? first = null;
        foreach (EmulatorSchedule schedule in EmulatorTests.Schedules)
        {
            driver.Schedule = schedule;
            (double[] Y, double[]?[] Gradients) got = run.On(device, type);
            first ??= got;
            Assert.True(got.Y.AsSpan().SequenceEqual(first.Value.Y), $"{schedule}: y differs");
            Assert.All(run.Differentiable, i => Assert.True(got.Gradients[i].AsSpan().SequenceEqual(first.Value.Gradients[i]), $"{schedule}: gradient {i} differs"));
        }
    }

    [Theory, MemberData(nameof(Faults))]
    public void Mutation_of_attention_is_caught(string fault, string file, string from, string to)
    {
        string[] passed = Passed(EmulatorTests.Build(fault, file, from, to, "attention_64.cu"));
        Assert.True(passed.Length < EmulatorTests.Schedules.Count(), $"{fault}: passed under every schedule");
    }

    [Fact]
    public void Mutation_harness_passes_attention_as_it_is() =>
        Assert.Equal(EmulatorTests.Schedules.Count(), Passed(EmulatorTests.Build("attention as it is", "tiles.cuh", "#pragma once", "#pragma once", "attention_64.cu")).Length);

    /// <summary>Schedules under which this build of the kernels gives the right values.</summary>
    private static string[] Passed(nint library)
    {
        using var driver = new EmulatedDriver(library);
        using var device = new CudaDevice(driver);
        using Device reference = Devices.Open("cpu");
        OpRun run = Run(6, DType.BF16);
        (double[], double[]?[]) want = run.On(reference, DType.F64);
        return [.. EmulatorTests.Schedules.Where(Passes).Select(s => $"{s}")];

        bool Passes(EmulatorSchedule schedule)
        {
            driver.Schedule = schedule;
            try
            {
                Check(run.On(device, DType.BF16), want, run, DType.BF16, $"{schedule}");
                return true;
            }
            catch (Exception e) when (e is KernelException or Xunit.Sdk.XunitException)
            {
                return false;
            }
        }
    }

    private static OpRun Run(int index, DType type)
    {
        (int dim, int queries, int keys, Attention op, bool barred) = Cases[index];
        Testing.Operand Of(int tokens, int heads) => new([2, tokens, heads * dim]);
        int kvHeads = op.KvHeads == 0 ? op.Heads : op.KvHeads;
        var run = new OpRun(new OpRow(op, Of(queries, op.Heads), Of(keys, kvHeads), Of(keys, kvHeads), barred ? new Testing.Operand([2, keys], Role.Mask) : new Testing.Operand([0], Role.None)), type);
        if (barred)
        {
            run.Values[3].AsSpan(0, keys).Clear();
        }
        return run;
    }

    private static void Check((double[] Y, double[]?[] Gradients) got, (double[] Y, double[]?[] Gradients) want, OpRun run, DType type, string name)
    {
        Close.Check(got.Y, want.Y, Close.Bound(type), $"{name} in {type}");
        foreach (int i in run.Differentiable)
        {
            Close.Check(got.Gradients[i], want.Gradients[i], Close.Bound(type), $"{name} in {type}, gradient of operand {i}");
        }
    }
}
