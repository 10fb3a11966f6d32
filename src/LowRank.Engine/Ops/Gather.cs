namespace LowRank;

/// <summary>y[i,:] = table[ids[i],:]; table [rows, d], ids I32 [...] → y [..., d]. The gradient adds rows in the order of ids.</summary>
public sealed record Gather : Op
{
    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (table, ids) = inputs;
        (int rows, int cols) = RequireMatrix("table", table);
        RequireRowMajor("table", table);
        RequireIds("ids", ids, rows, allow: null);
        Span<int> sizes = stackalloc int[ids.Shape.Rank + 1];
        ids.Shape.CopyTo(sizes);
        sizes[^1] = cols;
        return [Shape.Of(sizes)];
    }

    /// <inheritdoc/>
    public override void Run(Inputs inputs, Inputs outputs)
    {
        var (table, ids) = inputs;
        table.Device.Launch(Kernels.GatherForward, new GatherArgs { Table = table.Data, Ids = ids.Data, Y = outputs[0].Data, Rows = checked((int)ids.Shape.Count), Cols = table.Shape[1], TableRows = table.Shape[0], DType = table.DType, WType = table.DType });
    }

    /// <inheritdoc/>
    public override void Backward(Inputs inputs, Inputs outputs, Tensor dy, Grads grads)
    {
        var (table, ids) = inputs;
        Grads.Place dtable = grads[0];
        table.Device.Launch(Kernels.GatherBackward, new GatherGradArgs { Ids = ids.Data, Dy = dy.Data, Dtable = dtable.Data, Rows = checked((int)ids.Shape.Count), Cols = table.Shape[1], TableRows = table.Shape[0], DType = dy.DType, Add = Grads.Place.Mask(dtable) });
    }

    /// <inheritdoc/>
    public override Cost Cost(Inputs inputs)
    {
        var (table, ids) = inputs;
        return new(0, 2 * ids.Shape.Count * table.Shape[1] * table.DType.Size());
    }
}
