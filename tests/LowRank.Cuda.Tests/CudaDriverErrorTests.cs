using Xunit;

namespace LowRank.Cuda.Tests;

/// <summary>What a machine, a GPU or a caller can do wrong: each a typed error with its remedy, and nothing hangs or crashes.</summary>
public class CudaDriverErrorTests
{
    private const int Megabyte = 1 << 20;

    [Theory]
    [InlineData("devices=0", "cuInit failed: CUDA_ERROR_NO_DEVICE", "nvidia-smi")]
    [InlineData("version=11040", "the CUDA driver is version 11.4", "want 12.0 or newer: update NVIDIA's display driver")]
    [InlineData("devices=1", "cuda:3 is not there", "want one of the 1 GPUs")]
    public void A_machine_without_what_is_needed_says_what_to_do(string faults, string fact, string remedy)
    {
        using StandIn.Faults machine = StandIn.With(faults);
        string message = Assert.Throws<DeviceException>(() => Device.Cuda(3)).Message;
        Assert.Contains(fact, message, StringComparison.Ordinal);
        Assert.Contains(remedy, message, StringComparison.Ordinal);
    }

    [Theory, InlineData("devices=0"), InlineData("version=11040")]
    public void A_list_of_devices_leaves_out_what_cannot_be_opened(string faults)
    {
        using StandIn.Faults machine = StandIn.With(faults);
        Assert.Equal(["cpu", "emulated"], DeviceList.Present().Select(d => d.Name));
        StandIn.Set("");
        Assert.Equal(new DeviceInfo("cuda:0", "stand-in GPU", "sm_90", 0, 1L << 34), DeviceList.Present()[^1]);
    }

    [Theory, InlineData("cuda:"), InlineData("cuda:x"), InlineData("gpu")]
    public void A_name_that_is_no_device_is_refused(string name) =>
        Assert.Contains($"device is {name}, want", Assert.Throws<DeviceException>(() => DeviceList.Open(name)).Message, StringComparison.Ordinal);

    /// <summary>Bytes that a device of architecture 90 keeps for the counters of its products.</summary>
    private const int Counters = 64 << 10;

    [Fact]
    public void Out_of_memory_names_the_request_and_leaves_the_device_usable() => InContext("memory=67108864", device =>
    {
        using Scope store = device.NewStore();
        Tensor kept = store.Of([3], [1f, 2, 3]);
        string message = Assert.Throws<DeviceException>(() => store.New([25 * Megabyte], DType.F32)).Message;
        Assert.Contains($"no memory for a block of {100 * Megabyte} bytes; {(48 * Megabyte) - Counters} of {64 * Megabyte} bytes are free, {(16 * Megabyte) + Counters} are held by this device", message, StringComparison.Ordinal);
        Assert.Contains("Use smaller batches", message, StringComparison.Ordinal);
        using Scope scope = device.BeginScope();
        Assert.Equal([2f, 4, 6], new Add().Apply(kept, kept).ToArray());
    });

    [Fact]
    public void Cached_memory_goes_back_before_memory_is_out() => InContext("memory=67108864", device =>
    {
        using (Scope scope = device.BeginScope())
        {
            scope.New([10 * Megabyte], DType.F32);
        }
        using Scope other = device.BeginScope();
        Assert.Equal((nuint)(48 * Megabyte), other.New([12 * Megabyte], DType.F32).Bytes);
        Assert.Equal(4, StandIn.Count("allocate"));     // the counters of Hopper's products, the first, one that found no room, and its second try
    });

    [Fact]
    public void An_allocation_that_fails_once_is_tried_again() => InContext("oom=1", device =>
    {
        using Scope scope = device.BeginScope();
        Assert.Equal([3f], scope.Of([1], [3f]).ToArray());
    });

