namespace LowRank.Adapters;

/// <summary>Dropout of an adapter's own input, x·keep/(1-p), while a tape records: what is kept depends on seed, step and the number of the call in it.</summary>
internal sealed class InputDropout(double p, Rng rng)
{
    private readonly ulong seed = ((ulong)rng.Fork("dropout high").Below(int.MaxValue) << 32) + (ulong)rng.Fork("dropout low").Below(int.MaxValue);
    private long step, calls;

    /// <summary>What stands in for the random mask, 1/(1-p) included.</summary>
    public Tensor? Mask { get; set; }

    public void StartStep(long number) => (step, calls) = (number, 0);

    /// <summary>True where a part of <paramref name="x"/> would be dropped now.</summary>
    public bool IsActive(Tensor x) => Mask is not null || (p > 0 && x.Device.Current is Tape);

    /// <summary>The dropped x, or null where all of it is kept.</summary>
    public Tensor? Apply(Tensor x)
    {
        if (Mask is not null)
        {
            return new Mul().Apply(x, Mask);
        }
        return IsActive(x) && x.Device.Current is Tape tape ? new Dropout(p, seed, ((ulong)step << 20) + (ulong)tape.Next(ref calls)).Apply(x) : null;
    }
}
