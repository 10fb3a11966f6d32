namespace LowRank;

/// <summary>Base of y = f(gate) ⊙ up, the middle of a gated feed-forward (arXiv 2002.05202); gate and up of one shape → y like them.</summary>
public abstract record Gated : Binary
{
    /// <summary>f.</summary>
    public abstract GateFunction Function { get; }

    /// <inheritdoc/>
    public override Shape[] Infer(Inputs inputs)
    {
        var (gate, up) = inputs;
        Require("up", up, gate.Shape);
        return up.DType == gate.DType ? [gate.Shape] : throw Bad("up", up.DType, $"{gate.DType} as gate");
    }
}

/// <summary>y = SiLU(gate) ⊙ up.</summary>
public sealed record SwiGlu : Gated
{
    /// <inheritdoc/>
    public override GateFunction Function => GateFunction.Silu;

    private protected override Kernel<BinaryArgs> Forward => Kernels.SiluMulForward;

    private protected override Kernel<BinaryGradArgs> Gradient => Kernels.SiluMulBackward;
}

/// <summary>y = GELU(gate) ⊙ up with the GELU by tanh.</summary>
public sealed record GeGlu : Gated
{
    /// <inheritdoc/>
    public override GateFunction Function => GateFunction.GeluTanh;

    private protected override Kernel<BinaryArgs> Forward => Kernels.GeluTanhMulForward;

    private protected override Kernel<BinaryGradArgs> Gradient => Kernels.GeluTanhMulBackward;
}
