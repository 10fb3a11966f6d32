using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>No kernel is proven only by its neighbour: each one of the emulator's library, in each type, is launched by a row of the tests, and the table of
/// those rows, which <c>lowrank kernels --json</c> prints, is what the emulator counts.</summary>
public class KernelRowTests
{
    /// <summary>Set to 1: the table is written anew instead of compared.</summary>
    private const string Update = "LOWRANK_UPDATE";

    private static readonly DType[] Types = [DType.F32, DType.BF16, DType.F16];

    /// <summary>Rows that are no op: what they check is in their own tests.</summary>
    private static readonly (string Name, DType[] Types, Action<Device, DType> Run)[] Others =
    [
        ("Tensor.Fill", Types, (device, type) => Filled(device, type)),
        ("Tensor.ConvertTo", Types, (device, type) => Converted(device, Types.First(t => t != type), type)),
        ("AdamW clipped", [DType.F32], (device, type) => Step(device, type, p => new AdamW([p]))),
        ("AdamW8Bit clipped", [DType.F32], (device, type) => Step(device, type, p => new AdamW8Bit([p]) { LeastSize = 1 })),
        ("Sgd momentum", [DType.F32], (device, type) => Step(device, type, p => new Sgd([p]) { Momentum = 0.5 })),
        ("RmsProp centred", [DType.F32], (device, type) => Step(device, type, p => new RmsProp([p]) { Centered = true })),
        ("GatedAdamW threshold", [DType.F32], (device, type) => Step(device, type, p => new GatedAdamW([p], [p]))),
        ("Adafactor clipped", [DType.F32], (device, type) => Step(device, type, p => new Adafactor([p]))),
        ("SparseRows", [DType.F32], Sparse),
        ("TensorMerge", [DType.F32], (device, type) => TensorMergeTests.Merged(device, MergeRule.Agreeing, type, type, based: true)),
        .. TileTests.Rows.Select(row => (row.Name, Types, (Action<Device, DType>)((device, type) => row.Run(((CudaDevice)device).Driver, type)))),
    ];

    [Fact]
    public void Emulated_kernels_are_each_forced_by_the_row_that_the_table_names()
    {
        using var driver = new EmulatedDriver();
        using Device device = new CudaDevice(driver) { CheckMemory = true };
        var rows = new SortedDictionary<(string Kernel, DType Type), List<string>>(Comparer<(string Kernel, DType Type)>.Create((x, y) =>
            string.CompareOrdinal(x.Kernel, y.Kernel) is var order && order != 0 ? order : x.Type.CompareTo(y.Type)));
        foreach (OpRow row in OpRows.All)
        {
            foreach (DType type in row.TypesOn(device.Name))
            {
                Count($"{row}", () => new OpRun(row, type).On(device, type));
            }
        }
        foreach ((string name, DType[] types, Action<Device, DType> run) in Others)
        {
            Array.ForEach(types, type => Count(name, () => run(device, type)));
        }
        string[] unproven = [.. driver.Entries().Where(e => !rows.ContainsKey((e.Name, e.Type))).Select(e => $"{e.Name} {e.Type} of {e.File}")];
        Assert.True(unproven.Length == 0, $"no row launches {string.Join(", ", unproven)}: add one to {nameof(OpRows)}");

        string path = Path.Combine(Golden.Repository, "src", "LowRank.Engine", "Cuda", "kernel_rows.tsv");
        Dictionary<(string, DType), string> written = Read(path);
        string[] wrong =
        [
            .. rows.Where(r => !written.TryGetValue(r.Key, out string? row) || !r.Value.Contains(row)).Select(r => $"{r.Key.Kernel} {r.Key.Type}: want {r.Value[0]}"),
            .. written.Keys.Except(rows.Keys).Select(k => $"{k}: no such kernel"),
        ];
        if (wrong.Length > 0 && Environment.GetEnvironmentVariable(Update) == "1")
        {
            File.WriteAllLines(path, rows
                .GroupBy(r => (r.Key.Kernel, Row: written.TryGetValue(r.Key, out string? row) && r.Value.Contains(row) ? row : r.Value[0]), r => r.Key.Type)
                .Select(g => $"{g.Key.Kernel}\t{string.Join(',', g)}\t{g.Key.Row}"));
            wrong = [];
        }
        Assert.True(wrong.Length == 0, $"{path} is not what the emulator counts; run this test with {Update}=1 to write it\n{string.Join('\n', wrong)}");

        void Count(string row, Action run)
        {
            driver.Launches.Clear();
            run();
            foreach ((string Name, DType Type) kernel in driver.Launches.Keys)
            {
                if (!rows.TryGetValue(kernel, out List<string>? list))
                {
                    rows.Add(kernel, list = []);
                }
                list.Add(row);
            }
        }
    }

    private static Dictionary<(string, DType), string> Read(string path) =>
        (from line in File.ReadAllLines(path)
         let cells = line.Split('\t')
         from type in cells[1].Split(',')
         select (Key: (cells[0], Enum.Parse<DType>(type)), Row: cells[2])).ToDictionary(r => r.Key, r => r.Row);

    public static TheoryData<string, DType> Elements => [.. from device in Devices.Present from type in Types select (device, type)];

    [Theory, MemberData(nameof(Elements))]
    public void Values_are_filled_and_converted_to_nearest_even(string name, DType type)
    {
        using Device device = Devices.Open(name);
        Assert.All(Filled(device, type), value => Assert.Equal(0.3, value, Close.Bound(type)));
        foreach (DType to in Types)
        {
            (double[] from, double[] got) = Converted(device, type, to);
            Assert.Equal(from.Select(value => Rounded(value, to)), got);
        }
    }

    private static double Rounded(double value, DType type) => type switch
    {
        DType.BF16 => Numbers.FromBFloat16(Numbers.ToBFloat16((float)value)),
        DType.F16 => (double)(Half)value,
        _ => (float)value,
    };

    private static double[] Filled(Device device, DType type)
    {
        using Scope scope = device.BeginScope();
        Tensor tensor = scope.New([7, 301], type);
        tensor.Fill(0.3);
        return tensor.ToDoubles();
    }

    private static (double[] From, double[] To) Converted(Device device, DType from, DType to)
    {
        using Scope scope = device.BeginScope();
        float[] values = new float[1003];
        new Rng(5).FillUniform(values, -1, 1);
        Tensor source = scope.Of([17, 59], values, from);
        return (source.ToDoubles(), source.ConvertTo(to, scope).ToDoubles());
    }

    private static void Sparse(Device device, DType type)
    {
        using Scope store = device.NewStore();
        var rows = new SparseRows(store, 3, [0, 2], [0, 2], [1, 2], type);
        Tensor y = store.Of([3, 2], [1f, 2, 3, 4, 5, 6], type), x = store.New([1, 2], type);
        rows.Product(y, x);
        rows.Solve(y, x, new RowSolve(Ridge: 1));
        rows.Loss(y, x);
    }

    private static void Step(Device device, DType type, Func<Parameter, Optimizer> make)
    {
        using Scope store = device.NewStore();
        var parameter = new Parameter("p", store.NewZeros([100], type));
        using Optimizer optimizer = make(parameter);
        optimizer.MaxGradientNorm = 0.1;
        using Tape tape = device.BeginTape();
        tape.Backward(new SquaredError().Apply(parameter, tape.NewZeros([100], type)));
        optimizer.Step();
    }
}
