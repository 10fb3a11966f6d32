using System.Runtime.InteropServices;
using System.Text;
using LowRank.Interop;

namespace LowRank;

/// <summary>An NVIDIA GPU through the CUDA driver: its primary context, or one that an application made itself. Kernels come from NVRTC or its cache.
/// The first error that the device reports makes it unusable, and every later one names that cause.</summary>
internal sealed unsafe partial class NvidiaDriver : CudaDriver
{
    private readonly int device;
    private readonly nint context;
    private readonly CudaHandle? primary;
    private readonly CudaHandle stream;
    private readonly CudaCompiler compiler = new(CudaCache.Default);
    private readonly Dictionary<CudaVariant, CudaHandle> modules = [];
    private readonly Dictionary<(string File, string Name, DType Type), (nint Function, int Shared)> functions = [];
    private (CudaHandle Start, CudaHandle End)? clock;
    private CudaLaunch last;
    private string? broken;

    public override string Name { get; }

    public override int Architecture { get; }

    public override int Multiprocessors { get; }

    public override bool IsHostMemory => false;

    public override void Upload(ReadOnlySpan<byte> from, nint to)
    {
        const int AtOnce = 4096;
        Enter();
        if (from.Length <= AtOnce)
        {
            // Memory that is surely pageable: the driver has copied it when the call returns, and nobody waits.
            Span<byte> copy = stackalloc byte[AtOnce];
            from.CopyTo(copy);
            fixed (byte* p = copy)
            {
                Require(Cuda.MemcpyHtoDAsync(to, p, (nuint)from.Length, stream.Value), "cuMemcpyHtoD");
            }
            return;
        }
        fixed (byte* p = from)
        {
            Require(Cuda.MemcpyHtoDAsync(to, p, (nuint)from.Length, stream.Value), "cuMemcpyHtoD");
        }
        Require(Cuda.StreamSynchronize(stream.Value), "cuMemcpyHtoD");
    }

    public override void Download(nint from, Span<byte> to)
    {
        Enter();
        fixed (byte* p = to)
        {
            Require(Cuda.MemcpyDtoHAsync(p, from, (nuint)to.Length, stream.Value), "cuMemcpyDtoH");
            Require(Cuda.StreamSynchronize(stream.Value), "cuMemcpyDtoH");
        }
    }

    public override void Copy(nint from, nint to, nuint bytes)
    {
        Enter();
        Require(Cuda.MemcpyDtoDAsync(to, from, bytes, stream.Value), "cuMemcpyDtoD");
    }

    public override void Clear(nint block, nuint bytes)
    {
        Enter();
        Require(Cuda.MemsetD8Async(block, 0, bytes, stream.Value), "cuMemsetD8");
    }

    public override void Synchronize()
    {
        Enter();
        Require(Cuda.StreamSynchronize(stream.Value), "cuStreamSynchronize");
    }

    public override TensorMap Encode(nint data, DType type, long rows, long cols, int boxRows, int boxCols)
    {
        const int Swizzle128 = 3, Promote128 = 2;
        TensorMap* aligned = (TensorMap*)NativeMemory.AlignedAlloc((nuint)sizeof(TensorMap), 64);
        try
        {
            ulong* sizes = stackalloc ulong[2] { (ulong)cols, (ulong)rows };
            ulong* strides = stackalloc ulong[1] { (ulong)(cols * type.Size()) };
            uint* box = stackalloc uint[2] { (uint)boxCols, (uint)boxRows };
            uint* steps = stackalloc uint[2] { 1, 1 };
            int status = Cuda.TensorMapEncodeTiled(aligned, type == DType.BF16 ? 9 : 6, 2, data, sizes, strides, box, steps, 0, Swizzle128, Promote128, 0);
            Require(status, $"tensor map of [{rows}, {cols}] {type} with box [{boxRows}, {boxCols}]");
            return *aligned;
        }
        finally
        {
            NativeMemory.AlignedFree(aligned);
        }
    }

