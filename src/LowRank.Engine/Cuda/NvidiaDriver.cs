using System.Runtime.InteropServices;
using System.Text;
using LowRank.Interop;

namespace LowRank;

/// <summary>An NVIDIA GPU through the CUDA driver: its primary context, or one that an application made itself. Kernels come from NVRTC or its cache.
/// The first error that the device reports makes it unusable, and every later one names that cause.</summary>
internal sealed unsafe class NvidiaDriver : CudaDriver
{
    private const int OldestDriver = 12000;
    private readonly int device;
    private readonly nint context, stream;
    private readonly bool owned;
    private readonly CudaCompiler compiler = new(CudaCache.Default);
    private readonly Dictionary<CudaVariant, nint> modules = [];
    private readonly Dictionary<(string File, string Name, DType Type), (nint Function, int Shared)> functions = [];
    private string? broken;

    /// <summary>The GPU of that number, in its primary context.</summary>
    public NvidiaDriver(int ordinal)
    {
        Start();
        Check(Cuda.DeviceGetCount(out int count), "cuDeviceGetCount");
        if (ordinal < 0 || ordinal >= count)
        {
            throw new DeviceException($"cuda:{ordinal} is not there, want one of the {count} GPUs that the driver lists, from 0");
        }
        Check(Cuda.DeviceGet(out device, ordinal), "cuDeviceGet");
        Check(Cuda.DevicePrimaryCtxRetain(out context, device), "cuDevicePrimaryCtxRetain");
        owned = true;
        Name = $"cuda:{ordinal}";
        (Architecture, Multiprocessors, stream) = Open(0);
    }

    /// <summary>A context and stream of the application's own (ManagedCuda, ILGPU, TorchSharp): both must outlive the device, which destroys neither.</summary>
    /// <param name="context">CUcontext.</param>
    /// <param name="stream">CUstream; 0 makes one.</param>
    public NvidiaDriver(nint context, nint stream)
    {
        Start();
        this.context = context;
        Check(Cuda.CtxSetCurrent(context), "cuCtxSetCurrent");
        Check(Cuda.CtxGetDevice(out device), "cuCtxGetDevice");
        Name = $"cuda:{device}";
        (Architecture, Multiprocessors, this.stream) = Open(stream);
        adopted = stream != 0;
    }

    private readonly bool adopted;

    public override string Name { get; }

    public override int Architecture { get; }

    public override int Multiprocessors { get; }

    public override bool IsHostMemory => false;

    /// <summary>GPUs that the driver lists; 0 where there is no driver.</summary>
    public static int Count => CudaLibraries.Has(CudaLibraries.Driver) && Cuda.Init(0) == 0 && Cuda.DeviceGetCount(out int count) == 0 ? count : 0;

    /// <summary>Product name, architecture and memory of a GPU.</summary>
    public static (string Product, string Architecture, long Memory) Describe(int ordinal)
    {
        Start();
        Check(Cuda.DeviceGet(out int device, ordinal), "cuDeviceGet");
        byte* name = stackalloc byte[128];
        Check(Cuda.DeviceGetName(name, 128, device), "cuDeviceGetName");
        Check(Cuda.DeviceTotalMem(out nuint bytes, device), "cuDeviceTotalMem");
        return (Marshal.PtrToStringUTF8((nint)name)!, $"sm_{Capability(device)}", (long)bytes);
    }

    public override nint Allocate(nuint bytes)
    {
        Enter();
        int status = Cuda.MemAlloc(out nint pointer, bytes);
        if (status == Cuda.OutOfMemory)
        {
            _ = Cuda.MemGetInfo(out nuint free, out nuint total);
            throw new DeviceException($"{Name}: no memory for a block of {bytes} bytes; {free} of {total} bytes are free. Use smaller batches, BF16 weights, or dispose what is not needed");
        }
        Require(status, "cuMemAlloc");
        return pointer;
    }

    public override void Release(nint block)
    {
        if (broken is null)
        {
            Enter();
            Require(Cuda.MemFree(block), "cuMemFree");
        }
    }

    public override void Upload(ReadOnlySpan<byte> from, nint to)
    {
        Enter();
        fixed (byte* p = from)
        {
            // Pageable memory is staged before the call returns, in the order of the stream.
            Require(Cuda.MemcpyHtoDAsync(to, p, (nuint)from.Length, stream), "cuMemcpyHtoD");
        }
        Require(Cuda.StreamSynchronize(stream), "cuMemcpyHtoD");
    }

