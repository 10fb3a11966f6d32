namespace LowRank.Adapters;

/// <summary>A number of a merge, as mergekit's recipes give it: the same everywhere, a gradient over the layers of a slice, or by tensor names.</summary>
public abstract record MergeSetting
{
    /// <summary>The value for a tensor, or null where no name matches.</summary>
    /// <param name="tensor">Its name.</param>
    /// <param name="depth">i/(n-1) for layer i of the n of a slice, 1 for a single layer, 0 outside of layers.</param>
    public abstract double? At(string tensor, double depth);

    /// <summary>One number.</summary>
    public static implicit operator MergeSetting(double value) => Of(value);

    /// <summary>One number, or a gradient of several: linear between neighbours.</summary>
    /// <exception cref="AdapterConfigException">None, or one that is not finite.</exception>
    public static MergeSetting Of(params IReadOnlyList<double> values) => values.Count > 0 && values.All(double.IsFinite)
        ? new Gradient([.. values])
        : throw new AdapterConfigException($"MergeSetting: the values are [{string.Join(", ", values)}], want finite numbers, at least one");

    /// <summary>The first setting whose filter occurs in the tensor's name; null matches all.</summary>
    public static MergeSetting ByName(params IReadOnlyList<(string? Filter, MergeSetting Value)> choices) => new Filtered(choices);

    private sealed record Gradient(double[] Values) : MergeSetting
    {
        public override double? At(string tensor, double depth)
        {
            double place = depth * (Values.Length - 1);
            int low = (int)place, high = Math.Min(Values.Length - 1, low + 1);
            double share = place - low;
            return ((1 - share) * Values[low]) + (share * Values[high]);
        }
    }

    private sealed record Filtered(IReadOnlyList<(string? Filter, MergeSetting Value)> Choices) : MergeSetting
    {
        public override double? At(string tensor, double depth)
        {
            foreach ((string? filter, MergeSetting value) in Choices)
            {
                if (filter is null or "*" || tensor.Contains(filter, StringComparison.Ordinal))
                {
                    return value.At(tensor, depth);
                }
            }
            return null;
        }
    }
}