    public override void Launch(in CudaLaunch launch, void* args, int bytes)
    {
        Enter();
        nint function = Function(in launch);
        void** parameters = stackalloc void*[1] { args };
        int status;
        if (launch.Together)
        {
            var together = new Cuda.LaunchAttribute { Id = Cuda.LaunchAttribute.Cooperative, Value = 1 };
            var config = new Cuda.LaunchConfig
            {
                GridX = launch.Blocks.X,
                GridY = launch.Blocks.Y,
                GridZ = launch.Blocks.Z,
                BlockX = (uint)launch.Threads,
                BlockY = 1,
                BlockZ = 1,
                SharedBytes = (uint)launch.SharedBytes,
                Stream = stream.Value,
                Attributes = &together,
                Count = 1,
            };
            status = Cuda.LaunchKernelEx(&config, function, parameters, null);
        }
        else
        {
            status = Cuda.LaunchKernel(function, launch.Blocks.X, launch.Blocks.Y, launch.Blocks.Z, (uint)launch.Threads, 1, 1, (uint)launch.SharedBytes, stream.Value, parameters, null);
        }
        if (status != 0)
        {
            Fail(status, launch.ToString());
        }
        last = launch;
        if (WaitsForLaunches)
        {
            Require(Cuda.StreamSynchronize(stream.Value), launch.ToString());
        }
    }

    public override void BeginRecording()
    {
        Enter();
        Require(Cuda.StreamBeginCapture(stream.Value, Cuda.CaptureRelaxed), "cuStreamBeginCapture");
    }

    public override CudaRecording EndRecording()
    {
        Enter();
        Require(Cuda.StreamEndCapture(stream.Value, out nint graph), "cuStreamEndCapture");
        int status = Cuda.GraphInstantiate(out nint executable, graph, 0);
        _ = Cuda.GraphDestroy(graph);
        Require(status, "cuGraphInstantiate");
        return new Recording(this, new CudaHandle(executable, &Cuda.GraphExecDestroy, stream));
    }

    public override void DropRecording()
    {
        if (Cuda.StreamEndCapture(stream.Value, out nint graph) == 0 && graph != 0)
        {
            _ = Cuda.GraphDestroy(graph);
        }
    }

    public override double Time(Action work)
    {
        Enter();
        (CudaHandle start, CudaHandle end) = clock ??= (NewEvent(), NewEvent());
        Require(Cuda.EventRecord(start.Value, stream.Value), "cuEventRecord");
        work();
        Require(Cuda.EventRecord(end.Value, stream.Value), "cuEventRecord");
        Require(Cuda.EventSynchronize(end.Value), "cuEventSynchronize");
        Require(Cuda.EventElapsedTime(out float milliseconds, start.Value, end.Value), "cuEventElapsedTime");
        return milliseconds;
    }

    protected override nint TryAllocate(nuint bytes)
    {
        Enter();
        int status = Cuda.MemAlloc(out nint pointer, bytes);
        if (status == Cuda.OutOfMemory)
        {
            return 0;
        }
        Require(status, "cuMemAlloc");
        return pointer;
    }

    // It waits for what runs. Where memory is given back nobody expects an error; the next call reports it.
    protected override void Free(nint block)
    {
        if (broken is null && Cuda.CtxSetCurrent(context) == 0)
        {
            int status = Cuda.MemFree(block);
            if (status != 0)
            {
                Note(status, "cuMemFree");
            }
        }
    }

    protected override (nuint Free, nuint Total) Room()
    {
        _ = Cuda.MemGetInfo(out nuint free, out nuint total);
        return (free, total);
    }

    protected override void Dispose(bool disposing)
    {
        if (broken is null && Cuda.CtxSetCurrent(context) == 0)
        {
            _ = Cuda.StreamSynchronize(stream.Value);
        }
        clock?.Start.Dispose();
        clock?.End.Dispose();
        foreach (CudaHandle module in modules.Values)
        {
            module.Dispose();
        }
        stream.Dispose();
        primary?.Dispose();
        base.Dispose(disposing);
    }

