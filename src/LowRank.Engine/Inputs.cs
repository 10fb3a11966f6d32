namespace LowRank;

/// <summary>Operands by position: <c>var (x, w, a, b) = inputs;</c>. Optional ones are read with <see cref="Optional"/>.</summary>
public readonly ref struct Inputs
{
    private readonly ReadOnlySpan<Tensor?> items;

    /// <summary>Wraps operands.</summary>
    public Inputs(ReadOnlySpan<Tensor?> items) => this.items = items;

    /// <summary>Number of positions given.</summary>
    public int Count => items.Length;

    /// <summary>A required operand.</summary>
    /// <exception cref="ShapeException">It is absent.</exception>
    public Tensor this[int i] => Optional(i) ?? throw new ShapeException($"operand {i} is absent, want a tensor");

    public static implicit operator Inputs(Tensor?[] items) => new(items);

    /// <summary>An operand that may be absent.</summary>
    public Tensor? Optional(int i) => i < items.Length ? items[i] : null;

    public void Deconstruct(out Tensor a, out Tensor b) => (a, b) = (this[0], this[1]);

    public void Deconstruct(out Tensor a, out Tensor b, out Tensor c) => (a, b, c) = (this[0], this[1], this[2]);

    public void Deconstruct(out Tensor a, out Tensor b, out Tensor c, out Tensor d) => (a, b, c, d) = (this[0], this[1], this[2], this[3]);
}

/// <summary>Places for gradients by input position. Asking for a place promises to write it.</summary>
public sealed class Grads
{
    private readonly Tensor?[] inputs;
    private readonly Tape tape;
    private List<(Tensor Input, Tensor Part)>? repeated;
    private int taken;

    internal Grads(Tensor?[] inputs, Tape tape)
    {
        this.inputs = inputs;
        this.tape = tape;
    }

    /// <summary>The place for the gradient of input <paramref name="i"/>; absent where none is wanted.</summary>
    public Place this[int i]
    {
        get
        {
            if (i >= inputs.Length || inputs[i] is not { NeedsGradient: true } input)
            {
                return default;
            }
            for (int j = 0; j < inputs.Length; j++)
            {
                // The same tensor twice: a kernel must not write two gradients to one place, so the second gets its own and is added after.
                if (j != i && ((taken >> j) & 1) != 0 && inputs[j] == input)
                {
                    Tensor part = tape.New(input.Shape, input.DType);
                    (repeated ??= []).Add((input, part));
                    return new Place(part, false);
                }
            }
            taken |= 1 << i;
            (Tensor gradient, bool add) = input.TakeGradient();
            return new Place(gradient, add);
        }
    }

    internal void Flush()
    {
        foreach ((Tensor input, Tensor part) in repeated ?? [])
        {
            (Tensor gradient, bool add) = input.TakeGradient();
            new Place(gradient, add).Accumulate(part);
        }
    }

    /// <summary>Where a gradient goes and whether it is added to what is there.</summary>
    public readonly struct Place
    {
        private readonly Tensor? tensor;
        private readonly bool add;

        internal Place(Tensor tensor, bool add)
        {
            this.tensor = tensor;
            this.add = add;
        }

        /// <summary>True where the gradient is wanted.</summary>
        public bool Wanted => tensor is not null;

        internal nint Data => tensor?.Data ?? 0;

        /// <summary>place (+)= part, by the gradient of an addition with the part as its upstream.</summary>
        internal void Accumulate(Tensor part) => part.Device.Launch(
            Kernels.AddBackward,
            new BinaryGradArgs { Dy = part.Data, Dx = Data, Count = part.Shape.Count, Period = 1, Alpha = 1, DType = part.DType, ZType = part.DType, Add = Mask(this) });

        /// <summary>The bit mask kernels take: bit i says that the i-th place is added to.</summary>
        internal static uint Mask(params ReadOnlySpan<Place> places)
        {
            uint mask = 0;
            for (int i = 0; i < places.Length; i++)
            {
                mask |= places[i].add ? 1u << i : 0;
            }
            return mask;
        }
    }
}
