using System.Text.Json;
using LowRank.Formats;

namespace LowRank.Testing;

/// <summary>How close a golden's numbers must be met: |got - want| within Atol + Rtol times the largest magnitude.</summary>
/// <param name="Rtol">Relative part; 0 where the case names none.</param>
/// <param name="Atol">Absolute part; 0 where the case names none.</param>
/// <param name="Raw">The whole JSON object, for figures of one kind of case (f32_loss, f64 ...).</param>
public sealed record GoldenTolerance(double Rtol, double Atol, JsonElement Raw)
{
    /// <summary>A figure of the JSON by name.</summary>
    public double Of(string name) => Raw.GetProperty(name).GetDouble();
}

/// <summary>One golden case: a file with its tensors and metadata, or a folder of files with the expected values in io, steps or expected.safetensors.</summary>
public sealed class GoldenCase : IDisposable
{
    private static readonly string[] MainFiles = ["io.safetensors", "steps.safetensors", "expected.safetensors"];
    private readonly List<TensorSource> opened = [];
    private TensorSource? tensors;

    internal GoldenCase(string folder, string name, string path)
    {
        Folder = folder;
        Name = name;
        Path = path;
    }

    /// <summary>The method folder: <c>lora-core</c>, <c>models</c>.</summary>
    public string Folder { get; }

    /// <summary>The case's name: its file without ending, or its folder.</summary>
    public string Name { get; }

    /// <summary>The file or folder on disk.</summary>
    public string Path { get; }

    /// <summary>The file with the expected values.</summary>
    public TensorSource Tensors => tensors ??= Open(File.Exists(Path) ? "" : MainFiles.FirstOrDefault(f => File.Exists(System.IO.Path.Combine(Path, f)))
        ?? throw new FileNotFoundException($"{Folder}/{Name} has none of {string.Join(", ", MainFiles)}"));

    /// <summary>Metadata <c>config</c>; an empty object where there is none.</summary>
    public JsonElement Config => Json("config");

    /// <summary>Metadata <c>tolerance</c>.</summary>
    public GoldenTolerance Tolerance
    {
        get
        {
            JsonElement raw = Json("tolerance");
            return new(Figure(raw, "rtol"), Figure(raw, "atol"), raw);
        }
    }

    /// <summary>Another file of a folder case; closed with the case.</summary>
    public TensorSource Open(string file)
    {
        TensorSource source = SafeTensorsFile.Open(PathOf(file));
        opened.Add(source);
        return source;
    }

    /// <summary>The path of a file of a folder case.</summary>
    public string PathOf(string file) => file.Length == 0 ? Path : System.IO.Path.Combine(Path, file);

    /// <summary>True where the tensor exists.</summary>
    public bool Has(string name) => Tensors.Contains(name);

    /// <summary>Names that begin so, in ordinal order.</summary>
    public IReadOnlyList<string> Names(string prefix = "") =>
        [.. Tensors.Entries.Select(e => e.Name).Where(n => n.StartsWith(prefix, StringComparison.Ordinal)).Order(StringComparer.Ordinal)];

    /// <summary>Dimensions of a tensor.</summary>
    public Shape Shape(string name) => Tensors[name].Shape;

    /// <summary>Values as float64.</summary>
    public double[] Doubles(string name) => Tensors.ReadDouble(name);

    /// <summary>Values as float32; F64 is rounded.</summary>
    public float[] Floats(string name) => Tensors.ReadSingle(name);

    /// <summary>Values of an integer tensor.</summary>
    public long[] Longs(string name) => Tensors.ReadInt64(name);

    /// <summary>Values of an integer tensor as 32 bits.</summary>
    public int[] Ints(string name) => Tensors.ReadInt32(name);

    /// <summary>A tensor of the engine with the stored values in the given type: F64 for the mathematics, F32 for a device's own path.</summary>
    public Tensor Load(string name, Scope scope, DType type) => Tensors.Load(name, scope, type);

    /// <summary>Fails unless the values lie within the case's rtol and atol.</summary>
    public void Check(string name, ReadOnlySpan<double> got) => Check(name, got, Doubles(name));

    /// <summary>The same for values derived from those stored under the name.</summary>
    public void Check(string name, ReadOnlySpan<double> got, ReadOnlySpan<double> want)
    {
        GoldenTolerance tolerance = Tolerance;
        Close.CheckMax(got, want, tolerance.Rtol, tolerance.Atol, $"{Folder}/{Name}: {name}");
    }

    /// <inheritdoc/>
    public override string ToString() => $"{Folder}/{Name}";

    /// <inheritdoc/>
    public void Dispose()
    {
        opened.ForEach(s => s.Dispose());
        opened.Clear();
        tensors = null;
    }

    private static double Figure(JsonElement raw, string name) => raw.TryGetProperty(name, out JsonElement value) ? value.GetDouble() : 0;

    private JsonElement Json(string key) => JsonElement.Parse(Tensors.Metadata.TryGetValue(key, out string? text) ? text : "{}");
}
