namespace LowRank;

/// <summary>Rotary position embedding (arXiv 2104.09864) by halves: channel c of each head pairs with c + r/2, r = rotated channels, and the pair turns by the
/// angle of its row's position; channels from r on pass. x [..., Heads·dim], table [positions, r/2, 2] of cosines and sines in parameter precision
/// (<see cref="Angles"/>), positions I32 with one entry a row of x → y like x. No gradient to the table.</summary>
public sealed record Rope(int Heads) : Op
{
    /// <summary>The table of <paramref name="frequencies"/> (radians a position) for positions 0 .. count-1: [count, frequencies, 2], each value times <paramref name="scale"/>.</summary>
    public static Tensor Angles(Scope scope, int count, ReadOnlySpan<double> frequencies, DType type, double scale = 1)
    {
        var values = new double[2L * count * frequencies.Length];
        for (int position = 0, i = 0; position < count; position++)
        {
            foreach (double frequency in frequencies)
            {
                (double sine, double cosine) = Math.SinCos(position * frequency);
                values[i++] = cosine * scale;
                values[i++] = sine * scale;
            }
        }
        return scope.Of([count, frequencies.Length, 2], values, type.ForParameters());
    }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (x, table, positions) = inputs;
        if (Heads < 1 || x.Shape.Rank == 0 || x.Shape.Cols % Heads != 0)
        {
            throw Bad("x", x.Shape, $"[..., {Heads}·dim]");
        }
        int dim = x.Shape.Cols / Heads;
        if (table.Shape.Rank != 3 || table.Shape[2] != 2 || 2 * table.Shape[1] > dim)
        {
            throw Bad("table", table.Shape, $"[positions, at most {dim / 2}, 2]");
        }
        RequireParameter("table", table, x.DType);
        if (positions.Shape.Count != x.Shape.Rows)
        {
            throw Bad("positions", positions.Shape, $"{x.Shape.Rows} positions, one a row of {x.Shape}");
        }
        RequireIds("positions", positions, table.Shape[0], allow: null);
        return [x.Shape];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs) => Turn(inputs, inputs[0].Data, outputs[0].Data, inverse: 0, add: 0);

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        Grads.Place dx = grads[0];
        Turn(inputs, dy.Data, dx.Data, inverse: 1, Grads.Place.Mask(dx));
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs) => new(3 * inputs[0].Shape.Count, 2 * inputs[0].Shape.Count * inputs[0].DType.Size());

    private void Turn(Inputs inputs, nint from, nint to, int inverse, uint add)
    {
        var (x, table, positions) = inputs;
        x.Device.Launch(Kernels.Rope, new RopeArgs
        {
            X = from,
            Table = table.Data,
            Positions = positions.Data,
            Y = to,
            Rows = x.Shape.Rows,
            Heads = Heads,
            Dim = x.Shape.Cols / Heads,
            Rotary = 2 * table.Shape[1],
            Inverse = inverse,
            DType = x.DType,
            Add = add,
        });
    }
}
