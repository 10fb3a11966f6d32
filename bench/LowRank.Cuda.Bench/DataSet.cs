using LowRank.Testing;

namespace LowRank.Cuda.Bench;

using Operand = LowRank.Testing.Operand;

/// <summary>One set of a row's data on the device and the calls that are timed on it. Tensors go by the names that the peer knows them by.</summary>
internal sealed class DataSet : IDisposable
{
    // A prime, so that the pattern never lines up with rows or tiles.
    private const int Distinct = 4_194_301;
    private readonly Dictionary<string, Tensor> inputs = [], results = [];
    private readonly List<Action> calls = [];
    private readonly List<IDisposable> owned = [];

    private DataSet(Device device) => (Device, Store) = (device, device.NewStore());

    /// <summary>Where it lives.</summary>
    public Device Device { get; }

    /// <summary>Memory that lives as long as the set.</summary>
    public Scope Store { get; }

    /// <summary>Operands, in the order of the row.</summary>
    public IReadOnlyDictionary<string, Tensor> Inputs => inputs;

    /// <summary>What a call leaves.</summary>
    public IReadOnlyDictionary<string, Tensor> Results => results;

    /// <summary>Bytes of operands and results.</summary>
    public long Bytes => inputs.Values.Concat(results.Values).Sum(t => (long)t.Bytes);

    /// <summary>Draws the operands and builds the row's calls on them.</summary>
    public static DataSet Draw(Device device, CudaRow row)
    {
        var set = new DataSet(device);
        foreach ((string name, Operand operand) in row.Operands)
        {
            set.inputs.Add(name, Draw(set.Store, operand, name, row.Type));
        }
        row.Build(set);
        return set;
    }

    /// <summary>The same operands at other addresses.</summary>
    public DataSet Copy(CudaRow row)
    {
        var set = new DataSet(Device);
        foreach ((string name, Tensor tensor) in inputs)
        {
            set.inputs.Add(name, tensor.CopyTo(set.Store));
        }
        row.Build(set);
        return set;
    }

    /// <summary>One call.</summary>
    public void Call() => calls.ForEach(call => call());

    /// <summary>An operand; null for no name.</summary>
    public Tensor? Operand(string? name) => name is null ? null : inputs.TryGetValue(name, out Tensor? t) ? t : results[name];

    /// <summary>Lives as long as the set.</summary>
    public T Own<T>(T thing) where T : IDisposable
    {
        owned.Add(thing);
        return thing;
    }

    /// <summary>Adds a call, and what it leaves.</summary>
    public void Add(Action call, params ReadOnlySpan<(string Name, Tensor Value)> leaves)
    {
        calls.Add(call);
        foreach ((string name, Tensor value) in leaves)
        {
            results.Add(name, value);
        }
    }

    /// <summary>Times an op's forward pass; its result gets a name and can be an operand of the next.</summary>
    public void Forward(string result, Op op, params string?[] operands)
    {
        (Tensor?[] items, Tensor[] outputs) = Prepare(op, operands);
        Add(() => op.Run(items, outputs), (result, outputs[0]));
    }

    /// <summary>Times an op's backward pass for the gradients of the operands named; the forward pass runs once, before.</summary>
    public void Backward(Op op, string upstream, string[] wanted, params string?[] operands)
    {
        (Tensor?[] items, Tensor[] outputs) = Prepare(op, operands);
        op.Run(items, outputs);
        Tensor dy = Operand(upstream)!;
        Tensor[] of = [.. wanted.Select(name => Operand(name)!)];
        foreach (Tensor t in of)
        {
            t.NeedsGradient = true;
            t.TakeGradient();
        }
        Tape tape;
        using (tape = Device.BeginTape())
        {
            // Only its place: a gradient wanted twice, which no row has, would be made on it.
        }
        Add(
            () =>
            {
                foreach (Tensor t in of)
                {
                    t.ClearGradient();      // so that each call writes, as the first of a step does
                }
                op.Backward(items, outputs, dy, new Grads(items, tape));
            },
            [.. wanted.Select((name, i) => ("d" + name, of[i].Gradient!))]);
    }

    /// <summary>Ends everything in the reverse order.</summary>
    public void Dispose()
    {
        owned.Reverse();
        owned.ForEach(thing => thing.Dispose());
        Store.Dispose();
    }

    /// <summary>Normal values; matrices that are no activations have a row norm of about one, vectors lie about one. Parameters hold values that bf16
    /// can, so that a peer may keep them in either type.</summary>
    private static Tensor Draw(Scope store, Operand operand, string name, DType type)
    {
        long count = operand.Shape.Count;
        bool wide = operand.Role is Role.Parameter or Role.Constant;
        if (operand.Role is Role.Ids)
        {
            var rng = new Rng(1).Fork(name);
            return store.Of(operand.Shape, [.. Enumerable.Range(0, (int)count).Select(_ => rng.Below(operand.Limit))]);
        }
        bool vector = wide && operand.Shape.Rank == 1;
        double std = vector ? 0.1 : operand.Role is Role.Activation or Role.Data ? 1 : 1 / Math.Sqrt(operand.Shape.Cols);
        float[] some = new float[Math.Min(count, Distinct)];
        const int Chunk = 1 << 16;
        Parallel.For(0, (some.Length + Chunk - 1) / Chunk, i =>
            new Rng(1).Fork($"{name}/{i}").FillNormal(some.AsSpan(i * Chunk, Math.Min(Chunk, some.Length - (i * Chunk))), vector ? 1 : 0, (float)std));
        float[] all = new float[count];
        for (long at = 0; at < count; at += some.Length)
        {
            Array.Copy(some, 0, all, at, Math.Min(some.Length, count - at));
        }
        if (wide)
        {
            Parallel.For(0, (int)((count + Chunk - 1) / Chunk), i =>
            {
                foreach (ref float v in all.AsSpan(i * Chunk, (int)Math.Min(Chunk, count - ((long)i * Chunk))))
                {
                    v = Numbers.FromBFloat16(Numbers.ToBFloat16(v));
                }
            });
        }
        return store.Of(operand.Shape, all, wide ? type.ForParameters() : type);
    }

    private (Tensor?[] Items, Tensor[] Outputs) Prepare(Op op, string?[] operands)
    {
        Tensor?[] items = [.. operands.Select(Operand)];
        Shape[] shapes = op.Infer(items);
        Tensor[] outputs = [.. shapes.Select((shape, i) => Store.New(shape, op.TypeOf(i, items)))];
        return (items, outputs);
    }
}
