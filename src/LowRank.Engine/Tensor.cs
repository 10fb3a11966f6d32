using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>A dense row-major view of device memory. It owns nothing: its <see cref="Scope"/> does, and dies with it.</summary>
public sealed class Tensor
{
    private readonly Scope scope;
    private readonly int generation;
    private readonly nint data;
    private readonly Tensor? source;     // of a view: the tensor it looks into
    private readonly long offset;        // of a view: elements from the start of source
    private bool needsGradient, hasGradient, ended;
    private Tensor? gradient;
    private LayerStep? layer;

    internal Tensor(Scope scope, nint data, Shape shape, DType type, Layout layout, nuint bytes)
    {
        this.scope = scope;
        generation = scope.Generation;
        this.data = data;
        Shape = shape;
        DType = type;
        Layout = layout;
        Bytes = bytes;
    }

    private Tensor(Tensor source, long offset, Shape shape)
        : this(source.scope, source.data + (nint)(offset * source.DType.Size()), shape, source.DType, Layout.Rows, (nuint)(shape.Count * source.DType.Size()))
    {
        generation = source.generation;
        this.source = source.source ?? source;
        this.offset = source.offset + offset;
    }

    /// <summary>Dimensions, outermost first.</summary>
    public Shape Shape { get; }

    /// <summary>Element type.</summary>
    public DType DType { get; }

    /// <summary>Where the memory is.</summary>
    public Device Device => scope.Device;

    /// <summary>Size in bytes, padding of packed weights included.</summary>
    public nuint Bytes { get; }

    /// <summary>True where <see cref="Tape.Backward(Tensor)"/> shall leave a gradient. A view shares it with the tensor it looks into.</summary>
    public bool NeedsGradient
    {
        get => source?.NeedsGradient ?? needsGradient;
        set
        {
            if (source is not null)
            {
                throw new InvalidOperationException($"Tensor: {this} is a view; set NeedsGradient on the tensor it looks into");
            }
            if (value && (!DType.IsFloat() || IsQuantized))
            {
                throw new ShapeException($"Tensor: {this} cannot have a gradient, want a floating-point type that is not quantised");
            }
            needsGradient = value;
        }
    }

    /// <summary>The gradient of the same shape, or null where none has been written.</summary>
    public Tensor? Gradient => source is null
        ? (hasGradient ? gradient : null)
        : source.Gradient is { } whole ? new Tensor(whole, offset, Shape) : null;

    /// <summary>True for a frozen matrix in a layout of the matrix kernels, quantised ones too; <see cref="Packing.Unpack"/> gives the rows.</summary>
    public bool IsPacked => Layout != Layout.Rows;

    /// <summary>True for a frozen matrix held as codes and scales: see <see cref="QuantizedMatrix"/>.</summary>
    public bool IsQuantized => Layout is Layout.Codes8 or Layout.Codes4;

    internal Layout Layout { get; }

    /// <summary>False once its scope has ended, or it was freed (<see cref="Scope.Free"/>).</summary>
    public bool IsAlive => generation == scope.Generation && !(source ?? this).ended;

    /// <summary>Where it lies, or lay.</summary>
    internal nint Address => data;

    internal nint Data => IsAlive
        ? scope.Device.Recording is { } graph ? Recorded(graph) : data
        : throw new ObjectDisposedException($"Tensor {this}", "Its tape or scope has ended, or it was freed; copy what must outlive it with CopyTo(scope).");

    /// <summary>The same memory with other dimensions. Gradients are shared.</summary>
    /// <exception cref="ShapeException">The number of elements differs.</exception>
    public Tensor Reshape(Shape shape)
    {
        RequireRows("Reshape");
        return shape.Count == Shape.Count ? new Tensor(this, 0, shape) : throw new ShapeException($"Reshape: input is {Shape}, want {Shape.Count} elements, not {shape}");
    }

    /// <summary>Rows <paramref name="start"/> .. start+count-1 of the first dimension, without a copy. Gradients are shared.</summary>
    /// <exception cref="ShapeException">The range leaves the tensor.</exception>
    public Tensor Slice(int start, int count)
    {
        RequireRows("Slice");
        if (Shape.Rank == 0 || start < 0 || count < 0 || start > Shape[0] - count)
        {
            throw new ShapeException($"Slice: rows {start}..{(long)start + count} of {Shape}, want a range inside the first dimension");
        }
        Span<int> sizes = stackalloc int[Shape.Rank];
        Shape.CopyTo(sizes);
        sizes[0] = count;
        long row = Shape[0] == 0 ? 0 : Shape.Count / Shape[0];
        return new Tensor(this, start * row, Shape.Of(sizes));
    }

