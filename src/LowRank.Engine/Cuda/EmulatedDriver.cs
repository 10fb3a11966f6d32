using System.Diagnostics;
using System.Runtime.InteropServices;
using System.Runtime.InteropServices.Marshalling;
using LowRank.Interop;

namespace LowRank;

/// <summary>How the emulator schedules a launch. A correct kernel gives the same bits under each.</summary>
/// <param name="Lazy">Asynchronous copies and products happen as late as the kernel's waits allow; else at once.</param>
/// <param name="Order">Of threads: 0 forward, 1 backward, 2 strided.</param>
/// <param name="Seed">Of the delays of asynchronous copies.</param>
internal readonly record struct EmulatorSchedule(bool Lazy, int Order, uint Seed);

/// <summary>Runs the CUDA sources on the host, through liblowrank_emu: every thread a fibre, every barrier and copy as the handbook says.</summary>
internal sealed unsafe class EmulatedDriver : CudaDriver
{
    /// <summary>Name of the device.</summary>
    public const string DeviceName = "emulated";

    /// <summary>Compute capability times 10 of the GPU that it stands for.</summary>
    public const int Capability = 90;

    private const int MessageBytes = 4096;
    private static readonly Lazy<nint> Shipped = new(() => NativeLoader.Load("lowrank_emu"));
    private readonly nint library;
    private List<Action>? recorded;

    /// <summary>The library beside the application.</summary>
    public EmulatedDriver()
    {
        try
        {
            library = Shipped.Value;
        }
        catch (DllNotFoundException error)
        {
            throw new DeviceException(error.Message, error);
        }
    }

    /// <summary>Another build of the kernels, for tests of the emulator itself.</summary>
    public EmulatedDriver(nint library) => this.library = library;

    /// <summary>True where the emulator's library is beside the application.</summary>
    public static bool IsPresent
    {
        get
        {
            try
            {
                return Shipped.Value != 0;
            }
            catch (DllNotFoundException)
            {
                return false;
            }
        }
    }

    /// <summary>Every kernel of the library: name, file, type of activations, threads a block.</summary>
    public IEnumerable<(string Name, string File, DType Type, int Threads)> Entries()
    {
        for (int i = 0; ; i++)
        {
            if (Entry(i) is not { } entry)
            {
                yield break;
            }
            yield return entry;
        }
    }

    public override string Name => DeviceName;

    public override int Architecture => Emulates;

    /// <summary>Compute capability times 10 that plans see; the kernels of lower ones run too.</summary>
    public int Emulates { get; init; } = Capability;

    public override int Multiprocessors => Processors;

    /// <summary>How many multiprocessors it stands for: the grid of persistent kernels.</summary>
    public int Processors { get; init; } = 3;

    public override bool IsHostMemory => true;

    /// <summary>Launches so far, by kernel and type.</summary>
    public Dictionary<(string Name, DType Type), int> Launches { get; } = [];

    /// <summary>The schedule of the launches that follow.</summary>
    public EmulatorSchedule Schedule { get; set; }

    protected override nint TryAllocate(nuint bytes)
    {
        try
        {
            return (nint)NativeMemory.AlignedAlloc(bytes, 4096);
        }
        catch (OutOfMemoryException)
        {
            return 0;
        }
    }

    protected override void Free(nint block) => NativeMemory.AlignedFree((void*)block);

    protected override (nuint Free, nuint Total) Room()
    {
        GCMemoryInfo memory = GC.GetGCMemoryInfo();
        return ((nuint)Math.Max(0, memory.TotalAvailableMemoryBytes - memory.MemoryLoadBytes), (nuint)memory.TotalAvailableMemoryBytes);
    }

    public override void Upload(ReadOnlySpan<byte> from, nint to) => from.CopyTo(new Span<byte>((void*)to, from.Length));

    public override void Download(nint from, Span<byte> to) => new ReadOnlySpan<byte>((void*)from, to.Length).CopyTo(to);

    public override void Copy(nint from, nint to, nuint bytes) => Do(() => NativeMemory.Copy((void*)from, (void*)to, bytes));

    public override void Clear(nint block, nuint bytes) => Do(() => NativeMemory.Clear((void*)block, bytes));

    public override void Synchronize()
    {
    }

    // Only a library built with AddressSanitizer has it: a kernel that touches a guard is then reported with its line.
    public override void Guard(nint memory, nuint bytes, bool on)
    {
        if (NativeLibrary.TryGetExport(library, "lr_emu_guard", out nint export))
        {
            ((delegate* unmanaged<nint, ulong, int, void>)export)(memory, bytes, on ? 1 : 0);
        }
    }