    private nint Function(in CudaLaunch launch)
    {
        const int WithoutAsking = 48 << 10;
        (string, string, DType) key = (launch.File, launch.Name, launch.Type);
        if (!functions.TryGetValue(key, out (nint Function, int Shared) known))
        {
            CudaVariant variant = compiler.Holding(in launch, Architecture);
            if (!modules.TryGetValue(variant, out CudaHandle? module))
            {
                fixed (byte* image = compiler.Get(variant).Cubin)
                {
                    Require(Cuda.ModuleLoadData(out nint loaded, image), $"loading {variant}");
                    modules.Add(variant, module = new CudaHandle(loaded, &Cuda.ModuleUnload, primary));
                }
            }
            fixed (byte* name = Encoding.UTF8.GetBytes(launch.Name + "\0"))
            {
                int status = Cuda.ModuleGetFunction(out known.Function, module.Value, name);
                if (status != 0)
                {
                    throw new KernelException($"{launch}: {launch.File} declares no such kernel ({Words(status)})");
                }
            }
            functions[key] = known;
        }
        if (launch.SharedBytes > WithoutAsking && launch.SharedBytes > known.Shared)
        {
            Require(Cuda.FuncSetAttribute(known.Function, Cuda.MaxDynamicSharedSizeBytes, launch.SharedBytes), $"{launch}: asking for shared memory");
            functions[key] = (known.Function, launch.SharedBytes);
        }
        return known.Function;
    }

    private CudaHandle NewEvent()
    {
        Require(Cuda.EventCreate(out nint made, 0), "cuEventCreate");
        return new CudaHandle(made, &Cuda.EventDestroy, primary);
    }

    /// <summary>Another library, or another device, may have made its own context current on this thread.</summary>
    private void Enter()
    {
        if (broken is not null)
        {
            throw new DeviceException($"{Name} cannot be used any more: {broken}. Dispose the device and open it again; what was in its memory is lost");
        }
        if (Cuda.CtxGetCurrent(out nint current) != 0 || current != context)
        {
            Check(Cuda.CtxSetCurrent(context), "cuCtxSetCurrent");
        }
    }

    private void Require(int status, string what)
    {
        if (status != 0)
        {
            Fail(status, what);
        }
    }

    private void Fail(int status, string what)
    {
        string words = Note(status, what);
        throw new KernelException($"{Name}: {words}");
    }

    // Errors from 700 on, but those of captures, have destroyed the context; 2, 1 and 400 leave it as it was. They are of a kernel before this call.
    private string Note(int status, string what)
    {
        string words = $"{what} failed: {Words(status)}";
        if (status is (>= 700 and < 900) or 214 or 999)
        {
            broken = WaitsForLaunches || last.Name is null ? words : $"{words}; the kernel launched last is {last}, {nameof(Device.CheckLaunches)} tells which one failed";
            return broken;
        }
        return words;
    }

    private static void Check(int status, string what)
    {
        if (status != 0)
        {
            throw new DeviceException($"{what} failed: {Words(status)}");
        }
    }

    private static string Words(int status)
    {
        string name = Cuda.GetErrorName(status, out byte* n) == 0 ? Marshal.PtrToStringUTF8((nint)n)! : $"CUresult {status}";
        return Cuda.GetErrorString(status, out byte* s) == 0 ? $"{name} ({Marshal.PtrToStringUTF8((nint)s)})" : name;
    }

    private sealed class Recording(NvidiaDriver driver, CudaHandle executable) : CudaRecording
    {
        public override void Replay()
        {
            driver.Enter();
            driver.Require(Cuda.GraphLaunch(executable.Value, driver.stream.Value), "cuGraphLaunch");
        }

        public override void Dispose() => executable.Dispose();
    }
}
