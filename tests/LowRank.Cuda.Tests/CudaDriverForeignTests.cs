using System.Runtime.InteropServices;
using LowRank.Testing;
using Xunit;

namespace LowRank.Cuda.Tests;

/// <summary>Contexts, streams and memory of the application: used as they are, never copied and never freed.</summary>
public class CudaDriverForeignTests
{
    [Fact]
    public void Context_stream_and_memory_of_the_application_outlive_the_device()
    {
        using StandIn.Faults none = StandIn.With("");
        nint context = StandIn.NewContext(), stream = StandIn.NewStream(), memory = StandIn.Allocate(6 * sizeof(float));
        StandIn.Write(memory, [1, 2, 3, 4, 5, 6], stream);
        using (Device device = Device.CudaFrom(context, stream))
        {
            Assert.Equal("cuda:0", device.Name);
            using Scope store = device.NewStore();
            Tensor x = store.View(memory, [2, 3], DType.F32);
            using (Scope scope = device.BeginScope())
            {
                Assert.Equal([1f, 4, 9, 16, 25, 36], new Mul().Apply(x, x).ToArray());
            }
            using Graph graph = device.Capture(() => x.Slice(1, 1).Fill(9));
            graph.Replay();
        }
        using (Device again = Device.CudaFrom(context))
        {
            using Scope scope = again.BeginScope();
            Assert.Equal([1f, 2, 3, 9, 9, 9], scope.View(memory, [6], DType.F32).ToArray());
        }
        Assert.True(StandIn.Free(memory), "the device freed the application's memory");
        Assert.True(StandIn.EndStream(stream), "the device ended the application's stream");
        Assert.True(StandIn.EndContext(context), "the device ended the application's context");
    }

    [Fact]
    public void Devices_on_one_thread_do_not_meet_and_a_context_is_set_only_where_it_changes()
    {
        using StandIn.Faults none = StandIn.With("");
        nint first = StandIn.NewContext(), second = StandIn.NewContext();
        using (Device a = Device.CudaFrom(first), b = Device.CudaFrom(second))
        using (Scope x = a.BeginScope(), y = b.BeginScope())
        {
            Tensor one = x.Of([2], [1f, 2]), two = y.Of([2], [3f, 4]);
            StandIn.Set("");
            for (int i = 0; i < 3; i++)
            {
                Tensor p = new Add().Apply(one, one), q = new Add().Apply(two, two);
                Assert.Equal([2f, 4], p.ToArray());
                Assert.Equal([6f, 8], q.ToArray());
            }
            Assert.Equal(12, StandIn.Count("set_current"));     // a, b, a, b in each round
            StandIn.Set("");
            for (int i = 0; i < 3; i++)
            {
                Assert.Equal([6f, 8], new Add().Apply(two, two).ToArray());
            }
            Assert.Equal(0, StandIn.Count("set_current"));
        }
        Assert.True(StandIn.EndContext(first) && StandIn.EndContext(second));
    }

    [Fact]
    public void Every_handle_is_given_back()
    {
        using StandIn.Faults none = StandIn.With("");
        nint context = StandIn.NewContext();
        long before = StandIn.Alive;
        using (Device device = Device.CudaFrom(context))
        using (Scope scope = device.BeginScope())
        {
            Tensor x = scope.Of([2], [1f, 2]);
            new Add().Apply(x, x);
            device.Time(() => x.Fill(1));
            _ = device.Capture(() => x.Fill(2));     // the device ends it
            Assert.True(StandIn.Alive >= before + 5);     // a stream, a module, two events, a graph
        }
        Assert.Equal(before, StandIn.Alive);
        Assert.True(StandIn.EndContext(context));
    }

    [Fact]
    public void A_context_that_has_ended_is_refused()
    {
        using StandIn.Faults none = StandIn.With("");
        nint context = StandIn.NewContext();
        StandIn.EndContext(context);
        Assert.Contains("CUDA_ERROR_INVALID_CONTEXT", Assert.Throws<DeviceException>(() => Device.CudaFrom(context)).Message, StringComparison.Ordinal);
    }

    [Fact]
    public unsafe void A_view_of_host_memory_is_that_memory()
    {
        using Device device = Devices.Open("cpu");
        float* memory = (float*)NativeMemory.AlignedAlloc(4 * sizeof(float), 64);
        using (Scope scope = device.BeginScope())
        {
            new Span<float>(memory, 4).Fill(3);
            Tensor x = scope.View((nint)memory, [2, 2], DType.F32);
            Assert.Equal([9f, 9, 9, 9], new Mul().Apply(x, x).ToArray());
            x.Fill(5);
            Assert.Equal("View: address is 0x0, want a multiple of 16 bytes", Assert.Throws<ShapeException>(() => scope.View(0, [1], DType.F32)).Message);
            Assert.Contains("want a multiple of 16", Assert.Throws<ShapeException>(() => scope.View((nint)memory + 4, [1], DType.F32)).Message, StringComparison.Ordinal);
        }
        Assert.Equal([5f, 5, 5, 5], new Span<float>(memory, 4).ToArray());
        NativeMemory.AlignedFree(memory);
    }
}
