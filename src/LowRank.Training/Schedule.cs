namespace LowRank.Training;

/// <summary>How the learning rate falls after the warm-up.</summary>
public enum Decay
{
    /// <summary>Not at all.</summary>
    Constant,
    /// <summary>Along a line to 0 at the last step.</summary>
    Linear,
    /// <summary>Along half a cosine wave to 0 at the last step.</summary>
    Cosine,
}

/// <summary>Learning rate over a run, as transformers' schedulers: warm-up along a line from 0 (the first of its steps does nothing), then a decay.</summary>
/// <param name="Decay">What follows the warm-up.</param>
/// <param name="Warmup">Steps of the warm-up.</param>
/// <param name="Least">Where the decay ends, as a share of the learning rate: 1 - (1 - Least)·(1 - decay).</param>
public readonly record struct Schedule(Decay Decay = Decay.Constant, long Warmup = 0, double Least = 0)
{
    /// <summary>Factor on the learning rate at a step: step/Warmup, then 1, or (steps-step)/(steps-Warmup), or ½(1+cos(π·(step-Warmup)/(steps-Warmup))).</summary>
    /// <param name="step">From 0.</param>
    /// <param name="steps">Length of the run.</param>
    public double At(long step, long steps)
    {
        if (step < Warmup)
        {
            return (double)step / Math.Max(1, Warmup);
        }
        double length = Math.Max(1, steps - Warmup);
        return Least + ((1 - Least) * Decay switch
        {
            Decay.Linear => Math.Max(0, (steps - step) / length),
            Decay.Cosine => Math.Max(0, 0.5 * (1 + Math.Cos(Math.PI * ((step - Warmup) / length)))),
            _ => 1,
        });
    }
}
