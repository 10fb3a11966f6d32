using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>What a multi-adapter batch promises of each row's bits, on every device; the packed set; and what it refuses.</summary>
public class MultiLoraTests
{
    private const int K = 1100, N = 72;       // more than one slice of k on CUDA and one block on the CPU
    private static readonly int[] Ranks = [1, 8, 16, 24, 64, 128];

    public static TheoryData<string, DType, DType> Typed
    {
        get
        {
            var data = new TheoryData<string, DType, DType>();
            foreach (string device in Devices.Present)
            {
                foreach (DType type in Types(device))
                {
                    data.Add(device, type, DType.F32);
                    if (type != DType.F32)
                    {
                        data.Add(device, type, type);
                    }
                }
            }
            return data;
        }
    }

    [Theory, MemberData(nameof(Typed))]
    public void Rows_without_an_adapter_have_the_bits_of_the_plain_layer(string deviceName, DType type, DType factors)
    {
        using var layer = new Layer(deviceName, type, factors, 40);
        byte[][] plain = RowsOf(new Linear().Apply(layer.X, layer.W, layer.Bias));
        foreach (AdapterChoice rows in (AdapterChoice[])[AdapterChoice.Of(40), AdapterChoice.PerRow(Enumerable.Repeat(-1, 40).ToArray()), AdapterChoice.Of(40, new(3, 0, 2), new(7, 30, 6)), AdapterChoice.Of(40, new(1, 20, 5), new(35, 1, 0))])
        {
            byte[][] y = RowsOf(layer.Set.Forward(layer.X, layer.W, rows, layer.Bias));
            for (int i = 0; i < 40; i++)
            {
                bool adapted = rows.Segments.Any(s => s.First <= i && i < s.First + s.Tokens && layer.Set.Table[s.Adapter].Rank > 0);
                Assert.True(adapted != y[i].AsSpan().SequenceEqual(plain[i]), $"row {i} of {rows} is {(adapted ? "" : "not ")}that of the plain layer");
            }
        }
        Assert.Empty(layer.Device.Fallbacks);
    }

    [Theory, MemberData(nameof(Typed))]
    public void Bits_of_a_row_do_not_depend_on_its_company(string deviceName, DType type, DType factors)
    {
        const int Tokens = 150;
        using var layer = new Layer(deviceName, type, factors, Tokens);
        int[] ids = [.. Enumerable.Range(0, Tokens).Select(i => i < 70 ? 4 : (i * 5 % 8) - 1)];
        byte[][] together = RowsOf(layer.Set.Forward(layer.X, layer.W, AdapterChoice.PerRow(ids), layer.Bias));
        foreach (int row in (int[])[0, 13, 69, 70, 71, 75, 149])
        {
            byte[][] alone = RowsOf(layer.Set.Forward(layer.X, layer.W, AdapterChoice.Of(Tokens, new AdapterSegment(row, 1, ids[row])), layer.Bias));
            Assert.True(together[row].AsSpan().SequenceEqual(alone[row]), $"row {row} with adapter {ids[row]} differs with no adapter beside it");
        }
        // Another order of the rows, and all other adapters
        int[] turned = [.. Enumerable.Range(0, Tokens).Reverse()];
        Tensor x = new Gather().Apply(layer.X, layer.Device.Current!.Of([Tokens], turned));
        byte[][] moved = RowsOf(layer.Set.Forward(x, layer.W, AdapterChoice.PerRow([.. turned.Select(i => ids[i])]), layer.Bias));
        for (int i = 0; i < Tokens; i++)
        {
            Assert.True(together[turned[i]].AsSpan().SequenceEqual(moved[i]), $"row {turned[i]} differs at place {i}");
        }
        Assert.Empty(layer.Device.Fallbacks);
    }

    [Theory, InlineData(DType.F32, DType.F32), InlineData(DType.BF16, DType.F32), InlineData(DType.BF16, DType.BF16)]
    public void Cpu_bits_of_a_row_do_not_depend_on_the_number_of_rows(DType type, DType factors)
    {
        const int Tokens = 190;       // enough panels that row-major weights are packed whole
        using var layer = new Layer("cpu", type, factors, Tokens);
        int[] ids = [.. Enumerable.Range(0, Tokens).Select(i => (i / 9 % 8) - 1)];
        foreach (Tensor w in (Tensor[])[layer.W, Packing.Unpack(layer.W, layer.Device.Current!)])
        {
            byte[][] all = RowsOf(layer.Set.Forward(layer.X, w, AdapterChoice.PerRow(ids), layer.Bias));
            foreach ((int first, int count) in (ReadOnlySpan<(int, int)>)[(0, 1), (17, 1), (40, 2), (60, 5), (90, 13), (100, 60)])
            {
                byte[][] some = RowsOf(layer.Set.Forward(layer.X.Slice(first, count), w, AdapterChoice.PerRow(ids.AsSpan(first, count)), layer.Bias));
                for (int i = 0; i < count; i++)
                {
                    Assert.True(all[first + i].AsSpan().SequenceEqual(some[i]), $"row {first + i} differs in a batch of {count} rows");
                }
            }
        }
    }