    public override void Download(nint from, Span<byte> to)
    {
        Enter();
        fixed (byte* p = to)
        {
            Require(Cuda.MemcpyDtoHAsync(p, from, (nuint)to.Length, stream), "cuMemcpyDtoH");
            Require(Cuda.StreamSynchronize(stream), "a kernel before this copy, or the copy,");
        }
    }

    public override void Copy(nint from, nint to, nuint bytes)
    {
        Enter();
        Require(Cuda.MemcpyDtoDAsync(to, from, bytes, stream), "cuMemcpyDtoD");
    }

    public override void Clear(nint block, nuint bytes)
    {
        Enter();
        Require(Cuda.MemsetD8Async(block, 0, bytes, stream), "cuMemsetD8");
    }

    public override void Synchronize()
    {
        Enter();
        Require(Cuda.StreamSynchronize(stream), "a kernel");
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
        int status = Cuda.LaunchKernel(function, launch.Blocks.X, launch.Blocks.Y, launch.Blocks.Z, (uint)launch.Threads, 1, 1, (uint)launch.SharedBytes, stream, parameters, null);
        if (status != 0)
        {
            Fail(status, launch.ToString());
        }
    }

    protected override void Dispose(bool disposing)
    {
        if (broken is null)
        {
            _ = Cuda.CtxSetCurrent(context);
            _ = Cuda.StreamSynchronize(stream);
            foreach (nint module in modules.Values)
            {
                _ = Cuda.ModuleUnload(module);
            }
            if (!adopted)
            {
                _ = Cuda.StreamDestroy(stream);
            }
        }
        if (owned)
        {
            _ = Cuda.DevicePrimaryCtxRelease(device);
        }
        base.Dispose(disposing);
    }

    private nint Function(in CudaLaunch launch)
    {
        const int WithoutAsking = 48 << 10;
        (string, string, DType) key = (launch.File, launch.Name, launch.Type);
        if (!functions.TryGetValue(key, out (nint Function, int Shared) known))
        {
            var variant = new CudaVariant(launch.File, launch.Type, Architecture);
            if (!modules.TryGetValue(variant, out nint module))
            {
                fixed (byte* image = compiler.Get(variant).Cubin)
                {
                    Require(Cuda.ModuleLoadData(out module, image), $"loading {variant}");
                }
                modules.Add(variant, module);
            }
            fixed (byte* name = Encoding.UTF8.GetBytes(launch.Name + "\0"))
            {
                int status = Cuda.ModuleGetFunction(out known.Function, module, name);
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

    private static void Start()
    {
        if (!CudaLibraries.Has(CudaLibraries.Driver))
        {
            throw new DeviceException(CudaLibraries.Diagnosis(CudaLibraries.Driver));
        }
        Check(Cuda.Init(0), "cuInit");
        Check(Cuda.DriverGetVersion(out int version), "cuDriverGetVersion");
        if (version < OldestDriver)
        {
            throw new DeviceException($"the CUDA driver is version {version / 1000}.{version % 1000 / 10}, want {OldestDriver / 1000}.0 or newer: update NVIDIA's display driver");
        }
    }

    private (int Architecture, int Multiprocessors, nint Stream) Open(nint given)
    {
        const uint NonBlocking = 1;
        Check(Cuda.CtxSetCurrent(context), "cuCtxSetCurrent");
        Check(Cuda.DeviceGetAttribute(out int multiprocessors, Cuda.MultiprocessorCount, device), "cuDeviceGetAttribute");
        nint made = given;
        if (given == 0)
        {
            Check(Cuda.StreamCreate(out made, NonBlocking), "cuStreamCreate");
        }
        return (Capability(device), multiprocessors, made);
    }

    private static int Capability(int device)
    {
        Check(Cuda.DeviceGetAttribute(out int major, Cuda.ComputeCapabilityMajor, device), "cuDeviceGetAttribute");
        Check(Cuda.DeviceGetAttribute(out int minor, Cuda.ComputeCapabilityMinor, device), "cuDeviceGetAttribute");
        return (10 * major) + minor;
    }

    private void Enter()
    {
        if (broken is not null)
        {
            throw new DeviceException($"{Name} cannot be used any more: {broken}");
        }
        Check(Cuda.CtxSetCurrent(context), "cuCtxSetCurrent");
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
        // Errors from 700 on have destroyed the context; 2, 1 and 400 leave it as it was.
        string words = $"{what} failed: {Words(status)}";
        broken = status >= 700 || status == 214 || status == 999 ? words : null;
        throw new KernelException($"{Name}: {words}");
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
}
