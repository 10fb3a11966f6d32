namespace LowRank;

/// <summary>A device of CUDA kernels over a driver: the real one, or the emulator, which runs the same plans.</summary>
internal sealed class CudaDevice : Device
{
    private readonly CudaDriver driver;
    private readonly CudaStream stream;

    public CudaDevice(CudaDriver driver)
    {
        (this.driver, stream) = (driver, new CudaStream(driver));
        driver.Pressed = ReleaseSpare;
    }

    public override string Name => driver.Name;

    public override bool CheckLaunches { get => driver.WaitsForLaunches; set => driver.WaitsForLaunches = value; }

    /// <summary>The machine below.</summary>
    public CudaDriver Driver => driver;

    internal override nint Allocate(nuint bytes) => driver.Allocate(bytes);

    internal override void Release(nint block) => driver.Release(block);

    internal override void Upload(ReadOnlySpan<byte> from, nint to)
    {
        RequireNotRecording("writing values from the host");
        driver.Upload(from, to);
    }

    internal override void Download(nint from, Span<byte> to)
    {
        RequireNotRecording("reading values on the host");
        driver.Download(from, to);
    }

    internal override void Copy(nint from, nint to, nuint bytes) => driver.Copy(from, to, bytes);

    internal override void Guard(nint memory, nuint bytes, bool on) => driver.Guard(memory, bytes, on);

    public override void Synchronize()
    {
        RequireNotRecording(nameof(Synchronize));
        driver.Synchronize();
    }

    public override double Time(Action work)
    {
        RequireNotRecording(nameof(Time));
        return driver.Time(work);
    }

    internal override void Launch<TArgs>(Kernel<TArgs> kernel, in TArgs args)
    {
        if ((args.Type != DType.F64 || kernel.CudaTakesDoubles) && kernel.Cuda is { } plan)
        {
            try
            {
                if (plan(stream, in args))
                {
                    return;
                }
            }
            finally
            {
                stream.End();
            }
        }
        if (!driver.IsHostMemory)
        {
            throw new KernelException($"{kernel.Name} ({args.Type}): there is no CUDA kernel for it, want {(args.Type == DType.F64 ? "F32, BF16 or F16 on a GPU: F64 runs on the cpu device" : "another device")}");
        }
        RequireNotRecording($"{kernel.Name} ({args.Type}), which has no CUDA kernel for these arguments,");
        if (args.Type != DType.F64)
        {
            CountFallback(kernel.Name);
        }
        kernel.Reference(in args);
    }

    private protected override bool Records => true;

    private protected override (Action Replay, Action Release) Record(Action step)
    {
        CudaRecording? recording = null;
        IReadOnlyList<nint> workspace = [];
        stream.BeginRecording();
        try
        {
            driver.BeginRecording();
            step();
            recording = driver.EndRecording();
        }
        finally
        {
            workspace = stream.EndRecording();
            if (recording is null)
            {
                driver.DropRecording();
                Free(workspace);
            }
        }
        return (recording.Replay, Release);

        void Release()
        {
            recording.Dispose();
            Free(workspace);
        }
    }

    protected override void Dispose(bool disposing)
    {
        stream.Free();
        driver.Dispose();
        base.Dispose(disposing);
    }

    private void Free(IReadOnlyList<nint> blocks)
    {
        foreach (nint block in blocks)
        {
            driver.Release(block);
        }
    }
}
