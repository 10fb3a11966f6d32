using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>An arena: tensors made inside die together when it ends. Equal sequences of shapes get equal addresses.</summary>
public class Scope : IDisposable
{
    private const nuint BlockBytes = 16 << 20;
    private const int Guard = 64;
    private readonly Scope? outer;
    private readonly bool current;
    private readonly List<(nint Block, nuint Size, nuint Live)> blocks = [];
    private readonly List<(nint Data, nuint Bytes)> guarded = [];
    private int at;
    private nuint used;

    internal Scope(Device device, bool current)
    {
        Device = device;
        this.current = current;
        IsRecorded = device.Recording is not null;
        if (current)
        {
            outer = device.Current;
            device.Current = this;
        }
        else
        {
            device.Adopt(this);
        }
    }

    /// <summary>Where the tensors live.</summary>
    public Device Device { get; }

    /// <summary>Bytes handed out, padding included.</summary>
    public long Bytes { get; private set; }

    internal int Generation { get; private set; } = 1;

    internal bool IsOpen => Generation != 0;

    /// <summary>Opened while a graph was recorded, whose memory stays with the graph.</summary>
    internal bool IsRecorded { get; }

    /// <summary>A tensor over memory of this device that the application owns, for example another library's tensor. Nothing is copied or freed: the memory
    /// must stay as it is until this scope has ended. Work of other streams on it must be finished or ordered by the application.</summary>
    /// <param name="address">Device address, a multiple of 16 bytes; on the CPU an address of the process.</param>
    /// <param name="shape">Dense, row-major.</param>
    /// <param name="type">Element type.</param>
    /// <exception cref="ShapeException">The address is 0 or not aligned.</exception>
    public Tensor View(nint address, Shape shape, DType type) =>
        Generation == 0 ? throw new ObjectDisposedException(GetType().Name, "It has ended; open another.")
        : address != 0 && address % 16 == 0 ? new Tensor(this, address, shape, type, Layout.Rows, (nuint)checked(shape.Count * type.Size()))
        : throw new ShapeException($"View: address is 0x{address:x}, want a multiple of 16 bytes");

    /// <summary>A tensor of undefined content.</summary>
    public Tensor New(Shape shape, DType type) => New(shape, type, Layout.Rows);

    /// <summary>A tensor of zeros.</summary>
    public Tensor NewZeros(Shape shape, DType type)
    {
        Tensor t = New(shape, type);
        t.Fill(0);
        return t;
    }

    /// <summary>A tensor of <paramref name="type"/> with the given values, rounded to nearest even.</summary>
    /// <exception cref="ShapeException">The number of values is not that of the shape.</exception>
    public Tensor Of(Shape shape, ReadOnlySpan<float> values, DType type = DType.F32)
    {
        Tensor t = New(shape, type);
        t.Set(values);
        return t;
    }

    /// <summary>An F64 tensor, or one of <paramref name="type"/> rounded from float64.</summary>
    public Tensor Of(Shape shape, ReadOnlySpan<double> values, DType type = DType.F64)
    {
        Tensor t = New(shape, type);
        t.Set(values);
        return t;
    }

    /// <summary>An I32 tensor: ids, labels.</summary>
    public Tensor Of(Shape shape, ReadOnlySpan<int> values) => OfRaw(shape, DType.I32, MemoryMarshal.AsBytes(values));

    /// <summary>A U8 tensor: masks, images.</summary>
    public Tensor Of(Shape shape, ReadOnlySpan<byte> values) => OfRaw(shape, DType.U8, values);

    /// <summary>A tensor of <paramref name="type"/> from its little-endian bytes, as files hold it.</summary>
    public Tensor OfRaw(Shape shape, DType type, ReadOnlySpan<byte> bytes)
    {
        Tensor t = New(shape, type);
        t.SetRaw(bytes);
        return t;
    }

