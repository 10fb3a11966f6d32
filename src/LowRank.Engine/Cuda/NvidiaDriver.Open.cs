using System.Runtime.InteropServices;
using LowRank.Interop;

namespace LowRank;

// Opening: what must be there, and which context and stream are used.
internal sealed unsafe partial class NvidiaDriver
{
    private const int OldestDriver = 12000;

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
        primary = new CudaHandle(device, &ReleasePrimary);
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
    }

    /// <summary>GPUs that can be opened; 0 where there is no driver, or one that is too old.</summary>
    public static int Count => CudaLibraries.Has(CudaLibraries.Driver) && Cuda.Init(0) == 0 && Cuda.DriverGetVersion(out int version) == 0 && version >= OldestDriver
        && Cuda.DeviceGetCount(out int count) == 0 ? count : 0;

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

    private static void Start()
    {
        if (!CudaLibraries.Has(CudaLibraries.Driver))
        {
            throw new DeviceException(CudaLibraries.Diagnosis(CudaLibraries.Driver));
        }
        int status = Cuda.Init(0);
        if (status != 0)
        {
            throw new DeviceException($"cuInit failed: {Words(status)}; want a GPU that the driver sees: see what nvidia-smi says, and CUDA_VISIBLE_DEVICES");
        }
        Check(Cuda.DriverGetVersion(out int version), "cuDriverGetVersion");
        if (version < OldestDriver)
        {
            throw new DeviceException($"the CUDA driver is version {version / 1000}.{version % 1000 / 10}, want {OldestDriver / 1000}.0 or newer: update NVIDIA's display driver");
        }
    }

    private (int Architecture, int Multiprocessors, CudaHandle Stream) Open(nint given)
    {
        const uint NonBlocking = 1;
        Check(Cuda.CtxSetCurrent(context), "cuCtxSetCurrent");
        Check(Cuda.DeviceGetAttribute(out int multiprocessors, Cuda.MultiprocessorCount, device), "cuDeviceGetAttribute");
        if (given != 0)
        {
            return (Capability(device), multiprocessors, new CudaHandle(given, null));
        }
        Check(Cuda.StreamCreate(out nint made, NonBlocking), "cuStreamCreate");
        return (Capability(device), multiprocessors, new CudaHandle(made, &Cuda.StreamDestroy, primary));
    }

    private static int Capability(int device)
    {
        Check(Cuda.DeviceGetAttribute(out int major, Cuda.ComputeCapabilityMajor, device), "cuDeviceGetAttribute");
        Check(Cuda.DeviceGetAttribute(out int minor, Cuda.ComputeCapabilityMinor, device), "cuDeviceGetAttribute");
        return (10 * major) + minor;
    }

    private static int ReleasePrimary(nint device) => Cuda.DevicePrimaryCtxRelease((int)device);
}
