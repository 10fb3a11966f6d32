using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>LoCA (arXiv 2502.06820): W_eff = W + s·C_outᵀ·S·C_in, S zero but for k trained coefficients of a 2-D cosine transform (<see cref="SparseDct"/>),
/// whose places are trained too in the first part of a run. Coefficients and places take turns: of every <see cref="CoefficientSteps"/> +
/// <see cref="LocationSteps"/> steps the first move the coefficients, the others the places, until step <see cref="LocationIterations"/>; what is frozen takes
/// no update, decay included. Steps of the optimiser are counted; the official code counts forward passes, which are more where a step has several parts.</summary>
public sealed record LocaConfig() : AdapterConfig("LOCA")
{
    private static readonly string[] Modes = ["fast", "default", "sparse"];     // in the order of DctRoute

    /// <summary>k: trained coefficients of a layer.</summary>
    [JsonPropertyName("n_frequency")]
    public int Coefficients { get; init; } = 1000;

    /// <summary>s.</summary>
    [JsonPropertyName("scale"), JsonConverter(typeof(FloatConverter))]
    public double Scale { get; init; } = 1;

    /// <summary>Step from which on the places stay as they are; 0: from the start. The paper takes about a tenth of a run.</summary>
    [JsonPropertyName("learn_location_iter")]
    public int LocationIterations { get; init; } = 1000;

    /// <summary>Steps of a cycle that move the coefficients.</summary>
    [JsonPropertyName("coefficient_steps")]
    public int CoefficientSteps { get; init; } = 10;

    /// <summary>Steps of a cycle that move the places.</summary>
    [JsonPropertyName("location_steps")]
    public int LocationSteps { get; init; } = 20;

    /// <summary>Factor on the learning rate of the places, which run from 0 to 1: 1e-4 beside the official 5e-3 of the coefficients.</summary>
    [JsonPropertyName("location_rate"), JsonConverter(typeof(FloatConverter))]
    public double LocationRate { get; init; } = 0.02;

    /// <summary>How dW is made: default (the whole S, along both sides), sparse (sums of cosines, then along the rows), fast (whichever is cheaper). They differ
    /// in rounding alone.</summary>
    [JsonPropertyName("dct_mode")]
    public string Mode { get; init; } = "fast";

    /// <summary>Share of the adapter's input that is dropped in training.</summary>
    [JsonPropertyName("loca_dropout"), JsonConverter(typeof(FloatConverter))]
    public double Dropout { get; init; }

    /// <inheritdoc/>
    internal override bool Adapts(SiteKind kind) => kind == SiteKind.Linear;

    /// <inheritdoc/>
    public override Adapter Create(Site site, Rng rng, Scope store) => Coefficients <= (long)site.Outputs * site.Inputs
        ? new Loca(this, site, rng, store)
        : throw Bad("n_frequency", Coefficients, $"1 .. {(long)site.Outputs * site.Inputs}, the elements of {site.Path} [{site.Outputs}, {site.Inputs}]");

    /// <summary>k; places are not counted, as in the paper: they end as integers.</summary>
    public override long ParameterCount(Site site) => Coefficients;

    /// <inheritdoc/>
    public override void Validate()
    {
        base.Validate();
        RequireRank("n_frequency", Coefficients);
        RequireRank("coefficient_steps", CoefficientSteps);
        RequireShare("loca_dropout", Dropout);
        if (!double.IsFinite(Scale))
        {
            throw Bad("scale", Scale, "a finite number");
        }
        if (LocationIterations < 0)
        {
            throw Bad("learn_location_iter", LocationIterations, "0 or more");
        }
        if (LocationSteps < 0)
        {
            throw Bad("location_steps", LocationSteps, "0 or more");
        }
        if (!(LocationRate >= 0 && double.IsFinite(LocationRate)))
        {
            throw Bad("location_rate", LocationRate, "0 or more");
        }
        if (!Modes.Contains(Mode))
        {
            throw Bad("dct_mode", Mode, "default, sparse or fast");
        }
    }

    /// <summary>True where step <paramref name="step"/>, counted from 0, moves the places; else it moves the coefficients.</summary>
    public bool MovesLocations(long step) => step < LocationIterations && step % (CoefficientSteps + LocationSteps) >= CoefficientSteps;

    /// <summary>The evaluation that <see cref="Mode"/> names.</summary>
    internal DctRoute Route => (DctRoute)Array.IndexOf(Modes, Mode);
}

/// <summary>u [2,k], the places on 0 .. 1 of the rows and of the columns, uniform at first, and a [k], zero at first. dW is formed once a call, on top of W.</summary>
internal sealed class Loca : Adapter
{
    private readonly LocaConfig config;
    private readonly InputDropout dropout;
    private readonly Parameter u, a;
    private double scale;

    public Loca(LocaConfig config, Site site, Rng rng, Scope store)
        : base(site, store)
    {
        this.config = config;
        scale = config.Scale;
        dropout = DropInputs(config.Dropout, rng);
        var places = new float[2 * config.Coefficients];
        rng.Fork("loca_spectrum_indices").FillUniform(places, 0, 1);
        u = Declare("loca_spectrum_indices", store.Of([2, config.Coefficients], places, Precision));
        u.LearningRateScale = config.LocationRate;
        a = Declare("loca_spectrum", store.NewZeros([config.Coefficients], Precision));
        StartStep(0);
    }

    public override Tensor EffectiveWeight() => new SparseDct(Site.Outputs, Site.Inputs, scale, config.Route).Apply(a, u, Site.WeightMatrix());

    public override Tensor Forward(Tensor x)
    {
        var op = new SparseDctLinear(Site.Outputs, Site.Inputs, scale, config.Route);
        return dropout.Apply(x) is { } dropped
            ? new Add().Apply(Site.BaseForward(x), op.Apply(dropped, a, u))
            : op.Apply(x, a, u, Site.WeightMatrix(), Site.Bias?.Value);
    }

    internal override string? Fault => Parameters.FirstOrDefault(p => !p.Value.ToDoubles().All(double.IsFinite)) is { } broken
        ? $"has NaN or infinity in {broken.Name}, want finite places and coefficients"
        : null;

    protected override bool TakesStrength(double strength)
    {
        scale = strength * config.Scale;
        return true;
    }

    internal override void StartStep(long step)
    {
        base.StartStep(step);
        a.Frozen = config.MovesLocations(step);
        u.Frozen = !a.Frozen;
    }
}
