namespace LowRank;

/// <summary>Base of loss = Scale·mean f(y, target); y and target of one shape → loss [1] in parameter precision. No gradient to the target.</summary>
public abstract record MeanError(double Scale) : Op
{
    private protected abstract Kernel<SquaredErrorArgs> Forward { get; }

    private protected abstract Kernel<SquaredErrorGradArgs> Gradient { get; }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (y, target) = inputs;
        Require("target", target, y.Shape);
        if (target.DType != y.DType)
        {
            throw Bad("target", target.DType, y.DType.ToString());
        }
        return [[1]];
    }

    /// <inheritdoc/>
    public override DType TypeOf(int output, Inputs inputs) => inputs[0].DType.ForParameters();

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (y, target) = inputs;
        y.Device.Launch(Forward, new SquaredErrorArgs { Y = y.Data, Target = target.Data, Loss = outputs[0].Data, Count = y.Shape.Count, Scale = Scale, DType = y.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (y, target) = inputs;
        Grads.Place place = grads[0];
        y.Device.Launch(Gradient, new SquaredErrorGradArgs { Y = y.Data, Target = target.Data, Dloss = dy.Data, Dy = place.Data, Count = y.Shape.Count, Scale = Scale, DType = y.DType, Add = Grads.Place.Mask(place) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(3 * inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());
}
