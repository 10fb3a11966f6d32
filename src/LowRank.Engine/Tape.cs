namespace LowRank;

/// <summary>A scope that records differentiable ops, so that gradients can flow back through them once.</summary>
public sealed class Tape : Scope
{
    private readonly List<(Op? Op, Tensor?[] Inputs, Tensor[] Outputs, Action<Tensor, IEnumerable<LayerStep>>? Again)> steps = [];
    private readonly Tape? around;                  // of a part that is not kept: the tape that it belongs to
    private readonly Queue<long>? numbers;          // drawn in that part: collected the first time, given out again the second
    private readonly bool again;
    private bool spent;

    internal Tape(Device device)
        : base(device, current: true)
    {
    }

    private Tape(Tape around, Queue<long> numbers, bool again)
        : base(around.Device, current: true) => (this.around, this.numbers, this.again) = (around, numbers, again);

    /// <summary>y = f(x), of which x and y alone are kept: what lies between is made once more when the gradient comes by. Bits are those of f recorded plainly;
    /// memory is that of one part at a time, for a second forward pass (arXiv 1604.06174).</summary>
    /// <param name="f">Differentiable in x and in parameters. It gives the same each time, as long as random numbers are numbered by <see cref="Next"/>.</param>
    /// <param name="x">Made on this tape, or outside of it.</param>
    public Tensor Recompute(Func<Tensor, Tensor> f, Tensor x)
    {
        var drawn = new Queue<long>();
        Tensor y;
        Tensor[] alone;
        bool differentiable;
        using (var first = new Tape(this, drawn, again: false))
        {
            Tensor made = f(x);
            (y, differentiable) = (made.CopyTo(this), made.NeedsGradient);
            alone = [.. first.steps.SelectMany(s => s.Inputs).OfType<Tensor>().Where(t => t.Layer is not null)];
        }
        if (differentiable)
        {
            y.NeedsGradient = true;
            steps.Add((null, [x, .. alone], [y], (dy, complete) =>
            {
                using var second = new Tape(this, drawn, again: true);
                second.Backward(f(x), dy, [.. complete]);
            }
            ));
        }
        return y;
    }

    /// <summary>The next number of a counter, such as that of a random stream; where a part is made once more, the number that it had the first time.</summary>
    public long Next(ref long counter)
    {
        if (again)
        {
            return numbers!.Dequeue();
        }
        long number = around is null ? counter++ : around.Next(ref counter);
        numbers?.Enqueue(number);
        return number;
    }

    /// <summary>Gradients of a one-element <paramref name="loss"/> to every tensor that needs one.</summary>
    /// <exception cref="ShapeException">The loss has more than one element.</exception>
    /// <exception cref="InvalidOperationException">The tape has run backward already, or nothing that needs a gradient led to the loss.</exception>
    public void Backward(Tensor loss)
    {
        if (loss.Shape.Count != 1)
        {
            throw new ShapeException($"Backward: loss is {loss.Shape}, want one element (or give the upstream gradient)");
        }
        Tensor one = New(loss.Shape, loss.DType);
        one.Fill(1);
        Backward(loss, one);
    }

    /// <summary>Gradients of sum(y ⊙ dy) to every tensor that needs one. Gradients of parameters add up over tapes until a step consumes them.</summary>
    /// <exception cref="ShapeException"><paramref name="dy"/> has another shape or type than <paramref name="y"/>.</exception>
    /// <exception cref="InvalidOperationException">As above.</exception>
    public void Backward(Tensor y, Tensor dy) => Backward(y, dy, null);

    /// <summary>As above; <paramref name="alone"/> are the parameters that may move within this pass, where it is one of a part: others have more gradient to
    /// come. Null: all.</summary>
    private void Backward(Tensor y, Tensor dy, HashSet<LayerStep>? alone)
    {
        if (spent)
        {
            throw new InvalidOperationException("Backward: this tape has run backward already; record another");
        }
        if (dy.Shape.Count != y.Shape.Count || dy.DType != y.DType)
        {
            throw new ShapeException($"Backward: dy is {dy}, want {y}");
        }
        if (!y.NeedsGradient)
        {
            throw new InvalidOperationException("Backward: nothing that needs a gradient led to this tensor");
        }
        spent = true;
        (Tensor seed, bool add) = y.TakeGradient();
        if (add)
        {
            throw new InvalidOperationException("Backward: the tensor has a gradient already");
        }
        seed.CopyFrom(dy);
        ILookup<int, LayerStep> complete = FirstUses(alone);
        for (int i = steps.Count - 1; i >= 0; i--)
        {
            (Op? op, Tensor?[] inputs, Tensor[] outputs, Action<Tensor, IEnumerable<LayerStep>>? makeAgain) = steps[i];
            if (outputs[0].Gradient is { } upstream)
            {
                makeAgain?.Invoke(upstream, complete[i]);
                if (op is not null && upstream.Shape.Count == 0)
                {
                    Zero(inputs);
                }
                else if (op is not null)
                {
                    var grads = new Grads(inputs, this);
                    op.Backward(inputs, outputs, upstream, grads);
                    grads.Flush();
                }
            }
            foreach (LayerStep layer in complete[i])
            {
                layer.End();
            }
        }
        steps.Clear();
    }

    /// <inheritdoc/>
    public override void Reset()
    {
        steps.Clear();
        spent = false;
        base.Reset();
    }

    /// <summary>Parameters that move within the backward pass, by the step that uses them first: after it their gradients are complete.</summary>
    private ILookup<int, LayerStep> FirstUses(HashSet<LayerStep>? alone)
    {
        Dictionary<LayerStep, int> first = [];
        for (int i = 0; i < steps.Count; i++)
        {
            foreach (Tensor? input in steps[i].Inputs)
            {
                if (input?.Layer is { } layer && alone?.Contains(layer) != false)
                {
                    first.TryAdd(layer, i);
                }
            }
        }
        return first.ToLookup(use => use.Value, use => use.Key);
    }

    /// <summary>What an empty batch gives its operands: kernels that have nothing to read write nothing.</summary>
    private static void Zero(Tensor?[] inputs)
    {
        foreach (Tensor input in inputs.OfType<Tensor>().Where(t => t.NeedsGradient))
        {
            (Tensor gradient, bool add) = input.TakeGradient();
            if (!add)
            {
                gradient.Fill(0);
            }
        }
    }

    internal void Record(Op op, Tensor?[] inputs, Tensor[] outputs)
    {
        outputs[0].NeedsGradient = true;
        steps.Add((op, inputs, outputs, null));
    }
}