    [Theory, MemberData(nameof(Typed))]
    public void A_set_gives_every_row_what_its_adapter_alone_gives(string deviceName, DType type, DType factors)
    {
        using var layer = new Layer(deviceName, type, factors, 35);
        int[] ids = [.. Enumerable.Range(0, 35).Select(i => (i / 5) - 1)];
        double[] got = layer.Set.Forward(layer.X, layer.W, AdapterChoice.PerRow(ids), layer.Bias).ToDoubles();
        using Device reference = Device.Cpu();
        using Scope scope = reference.BeginScope();
        Tensor x = Wide(layer.X), w = Wide(layer.W), bias = Wide(layer.Bias);
        double[] plain = new Linear().Apply(x, w, bias).ToDoubles();
        for (int adapter = -1; adapter < 6; adapter++)
        {
            double[] want = adapter < 0 ? plain : new LoraLinear(layer.Factors[adapter].Scale).Apply(x, w, Rounded(layer.Factors[adapter].A), Rounded(layer.Factors[adapter].B), bias).ToDoubles();
            Range own = ((adapter + 1) * 5 * N)..((adapter + 2) * 5 * N);
            Close.Check(got[own], want[own], Close.Bound(type), $"adapter {adapter} on {deviceName} in {type} with factors in {factors}");
        }

        Tensor Wide(Tensor t) => scope.Of(t.Shape, t.ToDoubles());
        Tensor Rounded(Tensor t) => Wide(t.ConvertTo(factors, layer.Device.Current!));
    }

    [Fact]
    public void Emulated_kernels_give_the_same_bits_under_every_schedule()
    {
        using var layer = new Layer("emulated", DType.BF16, DType.BF16, 90);
        AdapterChoice rows = AdapterChoice.Of(90, new(0, 70, 5), new(71, 1, 0), new(80, 10, 3));
        EmulatedDriver driver = Assert.IsType<EmulatedDriver>(((CudaDevice)layer.Device).Driver);
        byte[]? first = null;
        foreach ((bool lazy, int order) in from lazy in (bool[])[false, true] from order in (int[])[0, 1, 2] select (lazy, order))
        {
            driver.Schedule = new EmulatorSchedule(lazy, order, (uint)order + 7);
            byte[] bits = layer.Set.Forward(layer.X, layer.W, rows, layer.Bias).ToBytes();
            Assert.True((first ??= bits).AsSpan().SequenceEqual(bits), $"{driver.Schedule}");
        }
    }

