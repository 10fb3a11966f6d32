namespace LowRank;

/// <summary>A named tensor of a model that may be trained. Frozen ones take no gradient and no step.</summary>
public sealed class Parameter
{
    private bool frozen;

    /// <summary>Wraps a value; trainable unless <paramref name="frozen"/>.</summary>
    public Parameter(string name, Tensor value, bool frozen = false)
    {
        Name = name;
        Value = value;
        Frozen = frozen;
    }

    /// <summary>Dotted path, as files write it.</summary>
    public string Name { get; }

    /// <summary>The current tensor. A <see cref="ParameterPack"/> moves it into its block.</summary>
    public Tensor Value { get; private set; }

    /// <summary>True: no gradient, no step, moments pause.</summary>
    public bool Frozen
    {
        get => frozen;
        set
        {
            frozen = value;
            Value.NeedsGradient = !value;
        }
    }

    /// <summary>Factor on the optimiser's learning rate (LoRA+: 16 for B).</summary>
    public double LearningRateScale { get; set; } = 1;

    /// <summary>Weight decay of this parameter alone; null takes the optimiser's.</summary>
    public double? WeightDecay { get; set; }

    /// <summary>The gradient that backward passes left since the last step, or null.</summary>
    public Tensor? Gradient => Value.Gradient;

    public static implicit operator Tensor(Parameter parameter) => parameter.Value;

    /// <summary>The current tensor.</summary>
    public Tensor ToTensor() => Value;

    /// <summary>Puts another tensor of the same shape in place, for example a merged weight.</summary>
    /// <exception cref="ShapeException">The shapes differ.</exception>
    public void Replace(Tensor value)
    {
        if (value.Shape != Value.Shape)
        {
            throw new ShapeException($"Parameter {Name}: value is {value.Shape}, want {Value.Shape}");
        }
        Value = value;
        Value.NeedsGradient = !frozen;
    }

    /// <summary>Takes its place in a pack: value and gradient are views of the pack's blocks.</summary>
    internal void MoveTo(Tensor place, Tensor gradient)
    {
        Value = place;
        Value.UseGradient(gradient);
        Value.NeedsGradient = !frozen;
    }

    /// <summary>Leaves a pack for the tensor it had before; nothing to do where that is gone or another value was put in place.</summary>
    internal void MoveBack(Tensor place, Tensor origin)
    {
        if (origin.IsAlive && Value.IsAlive && Value.Data == place.Data)
        {
            origin.CopyFrom(Value);
            Replace(origin);
        }
    }
}