    /// <summary>Ends the life of one tensor before the others'. The device has its memory back as soon as nothing else lives in the same block of 16 MB.</summary>
    /// <exception cref="ShapeException">It is a view, or lives elsewhere.</exception>
    public void Free(Tensor tensor)
    {
        tensor.End(this);
        int guard = guarded.FindIndex(g => g.Data == tensor.Address);
        if (guard >= 0)
        {
            CheckGuard(guarded[guard].Data, guarded[guard].Bytes);
            guarded.RemoveAt(guard);
        }
        nuint size = Padded(tensor.Bytes, guard >= 0);
        int i = blocks.FindIndex(b => tensor.Address >= b.Block && tensor.Address < b.Block + (nint)b.Size);
        blocks[i] = blocks[i] with { Live = blocks[i].Live - size };
        Bytes -= (long)size;
        Device.Count(-(long)size);
        if (blocks[i].Live == 0)
        {
            Device.Return(blocks[i].Block, blocks[i].Size);
            blocks.RemoveAt(i);
            (at, used) = i < at ? (at - 1, used) : (at, 0);
        }
    }

    internal Tensor New(Shape shape, DType type, Layout layout)
    {
        long count = layout == Layout.Panels ? Matrix.PanelCount(shape.Rows, shape.Cols, type) : shape.Count;
        return New(shape, type, layout, (nuint)checked(count * type.Size()));
    }

    internal Tensor New(Shape shape, DType type, Layout layout, nuint bytes) => new(this, Take(bytes), shape, type, layout, bytes);

    /// <summary>Ends the life of everything made so far and starts again at the same addresses.</summary>
    public virtual void Reset()
    {
        CheckGuards();
        Generation++;
        at = 0;
        used = 0;
        for (int i = 0; i < blocks.Count; i++)
        {
            blocks[i] = blocks[i] with { Live = 0 };
        }
        Device.Count(-Bytes);
        Bytes = 0;
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Returns the memory to the device.</summary>
    /// <exception cref="InvalidOperationException">An inner scope is still open.</exception>
    protected virtual void Dispose(bool disposing)
    {
        if (Generation == 0)
        {
            return;
        }
        if (current)
        {
            if (Device.Current != this)
            {
                throw new InvalidOperationException("Scope: an inner scope or tape is still open; dispose in reverse order");
            }
            Device.Current = outer;
        }
        else
        {
            Device.Forget(this);
        }
        Generation = 0;
        Device.Count(-Bytes);
        for (int i = blocks.Count - 1; i >= 0; i--)
        {
            Device.Return(blocks[i].Block, blocks[i].Size);
        }
        blocks.Clear();
        CheckGuards();
    }

    private nint Take(nuint bytes)
    {
        if (Generation == 0)
        {
            throw new ObjectDisposedException(GetType().Name, "It has ended; open another.");
        }
        bool check = Device.CheckMemory && Device.Recording is null;
        nuint size = Padded(bytes, check);
        while (at < blocks.Count && used + size > blocks[at].Size)
        {
            at++;
            used = 0;
        }
        if (at == blocks.Count)
        {
            (nint block, nuint room) = Device.Rent(size > BlockBytes ? size : BlockBytes);
            blocks.Add((block, room, 0));
            used = 0;
        }
        nint data = blocks[at].Block + (nint)used;
        blocks[at] = blocks[at] with { Live = blocks[at].Live + size };
        used += size;
        Bytes += (long)size;
        Device.Count((long)size);
        if (check)
        {
            byte[] poison = new byte[bytes + Guard];
            poison.AsSpan().Fill(0xFF);
            Device.Upload(poison, data);
            Device.Guard(data + (nint)bytes, Guard, on: true);
            guarded.Add((data, bytes));
        }
        return data;
    }

    private static nuint Padded(nuint bytes, bool guard) => (bytes + (guard ? Guard : 0u) + 255) & ~(nuint)255;

    private void CheckGuards()
    {
        foreach ((nint data, nuint bytes) in guarded)
        {
            CheckGuard(data, bytes);
        }
        guarded.Clear();
    }

    private void CheckGuard(nint data, nuint bytes)
    {
        Span<byte> guard = stackalloc byte[Guard];
        Device.Guard(data + (nint)bytes, Guard, on: false);
        Device.Download(data + (nint)bytes, guard);
        if (guard.IndexOfAnyExcept((byte)0xFF) >= 0)
        {
            guarded.Clear();
            throw new KernelException($"memory after a tensor of {bytes} bytes was overwritten");
        }
    }
}
