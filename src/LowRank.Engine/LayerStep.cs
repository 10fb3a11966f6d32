namespace LowRank;

/// <summary>A parameter that moves within the backward pass.</summary>
/// <param name="begin">Memory for its gradient, when the first part of it is written.</param>
/// <param name="end">The gradient is complete.</param>
internal sealed class LayerStep(Func<Tensor> begin, Action end)
{
    public Tensor Begin() => begin();

    public void End() => end();
}