    public override TensorMap Encode(nint data, DType type, long rows, long cols, int boxRows, int boxCols)
    {
        long pitch = cols * type.Size();
        if (data % 16 != 0 || pitch % 16 != 0 || boxRows is < 1 or > 256 || boxCols is < 1 or > 256 || boxCols * type.Size() > 128)
        {
            throw new KernelException($"tensor map: address {data:x}, rows of {pitch} bytes, box [{boxRows}, {boxCols}], want address and rows in multiples of 16 bytes and a box of at most 256 rows of 128 bytes");
        }
        TensorMap map = default;
        map[0] = (ulong)data;
        map[1] = (ulong)rows;
        map[2] = (ulong)cols;
        map[3] = (ulong)pitch;
        map[4] = (uint)boxRows | ((ulong)(uint)boxCols << 32);
        map[5] = (uint)type.Size() | (3UL << 32);
        return map;
    }

    public override void Launch(in CudaLaunch launch, void* args, int bytes)
    {
        if (recorded is null)
        {
            Run(in launch, args, bytes);
            return;
        }
        CudaLaunch kept = launch;
        byte[] copy = new ReadOnlySpan<byte>(args, bytes).ToArray();
        recorded.Add(() =>
        {
            fixed (byte* p = copy)
            {
                Run(in kept, p, copy.Length);
            }
        });
    }

    public override void BeginRecording() => recorded = [];

    public override CudaRecording EndRecording()
    {
        var whole = new Recording(recorded!);
        recorded = null;
        return whole;
    }

    public override void DropRecording() => recorded = null;

    public override double Time(Action work)
    {
        long began = Stopwatch.GetTimestamp();
        work();
        return Stopwatch.GetElapsedTime(began).TotalMilliseconds;
    }

    private void Do(Action action)
    {
        if (recorded is null)
        {
            action();
        }
        else
        {
            recorded.Add(action);
        }
    }

    private void Run(in CudaLaunch launch, void* args, int bytes)
    {
        Launches[(launch.Name, launch.Type)] = Launches.GetValueOrDefault((launch.Name, launch.Type)) + 1;
        byte* name = Utf8StringMarshaller.ConvertToUnmanaged(launch.Name);
        try
        {
            uint wantBytes, threads;
            if (((delegate* unmanaged<byte*, int, uint*, uint*, int>)Export("lr_emu_find"))(name, (int)launch.Type, &wantBytes, &threads) == 0)
            {
                throw new KernelException($"{launch}: {launch.File} declares no such kernel");
            }
            if (wantBytes != bytes || threads < launch.Threads)
            {
                throw new KernelException($"{launch}: arguments have {bytes} bytes and {launch.Threads} threads, want {wantBytes} and at most {threads}");
            }
            uint* grid = stackalloc uint[3] { launch.Blocks.X, launch.Blocks.Y, launch.Blocks.Z };
            Options options = new(launch.Together ? 1 : 0, Schedule.Lazy ? 1 : 0, Schedule.Order, Schedule.Seed);
            byte* message = stackalloc byte[MessageBytes];
            // Tensor maps in an argument struct must lie on 64 bytes, as they do in constant memory.
            void* aligned = NativeMemory.AlignedAlloc((nuint)bytes, 64);
            try
            {
                NativeMemory.Copy(args, aligned, (nuint)bytes);
                int status = ((delegate* unmanaged<byte*, int, uint*, uint, uint, void*, Options*, byte*, int, int>)Export("lr_emu_launch"))(
                    name, (int)launch.Type, grid, (uint)launch.Threads, (uint)launch.SharedBytes, aligned, &options, message, MessageBytes);
                if (status != 0)
                {
                    throw new KernelException($"{launch}: {Marshal.PtrToStringUTF8((nint)message)}");
                }
            }
            finally
            {
                NativeMemory.AlignedFree(aligned);
            }
        }
        finally
        {
            Utf8StringMarshaller.Free(name);
        }
    }

    private (string Name, string File, DType Type, int Threads)? Entry(int index)
    {
        nint name, file;
        int type;
        uint threads;
        return ((delegate* unmanaged<int, nint*, nint*, int*, uint*, int>)Export("lr_emu_entry"))(index, &name, &file, &type, &threads) == 0 ? null
            : (Marshal.PtrToStringUTF8(name)!, Marshal.PtrToStringUTF8(file)!, (DType)type, (int)threads);
    }

    private nint Export(string name) => NativeLibrary.GetExport(library, name);

    [StructLayout(LayoutKind.Sequential)]
    private readonly struct Options(int together, int lazy, int order, uint seed)
    {
        public readonly int Together = together, Lazy = lazy, Order = order;
        public readonly uint Seed = seed;
    }

    private sealed class Recording(List<Action> launches) : CudaRecording
    {
        public override void Replay() => launches.ForEach(launch => launch());

        public override void Dispose()
        {
        }
    }
}
