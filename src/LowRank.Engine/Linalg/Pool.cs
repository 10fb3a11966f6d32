using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>Managed loops on the native library's thread pool. How a loop is cut into chunks must follow from shapes alone: then results do not
/// depend on the number of threads.</summary>
internal static unsafe class Pool
{
    private static readonly Lazy<nint> Entry = new(() => CpuDevice.TryGetExport("lr_cpu_for_chunks", out nint entry)
        ? entry
        : throw new DeviceException("liblowrank_cpu: lr_cpu_for_chunks is missing; build native/ and the assemblies from the same sources"));

    /// <summary>Runs <paramref name="body"/> for 0 .. chunks-1, in any order; where a chunk throws, the first error comes out here.</summary>
    public static void For(int chunks, Action<int> body)
    {
        if (chunks <= 1)
        {
            for (int i = 0; i < chunks; i++)
            {
                body(i);
            }
            return;
        }
        var loop = new Loop(body);
        GCHandle handle = GCHandle.Alloc(loop);
        try
        {
            ((delegate* unmanaged<long, delegate* unmanaged<void*, long, void>, void*, void>)Entry.Value)(chunks, &Run, (void*)GCHandle.ToIntPtr(handle));
        }
        finally
        {
            handle.Free();
        }
        loop.Error?.Throw();
    }

    [UnmanagedCallersOnly]
    private static void Run(void* context, long chunk)
    {
        var loop = (Loop)GCHandle.FromIntPtr((nint)context).Target!;
#pragma warning disable CA1031 // Nothing may unwind through native frames; For throws it again.
        try
        {
            loop.Body((int)chunk);
        }
        catch (Exception error)
        {
            loop.Error ??= ExceptionDispatchInfo.Capture(error);
        }
#pragma warning restore CA1031
    }

    private sealed class Loop(Action<int> body)
    {
        public Action<int> Body => body;

        public ExceptionDispatchInfo? Error { get; set; }
    }
}
