using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using LowRank.Interop;

namespace LowRank;

/// <summary>Host memory and the exports <c>lr_cpu_*</c> of liblowrank_cpu, which picks its instruction set itself.</summary>
internal sealed unsafe class CpuDevice : Device
{
    private static readonly Lazy<nint> Library = new(() => NativeLoader.Load("lowrank_cpu"));

    public CpuDevice()
    {
        try
        {
            int version = ((delegate* unmanaged<int>)NativeLibrary.GetExport(Library.Value, "lr_cpu_abi_version"))();
            if (version != KernelTable.AbiVersion)
            {
                throw new DeviceException($"liblowrank_cpu: ABI version is {version}, want {KernelTable.AbiVersion}; build native/ and the assemblies from the same sources");
            }
        }
        catch (DllNotFoundException error)
        {
            throw new DeviceException(error.Message, error);
        }
    }

    public override string Name => "cpu";

    /// <summary>Instruction set in use: portable, avx2, avx512 or avx512bf16.</summary>
    public static string Isa => Marshal.PtrToStringUTF8(((delegate* unmanaged<nint>)NativeLibrary.GetExport(Library.Value, "lr_cpu_isa"))())!;

    public static int Threads
    {
        get => ((delegate* unmanaged<int>)NativeLibrary.GetExport(Library.Value, "lr_cpu_threads"))();
        set => _ = ((delegate* unmanaged<int, int>)NativeLibrary.GetExport(Library.Value, "lr_cpu_set_threads"))(value);
    }

    public override bool RowsAreIndependent => true;

    internal override bool PacksWeights => true;

    internal static bool TryGetExport(string name, out nint address) => NativeLibrary.TryGetExport(Library.Value, name, out address);

    internal override nint Allocate(nuint bytes) => bytes <= long.MaxValue && ((delegate* unmanaged<long, nint>)NativeLibrary.GetExport(Library.Value, "lr_cpu_allocate"))((long)bytes) is var block and not 0
        ? block
        : throw new DeviceException($"cpu: no memory for a block of {bytes} bytes");

    internal override void Release(nint block) => ((delegate* unmanaged<nint, void>)NativeLibrary.GetExport(Library.Value, "lr_cpu_free"))(block);

    internal override void Upload(ReadOnlySpan<byte> from, nint to) => from.CopyTo(new Span<byte>((void*)to, from.Length));

    internal override void Download(nint from, Span<byte> to) => new ReadOnlySpan<byte>((void*)from, to.Length).CopyTo(to);

    internal override void Copy(nint from, nint to, nuint bytes) => NativeMemory.Copy((void*)from, (void*)to, bytes);

    public override void Synchronize()
    {
    }

    internal override void Launch<TArgs>(Kernel<TArgs> kernel, in TArgs args)
    {
        if (args.Type == DType.F64)
        {
            kernel.Reference(in args);
            return;
        }
        nint entry = kernel.CpuEntry;
        int status = Unsupported;
        if (entry != 0)
        {
            fixed (TArgs* p = &args)
            {
                status = ((delegate* unmanaged<TArgs*, int>)entry)(p);
            }
        }
        if (status == Unsupported)
        {
            CountFallback(kernel.Name);
            kernel.Reference(in args);
        }
        else if (status != 0)
        {
            Fail(kernel.Name, args.Type, status);
        }
    }

    private const int Unsupported = 1;

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void Fail(string kernel, DType type, int status) => throw new KernelException(
        $"lr_cpu_{kernel} ({type}): {status switch { 2 => "an argument is out of range", 3 => "no memory for its workspace", _ => $"status {status}" }}");
}
