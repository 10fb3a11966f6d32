namespace LowRank;

/// <summary>One launch of a device function over a grid of blocks.</summary>
/// <param name="File">The kernel file.</param>
/// <param name="Name">The function in it.</param>
/// <param name="Type">Type of activations the file is compiled for.</param>
/// <param name="Blocks">Grid.</param>
/// <param name="Threads">A block.</param>
/// <param name="SharedBytes">Dynamic shared memory a block.</param>
internal readonly record struct CudaLaunch(string File, string Name, DType Type, (uint X, uint Y, uint Z) Blocks, int Threads, int SharedBytes)
{
    /// <summary>Blocks wait for each other, so all must be resident at once.</summary>
    public bool Together { get; init; }

    public override string ToString() => $"{Name} ({Type}, grid {Blocks.X}x{Blocks.Y}x{Blocks.Z}, {Threads} threads, {SharedBytes} bytes shared)";
}

/// <summary>What a CUDA device needs of the machine below: the real driver, or the emulator. One owner thread.</summary>
internal abstract class CudaDriver : IDisposable
{
    private readonly Dictionary<nint, nuint> blocks = [];
    private nuint held;

    /// <summary>Short name of the device: <c>cuda:0</c>, <c>emulated</c>.</summary>
    public abstract string Name { get; }

    /// <summary>Compute capability times 10: 80, 86, 89, 90.</summary>
    public abstract int Architecture { get; }

    /// <summary>Multiprocessors: grids of persistent kernels are made for them.</summary>
    public abstract int Multiprocessors { get; }

    /// <summary>True where device memory is host memory, so that a float64 reference can run on it.</summary>
    public abstract bool IsHostMemory { get; }

    /// <summary>Called where memory has run out: releases what is cached above.</summary>
    public Action? Pressed { get; set; }

    /// <summary>Wait after each launch, so that an error names its kernel.</summary>
    public bool WaitsForLaunches { get; set; }

    /// <summary>A block of undefined content, aligned to 256 bytes or more.</summary>
    /// <exception cref="DeviceException">There is no room, after what was cached has been released: says how much was asked for, is free and is held.</exception>
    public nint Allocate(nuint bytes)
    {
        nint block = TryAllocate(bytes);
        if (block == 0)
        {
            Pressed?.Invoke();
            block = TryAllocate(bytes);
        }
        if (block == 0)
        {
            (nuint free, nuint total) = Room();
            throw new DeviceException($"{Name}: no memory for a block of {bytes} bytes; {free} of {total} bytes are free, {held} are held by this device. Use smaller batches, BF16 weights, or dispose what is not needed");
        }
        blocks.Add(block, bytes);
        held += bytes;
        return block;
    }

    /// <summary>Gives a block back, after what runs has ended.</summary>
    public void Release(nint block)
    {
        if (blocks.Remove(block, out nuint bytes))
        {
            held -= bytes;
            Free(block);
        }
    }

    public abstract void Upload(ReadOnlySpan<byte> from, nint to);

    public abstract void Download(nint from, Span<byte> to);

    public abstract void Copy(nint from, nint to, nuint bytes);

    /// <summary>Zeros, in the order of launches.</summary>
    public abstract void Clear(nint block, nuint bytes);

    public abstract void Synchronize();

    /// <summary>As <see cref="Device.Guard"/>.</summary>
    public virtual void Guard(nint memory, nuint bytes, bool on)
    {
    }

    /// <summary>Describes a matrix [rows, cols] of 16-bit elements for bulk copies of boxes, their rows swizzled by 128 bytes.</summary>
    /// <exception cref="KernelException">Address, pitch or box break the hardware's rules.</exception>
    public abstract TensorMap Encode(nint data, DType type, long rows, long cols, int boxRows, int boxCols);

    /// <summary>Starts a function on one argument struct.</summary>
    /// <exception cref="KernelException">It cannot be compiled, loaded or launched: names the launch and the cause.</exception>
    public abstract unsafe void Launch(in CudaLaunch launch, void* args, int bytes);

    /// <summary>Until <see cref="EndRecording"/> launches, copies and clears are written down in their order, not done.</summary>
    public abstract void BeginRecording();

    /// <summary>What was written down; its memory must stay.</summary>
    public abstract CudaRecording EndRecording();

    /// <summary>Ends a recording that failed, without an error of its own.</summary>
    public abstract void DropRecording();

    /// <summary>Milliseconds between the moments at which the device reaches what <paramref name="work"/> launches first and has done the last.</summary>
    public abstract double Time(Action work);

    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>A block, or 0 where there is no room.</summary>
    protected abstract nint TryAllocate(nuint bytes);

    protected abstract void Free(nint block);

    /// <summary>Bytes that are free and that there are.</summary>
    protected abstract (nuint Free, nuint Total) Room();

    protected virtual void Dispose(bool disposing)
    {
    }
}

/// <summary>Launches in their order, with their arguments.</summary>
internal abstract class CudaRecording : IDisposable
{
    /// <summary>Does them all, after what was launched before.</summary>
    public abstract void Replay();

    public abstract void Dispose();
}
