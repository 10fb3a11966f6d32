namespace LowRank.Bench;

/// <summary>One line of the table: a workload that the engine and its peer both do. Fields are what varies; a case says how.</summary>
public abstract record Row(string Group)
{
    /// <summary>Type of the activations and of frozen weights.</summary>
    public DType Type { get; init; } = DType.F32;

    /// <summary>Threads of the engine and of the peer.</summary>
    public int Threads { get; init; } = 2;

    /// <summary>True where another process keeps one core busy meanwhile.</summary>
    public bool Busy { get; init; }

    /// <summary>Sizes, as the table shows them.</summary>
    public abstract string Shape { get; }

    /// <summary>Rank of the adapter; 0 where there is none.</summary>
    public virtual int Rank => 0;

    /// <summary>Name for <c>list</c> and <c>run</c>: no spaces, unique.</summary>
    public string Name => string.Join('/', new[] { Group, Shape, Rank > 0 ? $"r{Rank}" : "", $"{Type}", $"{Threads}t" }.Where(part => part.Length > 0)).Replace(' ', '_').ToLowerInvariant();

    /// <summary>Draws the data of both sides.</summary>
    public abstract Case Make(Device device);
}

/// <summary>The two sides of a row, ready to run. Set i of the data is used by call i, so that what should come from memory does.</summary>
public abstract class Case : IDisposable
{
    /// <summary>Bytes that the data sets of a row have together where a single one would stay in cache.</summary>
    protected const long Beyond = 96L << 20;

    /// <summary>Operations and least bytes of one call.</summary>
    public abstract Cost Cost { get; }

    /// <summary>Number of data sets.</summary>
    public virtual int Sets => 1;

    /// <summary>What the peer runs on, where the names of its ways do not say it.</summary>
    public virtual string Library => Oracle.TorchRuntime.Name;

    /// <summary>Ways the peer can do it, by name; the runner times the fastest.</summary>
    public abstract IReadOnlyDictionary<string, Action<int, Results?>> Peers { get; }

    /// <summary>Largest relative difference of the results that still counts as the same work.</summary>
    public abstract double Bound { get; }

    /// <summary>One call of the engine. Results are read where somebody asks for them.</summary>
    public abstract void Ours(int set, Results? results = null);

    /// <summary>What a call needs and no clock should see.</summary>
    public virtual void Prepare(int set)
    {
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Dispose(true);
        GC.SuppressFinalize(this);
    }

    /// <summary>Frees the data of both sides.</summary>
    protected abstract void Dispose(bool disposing);

    /// <summary>How many sets of this many bytes lie beyond the cache.</summary>
    protected static int SetsOf(long bytes) => (int)Math.Clamp((Beyond + bytes - 1) / bytes, 1, 12);

    /// <summary>Uniform values between -<paramref name="scale"/> and <paramref name="scale"/>.</summary>
    protected static float[] Draw(string name, long count, double scale = 1)
    {
        var values = new float[count];
        new Rng(1).Fork(name).FillUniform(values, (float)-scale, (float)scale);
        return values;
    }
}

/// <summary>What a side computed, as float64, in an order that both keep.</summary>
public sealed class Results
{
    /// <summary>The tensors.</summary>
    public List<double[]> Values { get; } = [];

    /// <summary>Adds one of the engine's.</summary>
    public void Add(Tensor? tensor) => Values.Add(tensor?.ToDoubles() ?? []);

    /// <summary>Adds one of torch's.</summary>
    public void Add(TorchSharp.torch.Tensor? tensor) => Values.Add(tensor is null ? [] : Oracle.TorchTensors.Values(tensor));

    /// <summary>Adds several as one: gradients of a model, of which some are zero but for rounding.</summary>
    public void AddJoined(IEnumerable<double[]> values) => Values.Add([.. values.SelectMany(v => v)]);

    /// <summary>Largest relative difference over the tensors.</summary>
    public double DifferenceFrom(Results other) => Values.Zip(other.Values, (a, b) => Testing.Close.Error(a, b)).Append(Values.Count == other.Values.Count ? 0 : double.NaN).Max();
}