    /// <summary>The values as float32; wider types are rounded to nearest even, packed weights unpacked.</summary>
    public float[] ToArray()
    {
        var values = new float[Shape.Count];
        CopyTo(values);
        return values;
    }

    /// <summary>The values as float64.</summary>
    public double[] ToDoubles()
    {
        var values = new double[Shape.Count];
        byte[] raw = ToBytes();
        unsafe
        {
            fixed (byte* p = raw)
            {
                var e = new Elements((nint)p, DType);
                for (long i = 0; i < values.LongLength; i++)
                {
                    values[i] = e[i];
                }
            }
        }
        return values;
    }

    /// <summary>The values of an I32 tensor.</summary>
    /// <exception cref="ShapeException">The type is another.</exception>
    public int[] ToInts()
    {
        if (DType != DType.I32)
        {
            throw new ShapeException($"ToInts: tensor is {this}, want I32");
        }
        var values = new int[Shape.Count];
        Device.Download(Data, MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }

    /// <summary>Writes the values to <paramref name="destination"/> as float32.</summary>
    /// <exception cref="ShapeException">The span is shorter than the tensor.</exception>
    public void CopyTo(Span<float> destination)
    {
        if (destination.Length < Shape.Count)
        {
            throw new ShapeException($"CopyTo: destination has {destination.Length} elements, want {Shape.Count}");
        }
        if (DType == DType.F32 && Layout == Layout.Rows)
        {
            Device.Download(Data, MemoryMarshal.AsBytes(destination[..(int)Shape.Count]));
            return;
        }
        double[] values = ToDoubles();
        for (int i = 0; i < values.Length; i++)
        {
            destination[i] = (float)values[i];
        }
    }

    /// <summary>The little-endian bytes in row-major order, as files hold them; quantised values are spelled out.</summary>
    public byte[] ToBytes()
    {
        if (IsPacked)
        {
            using Scope own = Device.NewStore();
            return Packing.Unpack(this, own).ToBytes();
        }
        var bytes = new byte[(long)Bytes];
        Device.Download(Data, bytes);
        return bytes;
    }

    /// <summary>The only value of a one-element tensor.</summary>
    /// <exception cref="ShapeException">There is not exactly one.</exception>
    public double Item() => Shape.Count == 1 ? ToDoubles()[0] : throw new ShapeException($"Item: tensor is {Shape}, want one element");

    /// <summary>Overwrites the values, rounded to this tensor's type.</summary>
    /// <exception cref="ShapeException">The number of values differs.</exception>
    public void Set(ReadOnlySpan<float> values)
    {
        if (DType == DType.F32)
        {
            SetRaw(MemoryMarshal.AsBytes(values));
            return;
        }
        var wide = new double[values.Length];
        for (int i = 0; i < wide.Length; i++)
        {
            wide[i] = values[i];
        }
        Set(wide);
    }

    /// <summary>Overwrites the values, rounded to this tensor's type.</summary>
    /// <exception cref="ShapeException">The number of values differs.</exception>
    public unsafe void Set(ReadOnlySpan<double> values)
    {
        var bytes = new byte[(long)values.Length * DType.Size()];
        fixed (byte* p = bytes)
        {
            var e = new Elements((nint)p, DType);
            for (int i = 0; i < values.Length; i++)
            {
                e[i] = values[i];
            }
        }
        SetRaw(bytes);
    }

    /// <summary>Overwrites the values from little-endian bytes in row-major order.</summary>
    /// <exception cref="ShapeException">The number of bytes is not that of shape and type.</exception>
    public void SetRaw(ReadOnlySpan<byte> bytes)
    {
        RequireRows("Set");
        if ((nuint)bytes.Length != Bytes)
        {
            throw new ShapeException($"Set: values have {bytes.Length} bytes, want {Bytes} for {this}");
        }
        Device.Upload(bytes, Data);
    }

    /// <summary>Sets every element.</summary>
    public void Fill(double value) => Device.Launch(Kernels.Fill, new FillArgs { Y = Data, Count = Shape.Count, Value = value, DType = DType });

    /// <summary>Overwrites this tensor with <paramref name="other"/> of the same shape and type.</summary>
    /// <exception cref="ShapeException">Shape or type differ.</exception>
    public void CopyFrom(Tensor other)
    {
        if (other.Shape.Count != Shape.Count || other.DType != DType || other.Layout != Layout || other.Bytes != Bytes)
        {
            throw new ShapeException($"CopyFrom: source is {other}, want {this}");
        }
        Device.Copy(other.Data, Data, Bytes);
    }

    /// <summary>A copy that lives in <paramref name="target"/>.</summary>
    public Tensor CopyTo(Scope target)
    {
        Tensor copy = target.New(Shape, DType, Layout, Bytes);
        copy.CopyFrom(this);
        return copy;
    }

    /// <summary>A copy in another type, rounded to nearest even, that lives in <paramref name="target"/>; not differentiable. A quantised matrix is
    /// spelled out: its values are rounded once, to that type.</summary>
    public Tensor ConvertTo(DType type, Scope target)
    {
        if (IsQuantized)
        {
            Tensor values = target.New(Shape, type);
            Device.Launch(Kernels.Dequantize, new DequantizeArgs { W = Data, Y = values.Data, N = Shape.Rows, K = Shape.Cols, DType = type, WLayout = Layout });
            return values;
        }
        if (type == DType)
        {
            return CopyTo(target);
        }
        Tensor copy = target.New(Shape, type);
        copy.ConvertFrom(this);
        return copy;
    }

    /// <summary>Overwrites this tensor with <paramref name="other"/> of as many elements, rounded to nearest even.</summary>
    /// <exception cref="ShapeException">The number of elements differs.</exception>
    public void ConvertFrom(Tensor other)
    {
        RequireRows("ConvertFrom");
        other.RequireRows("ConvertTo");
        if (other.Shape.Count != Shape.Count)
        {
            throw new ShapeException($"ConvertFrom: source is {other}, want {Shape.Count} elements for {this}");
        }
        Device.Launch(Kernels.Convert, new ConvertArgs { X = other.Data, Y = Data, Count = Shape.Count, From = other.DType, To = DType });
    }

    /// <summary>Type and dimensions: <c>F32[2, 3]</c>.</summary>
    public override string ToString() => $"{DType}{Shape}{(IsQuantized ? Layout == Layout.Codes8 ? " in 8-bit codes" : " in 4-bit codes" : "")}";

    /// <summary>Where the gradient goes and whether it is added to. The first writer overwrites, so nothing need be zeroed.</summary>
    internal (Tensor Gradient, bool Add) TakeGradient()
    {
        if (source is null)
        {
            gradient ??= layer?.Begin() ?? scope.New(Shape, DType);     // it lives as long as the tensor
            bool add = hasGradient;
            hasGradient = true;
            return (gradient, add);
        }
        if (Shape.Count == source.Shape.Count)
        {
            (Tensor same, bool add) = source.TakeGradient();
            return (new Tensor(same, 0, Shape), add);
        }
        (Tensor whole, bool written) = source.TakeGradient();
        if (!written)
        {
            whole.Fill(0);
        }
        return (new Tensor(whole, offset, Shape), true);
    }

    /// <summary>The same memory as a tensor of its own: it shares no gradient with what it was cut from.</summary>
    internal Tensor Detached(Shape shape) => new(scope, Data, shape, DType, Layout, Bytes);

    /// <summary>Gives a parameter its place in a pack's gradient block.</summary>
    internal void UseGradient(Tensor place)
    {
        gradient = place;
        hasGradient = false;
    }

    /// <summary>The parameter moves as soon as its gradient is complete.</summary>
    internal void StepAlone(LayerStep step)
    {
        layer = step;
        ClearGradient();
    }

    /// <summary>What is done where the gradient of a parameter, or of a view of it, is complete; null: nothing.</summary>
    internal LayerStep? Layer => source is null ? layer : source.layer;

    /// <summary>Its memory is about to be given back.</summary>
    internal void End(Scope owner)
    {
        if (source is not null || owner != scope || !IsAlive)
        {
            throw new ShapeException($"Free: tensor is {this}, want one that lives in this scope and is no view of another");
        }
        ended = true;
    }

    /// <summary>Forgets the gradient: the next backward pass overwrites it.</summary>
    internal void ClearGradient()
    {
        hasGradient = false;
        gradient = layer is null ? gradient : null;
    }

    private nint Recorded(Graph graph)
    {
        graph.Uses(scope);
        return data;
    }

    private void RequireRows(string operation)
    {
        if (Layout != Layout.Rows)
        {
            throw new InvalidOperationException($"{operation}: {this} is packed for the matrix kernels; unpack it first");
        }
    }
}
