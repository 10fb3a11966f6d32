namespace LowRank.Testing;

/// <summary>A GPU of a kind that does nothing but note which kernels it is asked for: plans are pure functions of shapes and device, so what a step of any
/// size compiles is known without running it. Memory reads as zeros.</summary>
/// <param name="architecture">Compute capability times 10.</param>
/// <param name="multiprocessors">Of the device.</param>
internal sealed unsafe class ListingDriver(int architecture, int multiprocessors) : CudaDriver
{
    private readonly SortedSet<(string File, DType Type, string Kernel)> launched = [];

    /// <summary>What NVRTC compiles for all launches so far, by file and type.</summary>
    public IReadOnlyList<CudaVariant> Variants => [.. launched.Select(l => new CudaVariant(l.File, l.Type, Architecture, Kernel: l.Kernel))];

    public override string Name => $"listing of {architecture}";

    public override int Architecture => architecture;

    public override int Multiprocessors => multiprocessors;

    public override bool IsHostMemory => false;     // what no kernel takes is an error, as on a GPU

    public override void Upload(ReadOnlySpan<byte> from, nint to)
    {
    }

    public override void Download(nint from, Span<byte> to) => to.Clear();

    public override void Copy(nint from, nint to, nuint bytes)
    {
    }

    public override void Clear(nint block, nuint bytes)
    {
    }

    public override void Synchronize()
    {
    }

    public override TensorMap Encode(nint data, DType type, long rows, long cols, int boxRows, int boxCols) => default;

    public override void Launch(in CudaLaunch launch, void* args, int bytes) => launched.Add((launch.File, launch.Type, launch.Name));

    public override void BeginRecording() => throw new NotSupportedException();

    public override CudaRecording EndRecording() => throw new NotSupportedException();

    public override void DropRecording() => throw new NotSupportedException();

    public override double Time(Action work) => throw new NotSupportedException();

    // Addresses only: nothing is ever read or written there.
    protected override nint TryAllocate(nuint bytes)
    {
        nint block = next;
        next += (nint)((bytes + Alignment - 1) / Alignment * Alignment);
        return block;
    }

    protected override void Free(nint block)
    {
    }

    protected override (nuint Free, nuint Total) Room() => (nuint.MaxValue, nuint.MaxValue);

    private const nuint Alignment = 4096;

    private nint next = (nint)Alignment;
}
