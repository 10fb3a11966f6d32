using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Oracle;
using LowRank.Testing;
using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>A layer with an adapter of any method, off its start: forward and backward to x and every parameter. The peer computes the method's formula as its
/// own code does.</summary>
public sealed record AdapterLayerRow(string Group, AdapterConfig Config) : Row(Group)
{
    /// <summary>Rows of x.</summary>
    public int Tokens { get; init; } = 2048;

    /// <summary>Rows of W.</summary>
    public int Outputs { get; init; } = 1024;

    /// <summary>Columns of W.</summary>
    public int Inputs { get; init; } = 1024;

    /// <inheritdoc/>
    public override int Rank => Config switch { RandLoraConfig c => c.Rank, SaltConfig c => c.LowRank, SlTrainConfig c => c.Rank, _ => 0 };

    /// <inheritdoc/>
    public override string Shape => $"{Tokens} x {Outputs}x{Inputs}";

    /// <inheritdoc/>
    public override Case Make(Device device) => new AdapterLayerCase(this, device);
}

internal sealed class AdapterLayerCase : Case
{
    private readonly AdapterLayerRow row;
    private readonly Device device;
    private readonly OneLayer model;
    private readonly AdaptedModel adapted;
    private readonly Parameter x;
    private readonly Tensor dy;
    private readonly Sgd own, inputs;           // only to clear gradients
    private readonly Torch.Tensor theirX, theirDy, theirW;
    private readonly Dictionary<string, Torch.Tensor> theirs;

    public AdapterLayerCase(AdapterLayerRow row, Device device)
    {
        (this.row, this.device) = (row, device);
        int t = row.Tokens, n = row.Outputs, k = row.Inputs;
        float[] first = Draw("x", (long)t * k), upstream = Draw("dy", (long)t * n), w = Draw("w", (long)n * k, 1 / Math.Sqrt(k));
        model = new OneLayer(device, row.Type, SiteKind.Linear, [n, k], Array.ConvertAll(w, v => (double)v), pack: true);
        adapted = model.Attach(row.Config);
        foreach (Parameter p in adapted.Parameters)
        {
            p.Value.Set([.. p.Value.ToDoubles().Zip(Draw(p.Name, p.Value.Shape.Count, 0.02), (a, b) => a + b)]);
        }
        x = new Parameter("x", model.Store.Of([t, k], first, row.Type));
        dy = model.Store.Of([t, n], upstream, row.Type);
        (own, inputs) = (new Sgd(adapted.Parameters), new Sgd([x]));
        (theirX, theirDy, theirW) = (TorchTensors.Of(first, [t, k], row.Type), TorchTensors.Of(upstream, [t, n], row.Type), TorchTensors.Of(w, [n, k], row.Type));
        theirs = Saved();
        foreach (Torch.Tensor tensor in adapted.Parameters.Select(Of).Append(theirX))
        {
            tensor.requires_grad = true;
        }
        Trained = [theirX, .. adapted.Parameters.Select(Of)];
    }

    public override double Bound => 10 * Close.Layer;     // two products of random bases in a row, in another order

    public override Cost Cost
    {
        get
        {
            long t = row.Tokens, n = row.Outputs, k = row.Inputs;
            return new(4 * t * n * k, 2 * row.Type.Size() * ((n * k) + (t * (n + k))));     // forward and dx: what a frozen layer needs
        }
    }