    [Theory, InlineData(719, "CUDA_ERROR_LAUNCH_FAILED"), InlineData(700, "CUDA_ERROR_ILLEGAL_ADDRESS"), InlineData(999, "CUDA_ERROR_UNKNOWN")]
    public void A_lost_device_keeps_its_first_cause(int code, string name)
    {
        InContext($"launch={code}@2", device =>
        {
            Scope store = device.NewStore(), scope = device.BeginScope();
            Tensor x = store.Of([2], [1f, 2]);
            using Graph graph = device.Capture(() => x.CopyFrom(x));
            Tensor y = new Relu().Apply(new Tanh().Apply(x));
            string first = Assert.Throws<KernelException>(y.ToArray).Message;
            Assert.Contains(name, first, StringComparison.Ordinal);
            Assert.Contains("relu_forward (F32", first, StringComparison.Ordinal);
            Action[] later = [() => x.ToArray(), () => x.Set([0f, 0]), () => x.Fill(1), () => new Tanh().Apply(x), () => x.CopyFrom(x), device.Synchronize, graph.Replay, () => device.Time(() => { }), () => device.Capture(() => { })];
            foreach (Action call in later)
            {
                string message = Assert.Throws<DeviceException>(call).Message;
                Assert.Contains($"cuda:0 cannot be used any more: cuMemcpyDtoH failed: {name}", message, StringComparison.Ordinal);
                Assert.Contains("open it again", message, StringComparison.Ordinal);
            }
            scope.Dispose();
            store.Dispose();
        });
        InContext("", device =>
        {
            using Scope scope = device.BeginScope();
            Assert.Equal([0f, 2], new Relu().Apply(scope.Of([2], [-1f, 2])).ToArray());
        });
    }

    [Fact]
    public void Checked_launches_name_the_kernel_that_failed() => InContext("launch=719@2", device =>
    {
        device.CheckLaunches = true;
        using Scope scope = device.BeginScope();
        Tensor x = scope.Of([2], [1f, 2]);
        Tensor y = new Tanh().Apply(x);
        Assert.StartsWith("cuda:0: relu_forward (F32, grid 1x1x1", Assert.Throws<KernelException>(() => new Relu().Apply(y)).Message, StringComparison.Ordinal);
    });

    [Fact]
    public void A_failure_while_recording_ends_the_recording() => InContext("launch=719@1", device =>
    {
        Scope store = device.NewStore();
        Tensor x = store.Of([2], [1f, 2]);
        x.Fill(2);
        Assert.Throws<KernelException>(() => device.Capture(() => x.Fill(1)));
        Assert.Throws<DeviceException>(() => x.Fill(1));
    });

    [Fact]
    public void Mixed_devices_dead_tensors_and_float64_are_refused()
    {
        using StandIn.Faults none = StandIn.With("");
        using Device gpu = Device.Cuda(), host = Device.Emulated();
        using Scope here = gpu.BeginScope(), there = host.BeginScope();
        Tensor x = here.Of([1], [1f]);
        Assert.Equal("Add: operands are on cuda:0 and emulated, want one device", Assert.Throws<ShapeException>(() => new Add().Apply(x, there.Of([1], [1f]))).Message);
        Assert.Contains("want F32, BF16 or F16 on a GPU: F64 runs on the cpu device", Assert.Throws<KernelException>(() => new Add().Apply(here.Of([1], [1.0]), here.Of([1], [1.0]))).Message, StringComparison.Ordinal);
        Tensor gone;
        using (Scope scope = gpu.BeginScope())
        {
            gone = scope.Of([1], [1f]);
        }
        Assert.Contains("tape or scope has ended", Assert.Throws<ObjectDisposedException>(gone.ToArray).Message, StringComparison.Ordinal);
        Assert.Equal([2f], new Add().Apply(x, x).ToArray());
    }

    [Fact]
    public void A_matrix_that_breaks_the_rules_of_bulk_copies_is_named() => InContext("", device =>
    {
        var driver = ((CudaDevice)device).Driver;
        nint block = driver.Allocate(4096);
        Assert.Contains("tensor map of [8, 9] BF16 with box [8, 8] failed: CUDA_ERROR_INVALID_VALUE", Assert.Throws<KernelException>(() => driver.Encode(block, DType.BF16, 8, 9, 8, 8)).Message, StringComparison.Ordinal);
        driver.Release(block);
    });

    /// <summary>A device of its own, so that its memory and its end are nobody else's.</summary>
    private static void InContext(string faults, Action<Device> test)
    {
        using StandIn.Faults set = StandIn.With(faults);
        nint context = StandIn.NewContext();
        using (Device device = Device.CudaFrom(context))
        {
            test(device);
        }
        StandIn.Set("");
        Assert.True(StandIn.EndContext(context));
    }
}
