namespace LowRank;

/// <summary>A scope that records differentiable ops, so that gradients can flow back through them once.</summary>
public sealed class Tape : Scope
{
    private readonly List<(Op Op, Tensor?[] Inputs, Tensor[] Outputs)> steps = [];
    private bool spent;

    internal Tape(Device device)
        : base(device, current: true)
    {
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
    public void Backward(Tensor y, Tensor dy)
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
        for (int i = steps.Count - 1; i >= 0; i--)
        {
            (Op op, Tensor?[] inputs, Tensor[] outputs) = steps[i];
            if (outputs[0].Gradient is { } upstream)
            {
                var grads = new Grads(inputs, this);
                op.Backward(inputs, outputs, upstream, grads);
                grads.Flush();
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

    internal void Record(Op op, Tensor?[] inputs, Tensor[] outputs)
    {
        outputs[0].NeedsGradient = true;
        steps.Add((op, inputs, outputs));
    }
}