    [Theory]
    [InlineData("rank 129", "AdapterTable: rank of adapter 1 is 129, want 0 .. 128")]
    [InlineData("first row", "AdapterTable: first row of adapter 0 is -1, want 0 or more")]
    [InlineData("overlap", "AdapterChoice: segment 1 is rows 3 .. 5, want a range within 4 .. 9: sorted, without overlap")]
    [InlineData("unsorted", "AdapterChoice: segment 1 is rows 0 .. 1, want a range within 6 .. 9: sorted, without overlap")]
    [InlineData("past the end", "AdapterChoice: segment 0 is rows 8 .. 10, want a range within 0 .. 9: sorted, without overlap")]
    [InlineData("length", "AdapterChoice: segment 0 is rows 3 .. 1, want a range within 0 .. 9: sorted, without overlap")]
    [InlineData("index", "AdapterChoice: adapter of segment 1 is -2, want an index, or -1 for none")]
    [InlineData("too large an index", "MultiLoraLinear: choice of adapters is of index 7, want 0 .. 6")]
    [InlineData("rows of x", "MultiLoraLinear: x is [4, 1100], want 5 rows, as the choice of adapters has")]
    [InlineData("x", "MultiLoraLinear: x is [4, 3], want [..., 1100]")]
    [InlineData("A", "MultiLoraLinear: A is [3, 1100], want [R, 1100] with R of at least 241")]
    [InlineData("B", "MultiLoraLinear: B is [241, 1100], want [241, 72]")]
    [InlineData("type", "MultiLoraLinear: A is BF16, want F32 beside F32 activations")]
    [InlineData("no factors", "AdapterSet: none of 2 adapters has factors, want at least one")]
    [InlineData("rank of a set", "AdapterSet: A of adapter 1 is F32[129, 1100], want [r, 1100] with r of 1 .. 128")]
    [InlineData("B of a set", "AdapterSet: B of adapter 0 is F32[72, 2], want [72, 1]")]
    [InlineData("k of a set", "AdapterSet: A of adapter 1 is F32[1, 9], want [r, 1100] with r of 1 .. 128")]
    public void Bad_input_is_refused(string what, string message)
    {
        using var layer = new Layer("cpu", DType.F32, DType.F32, 4);
        Scope scope = layer.Device.Current!;
        Tensor New(params int[] shape) => scope.NewZeros(Shape.Of(shape), DType.F32);
        AdapterFactors Of(Tensor a, Tensor b) => new(a, b, 1);
        Tensor Apply(Tensor x, Tensor a, Tensor b) => new MultiLoraLinear(layer.Set.Table, AdapterChoice.Of(4)).Apply(x, layer.W, a, b);
        Action act = what switch
        {
            "rank 129" => () => _ = new AdapterTable(new(0, 1, 1), new(1, 129, 1)),
            "first row" => () => _ = new AdapterTable(new AdapterRange(-1, 1, 1)),
            "overlap" => () => AdapterChoice.Of(10, new(0, 4, 0), new(3, 3, 1)),
            "unsorted" => () => AdapterChoice.Of(10, new(4, 2, 0), new(0, 2, 1)),
            "past the end" => () => AdapterChoice.Of(10, new AdapterSegment(8, 3, 0)),
            "length" => () => AdapterChoice.Of(10, new AdapterSegment(3, -1, 0)),
            "index" => () => AdapterChoice.PerRow([0, -2]),
            "too large an index" => () => layer.Set.Forward(layer.X, layer.W, AdapterChoice.PerRow([0, 7, 1, 2])),
            "rows of x" => () => layer.Set.Forward(layer.X, layer.W, AdapterChoice.PerRow([0, 0, 1, 2, 3])),
            "x" => () => Apply(New(4, 3), layer.Set.A, layer.Set.B),
            "A" => () => Apply(layer.X, New(3, K), layer.Set.B),
            "B" => () => Apply(layer.X, layer.Set.A, layer.Set.A),
            "type" => () => Apply(layer.X, layer.Set.A.ConvertTo(DType.BF16, scope), layer.Set.B),
            "no factors" => () => AdapterSet.Pack(scope, DType.F32, null, null),
            "rank of a set" => () => AdapterSet.Pack(scope, DType.F32, layer.Factors[0], Of(New(129, K), New(N, 129))),
            "B of a set" => () => AdapterSet.Pack(scope, DType.F32, Of(New(1, K), New(N, 2))),
            "k of a set" => () => AdapterSet.Pack(scope, DType.F32, layer.Factors[0], Of(New(1, 9), New(N, 1))),
            _ => () => Assert.Fail(what),
        };
        Assert.Equal(message, Assert.Throws<ShapeException>(act).Message);
    }

    private static byte[][] RowsOf(Tensor y) => [.. y.ToBytes().Chunk(N * y.DType.Size())];

    private static DType[] Types(string device) => device == "cpu" ? [DType.F32, DType.BF16] : [DType.F32, DType.BF16, DType.F16];

    /// <summary>A layer with seven adapters, the last without a part in it.</summary>
    private sealed class Layer : IDisposable
    {
        private readonly Scope scope;
        private readonly Rng rng = new(11);

        public Layer(string device, DType type, DType factors, int tokens)
        {
            Device = Devices.Open(device);
            scope = Device.BeginScope();
            X = Draw("x", [tokens, K], type);
            W = Packing.Pack(Draw("w", [N, K], type), scope);
            Bias = Draw("bias", [N], DType.F32);
            Factors = [.. Ranks.Select((r, i) => new AdapterFactors(Draw($"a{i}", [r, K], DType.F32), Draw($"b{i}", [N, r], DType.F32), 0.25 * (i + 1)))];
            Set = AdapterSet.Pack(scope, factors, [.. Factors, null]);
        }

        public Device Device { get; }

        public Tensor X { get; }

        public Tensor W { get; }

        public Tensor Bias { get; }

        public AdapterFactors[] Factors { get; }

        public AdapterSet Set { get; }

        public void Dispose()
        {
            scope.Dispose();
            Device.Dispose();
        }

        private Tensor Draw(string name, Shape shape, DType type)
        {
            float[] values = new float[shape.Count];
            rng.Fork(name).FillUniform(values, -1, 1);
            return scope.Of(shape, values, type);
        }
    }
}
