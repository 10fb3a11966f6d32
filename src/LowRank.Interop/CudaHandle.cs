using System.Runtime.InteropServices;

namespace LowRank.Interop;

/// <summary>A handle of the driver with the function that ends it. It keeps alive what it was made in: a stream its context, a graph its stream.</summary>
internal sealed unsafe class CudaHandle : SafeHandle
{
    private readonly delegate*<nint, int> end;
    private readonly CudaHandle? owner;

    /// <summary>Takes a handle over.</summary>
    /// <param name="value">As the driver gave it.</param>
    /// <param name="end">Destroys it; null where somebody else does.</param>
    /// <param name="owner">What it was made in.</param>
    public CudaHandle(nint value, delegate*<nint, int> end, CudaHandle? owner = null)
        : base(0, ownsHandle: end is not null)
    {
        SetHandle(value);
        this.end = end;
        if (owner is not null)
        {
            bool added = false;
            owner.DangerousAddRef(ref added);
            this.owner = owner;
        }
    }

    /// <summary>The driver's value.</summary>
    public nint Value => handle;

    /// <inheritdoc/>
    public override bool IsInvalid => false;     // a device's number, which is the handle of its primary context, may be 0

    /// <inheritdoc/>
    protected override bool ReleaseHandle()
    {
        int status = end(handle);
        owner?.DangerousRelease();
        return status == 0;
    }
}
