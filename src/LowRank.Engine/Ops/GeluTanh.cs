namespace LowRank;

/// <summary>y = x/2·(1 + tanh(√(2/π)(x + 0.044715x³))), the approximation called gelu_new and gelu_pytorch_tanh. Elementwise; x → y of the same shape and type.</summary>
public sealed record GeluTanh : Unary
{
    private protected override Kernel<UnaryArgs> Forward => Kernels.GeluTanhForward;

    private protected override Kernel<UnaryGradArgs> Gradient => Kernels.GeluTanhBackward;
}
