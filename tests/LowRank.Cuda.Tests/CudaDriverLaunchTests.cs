using LowRank.Testing;
using Xunit;

namespace LowRank.Cuda.Tests;

/// <summary>What a launch costs beside the driver: no memory of the garbage collector, once it has run before.</summary>
public class CudaDriverLaunchTests
{
    public static TheoryData<int, DType, string> Rows() => CudaDriverOpTests.Rows();

    [Theory, MemberData(nameof(Rows))]
    public void Launches_allocate_nothing(int row, DType type, string name)
    {
        using StandIn.Faults none = StandIn.With("noop=1");
        using var device = new Recorder((CudaDevice)Device.Cuda());
        new OpRun(OpRows.All[row], type).On(device, type);
        Assert.NotEmpty(device.Launches);
        AllocatesNothing(device, name);
    }

    [Fact]
    public void A_training_step_allocates_nothing_for_its_launches()
    {
        using StandIn.Faults none = StandIn.With("noop=1");
        using var device = new Recorder((CudaDevice)Device.Cuda());
        foreach (string optimizer in (string[])["adamw", "sgd"])
        {
            using var model = new TinyMlp(device, optimizer);
            model.Prepare(0);
            model.Step();
        }
        AllocatesNothing(device, "a training step");
    }

    [Fact]
    public void The_fused_forward_of_Hopper_allocates_nothing()
    {
        using StandIn.Faults none = StandIn.With("noop=1");
        using var device = new Recorder((CudaDevice)Device.Cuda());
        using Scope scope = device.BeginScope();
        new LoraLinear(1).Apply(scope.New([256, 128], DType.BF16), scope.New([256, 128], DType.BF16), scope.New([16, 128], DType.F32), scope.New([256, 16], DType.F32));
        AllocatesNothing(device, "lora_sm90.cu");
    }

    private static void AllocatesNothing(Recorder device, string name)
    {
        Action[] launches = [.. device.Launches];
        for (int i = 0; i < 3; i++)
        {
            Array.ForEach(launches, launch => launch());
        }
        long before = GC.GetAllocatedBytesForCurrentThread();
        foreach (Action launch in launches)
        {
            launch();
        }
        Assert.True(GC.GetAllocatedBytesForCurrentThread() == before, $"{name}: {launches.Length} launches allocate {GC.GetAllocatedBytesForCurrentThread() - before} bytes");
    }

    /// <summary>The device below, with its launches written down so that they can be done again alone.</summary>
    private sealed class Recorder(CudaDevice inner) : Device
    {
        public List<Action> Launches { get; } = [];

        public override string Name => inner.Name;

        public override void Synchronize() => inner.Synchronize();

        internal override nint Allocate(nuint bytes) => inner.Allocate(bytes);

        internal override void Release(nint block) => inner.Release(block);

        internal override void Upload(ReadOnlySpan<byte> from, nint to) => inner.Upload(from, to);

        internal override void Download(nint from, Span<byte> to) => inner.Download(from, to);

        internal override void Copy(nint from, nint to, nuint bytes) => inner.Copy(from, to, bytes);

        internal override void Launch<TArgs>(Kernel<TArgs> kernel, in TArgs args)
        {
            TArgs kept = args;
            inner.Launch(kernel, in kept);
            Launches.Add(() => inner.Launch(kernel, in kept));
        }

        protected override void Dispose(bool disposing)
        {
            inner.Dispose();
            base.Dispose(disposing);
        }
    }
}
