using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;

namespace LowRank.Cuda.Tests;

/// <summary>The stand-in for NVIDIA's driver and NVRTC (tests/native/fake_cuda): this process finds it before any other, so <c>cuda:0</c> is its GPU, with
/// everything of the engine above it as it is on a real one. Device memory is closed to the host. Faults and counts belong to a thread.</summary>
internal static unsafe class StandIn
{
    private static readonly Lazy<nint> Library = new(() => NativeLibrary.Load(Path.Combine(Folder, "libcuda.so.1")));

    /// <summary>Where both lie.</summary>
    public static string Folder => Path.Combine(AppContext.BaseDirectory, "fake_cuda");

    [ModuleInitializer]
    internal static void Choose()
    {
        Environment.SetEnvironmentVariable("LOWRANK_CUDA", Folder);
        Environment.SetEnvironmentVariable("LOWRANK_CACHE", Path.Combine(AppContext.BaseDirectory, "fake_cache"));
    }

    /// <summary>What goes wrong on this thread until the result is disposed, as fake.h says; "" for nothing. Counts start again.</summary>
    public static Faults With(string faults)
    {
        Set(faults);
        return default;
    }

    /// <summary>What goes wrong on this thread from here on.</summary>
    public static void Set(string faults)
    {
        fixed (byte* text = Encoding.UTF8.GetBytes(faults + "\0"))
        {
            ((delegate* unmanaged<byte*, void>)Export("lr_fake_set"))(text);
        }
    }

    /// <summary>Calls of a kind on this thread since the last <see cref="Set"/>.</summary>
    public static long Count(string what)
    {
        fixed (byte* text = Encoding.UTF8.GetBytes(what + "\0"))
        {
            return ((delegate* unmanaged<byte*, long>)Export("lr_fake_count"))(text);
        }
    }

    /// <summary>Modules, streams, graphs and events that this thread has made and nobody has ended.</summary>
    public static long Alive => ((delegate* unmanaged<long>)Export("lr_fake_alive"))();

    /// <summary>The emulator's report of a launch that failed on this thread.</summary>
    public static string Trouble => Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)Export("lr_fake_trouble"))())!;

    /// <summary>A context as an application makes it.</summary>
    public static nint NewContext()
    {
        nint context;
        _ = ((delegate* unmanaged<uint, int>)Export("cuInit"))(0);
        Check(((delegate* unmanaged<nint*, uint, int, int>)Export("cuCtxCreate_v2"))(&context, 0, 0));
        return context;
    }

    /// <summary>Ends a context; false where it has ended before.</summary>
    public static bool EndContext(nint context) => ((delegate* unmanaged<nint, int>)Export("cuCtxDestroy_v2"))(context) == 0;

    /// <summary>A stream of the current context.</summary>
    public static nint NewStream()
    {
        nint stream;
        Check(((delegate* unmanaged<nint*, uint, int>)Export("cuStreamCreate"))(&stream, 0));
        return stream;
    }

    /// <summary>Ends a stream; false where it has ended before.</summary>
    public static bool EndStream(nint stream) => ((delegate* unmanaged<nint, int>)Export("cuStreamDestroy_v2"))(stream) == 0;

    /// <summary>Memory of the current context.</summary>
    public static nint Allocate(int bytes)
    {
        nint block;
        Check(((delegate* unmanaged<nint*, nuint, int>)Export("cuMemAlloc_v2"))(&block, (nuint)bytes));
        return block;
    }

    /// <summary>Frees it; false where it has been freed before.</summary>
    public static bool Free(nint block) => ((delegate* unmanaged<nint, int>)Export("cuMemFree_v2"))(block) == 0;

    /// <summary>Writes to it.</summary>
    public static void Write(nint block, ReadOnlySpan<float> values, nint stream)
    {
        fixed (float* p = values)
        {
            Check(((delegate* unmanaged<nint, void*, nuint, nint, int>)Export("cuMemcpyHtoDAsync_v2"))(block, p, (nuint)(values.Length * sizeof(float)), stream));
        }
    }

    private static void Check(int status)
    {
        if (status != 0)
        {
            throw new InvalidOperationException($"stand-in: status {status}");
        }
    }

    private static nint Export(string name) => NativeLibrary.GetExport(Library.Value, name);

    /// <summary>Ends what goes wrong.</summary>
    internal readonly struct Faults : IDisposable
    {
        public void Dispose() => Set("");
    }
}