    public override IReadOnlyDictionary<string, Action<int, Results?>> Peers => row.Config switch
    {
        RandLoraConfig c => new Dictionary<string, Action<int, Results?>>
        {
            ["module"] = Run(() => F.linear(theirX, theirW) + (F.linear(F.linear(theirX, Scaled()), Basis()) * (c.Alpha / c.Rank))),
            ["W + dW"] = Run(() => F.linear(theirX, Torch.addmm(theirW, Basis(), Scaled(), 1, (float)(c.Alpha / c.Rank)))),
        },
        SaltConfig => new Dictionary<string, Action<int, Results?>> { ["U·relu(C)·Vt"] = Run(() => F.linear(theirX, Salt())) },
        SlTrainConfig c => new Dictionary<string, Action<int, Results?>>
        {
            ["B·A + scatter"] = Run(() => F.linear(theirX, (theirs["sltrain_B"].mm(theirs["sltrain_A"]) * (c.Alpha / c.Rank)).flatten().index_add(0, theirs["sltrain_idx"], theirs["sltrain_v"], 1).view(row.Outputs, row.Inputs))),
        },
        _ => throw new NotSupportedException($"{row.Config.Method} has no peer here"),
    };

    private IReadOnlyList<Torch.Tensor> Trained { get; }

    public override void Ours(int set, Results? results = null)
    {
        using (Tape tape = device.BeginTape())
        {
            Tensor y = model.Site.Forward(x);
            tape.Backward(y, dy);
            if (results is not null)
            {
                results.Add(y);
                results.Add(x.Gradient);
                adapted.Parameters.ToList().ForEach(p => results.Add(p.Gradient));
            }
        }
        own.ClearGradients();
        inputs.ClearGradients();
    }

    protected override void Dispose(bool disposing)
    {
        own.Dispose();
        inputs.Dispose();
        adapted.Dispose();
        model.Dispose();
        foreach (Torch.Tensor tensor in theirs.Values.Append(theirX).Append(theirDy).Append(theirW))
        {
            tensor.Dispose();
        }
    }

    private Torch.Tensor Of(Parameter p) => theirs[p.Name[(p.Name.LastIndexOf('.') + 1)..]];

    /// <summary>What the adapter's file holds, by the last part of its name.</summary>
    private Dictionary<string, Torch.Tensor> Saved()
    {
        string folder = Directory.CreateTempSubdirectory("lowrank-bench-").FullName;
        try
        {
            adapted.SavePeft(folder);
            using SafeTensorsFile file = SafeTensorsFile.Open(Path.Combine(folder, PeftFolder.ModelFile));
            return file.Entries.ToDictionary(
                e => e.Name[(e.Name.LastIndexOf('.') + 1)..],
                e => e.Name.EndsWith("idx", StringComparison.Ordinal) ? Torch.tensor(file.ReadInt64(e.Name)) : TorchTensors.Of(file.ReadDouble(e.Name), e.Shape, row.Type));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private Torch.Tensor Scaled() =>
        (theirs["randlora_lambda"].unsqueeze(2) * theirs["randlora_A"] * theirs["randlora_gamma"].unsqueeze(0)).flatten(0, 1);

    private Torch.Tensor Basis() => theirs["randlora_B"].flatten(1);

    private Torch.Tensor Salt()
    {
        long top = theirs["salt_a"].shape[0], rest = theirs["salt_S"].shape[0] - top;
        Torch.Tensor u = theirs["salt_U"], s = theirs["salt_S"], vt = theirs["salt_Vt"];
        Torch.Tensor large = u.narrow(1, 0, top) * F.relu((theirs["salt_a"] * s.narrow(0, 0, top)) + theirs["salt_b"]);
        Torch.Tensor core = F.relu(Torch.diag(s.narrow(0, top, rest)) + theirs["salt_X"].mm(theirs["salt_Y"]));
        return large.mm(vt.narrow(0, 0, top)) + u.narrow(1, top, rest).mm(core).mm(vt.narrow(0, top, rest));
    }

    private Action<int, Results?> Run(Func<Torch.Tensor> layer) => (_, results) =>
    {
        using var scope = Torch.NewDisposeScope();
        Torch.Tensor y = layer();
        y.backward([theirDy]);
        results?.Add(y);
        foreach (Torch.Tensor p in Trained)
        {
            results?.Add(p.grad);
            p.grad = null;
        }
    };
}
