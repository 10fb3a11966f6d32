using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>A whole model compressed block by block, and the compensation as LoRA.</summary>
public sealed class CompressedModelTests : IDisposable
{
    private const int Width = 16, Samples = 3, Tokens = 40;
    private static readonly CompressionOptions Options = new() { Grid = new RowGrid(3), Rank = 4 };
    private readonly Device device = Devices.Open("cpu");

    public void Dispose() => device.Dispose();

    [Theory]
    [InlineData(DType.F32)]
    [InlineData(DType.F64)]
    public void Layers_hold_what_was_rounded_and_the_compensation_comes_nearer(DType type)
    {
        using var model = new Blocks(device, type);
        Dictionary<string, double[]> before = model.Weights();
        double[] want = Output(model);
        CompressedModel compressed = CompressedModel.Compress(model, Data(model), Options, cancellation: TestContext.Current.CancellationToken);
        Assert.Equal(["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"], compressed.Layers.Select(l => l.Path));
        Assert.All(compressed.Layers, l => Assert.True(l.After < l.Before && l.Before < 1 && l.Rank == Math.Min(4, l.Outputs)));
        double bare = Close.Error(Output(model), want);
        Assert.All(model.Weights(), w => Assert.True(w.Key == "head" ? w.Value.SequenceEqual(before[w.Key]) : w.Value.Chunk(before[w.Key].Length / model[w.Key].Outputs).All(row => row.Distinct().Count() <= 8), w.Key));
        using AdaptedModel adapted = compressed.Attach("there");
        Assert.True(Close.Error(Output(model), want) < bare);
        Assert.All(adapted.Adapters, a => Assert.Equal(1, ((Lora)a).Scale));
        Assert.Equal("there", adapted.Config.BaseModel);
        using var folder = new FolderOf();
        adapted.SavePeft(folder.Path);
        double[] compensated = Output(model);
        adapted.Dispose();
        Assert.Equal(bare, Close.Error(Output(model), want));
        using AdaptedModel again = model.AttachPeft(folder.Path);
        Assert.Equal(compensated, Output(model));
        Assert.Contains(again.Parameters, p => !p.Frozen);
    }

    [Fact]
    public void Later_blocks_see_what_the_compensated_ones_before_give()
    {
        using var model = new Blocks(device, DType.F64);
        List<double[]> seen = [];
        CompressedModel.Compress(model, new Calibration(1, _ => seen.Add(model.Forward(model.Inputs(0)).ToDoubles())), Options, cancellation: TestContext.Current.CancellationToken);
        Assert.Equal(2, seen.Count);     // a run a block
        Assert.NotEqual(seen[0], seen[1]);
    }

    [Fact]
    public void A_pattern_stays_under_a_grid()
    {
        using var model = new Blocks(device, DType.F32);
        CompressedModel.Compress(model, Data(model), Options with { Grid = new RowGrid(4), Pattern = new SparsePattern(2, 4), StoredAs = DType.BF16 }, cancellation: TestContext.Current.CancellationToken);
        foreach ((string path, double[] w) in model.Weights().Where(w => w.Key != "head"))
        {
            Assert.All(w.Chunk(4), four => Assert.True(four.Count(v => v == 0) >= 2, path));
            Assert.All(w, v => Assert.Equal(BitConverter.SingleToUInt32Bits((float)v) & 0xFFFF0000, BitConverter.SingleToUInt32Bits((float)v)));
        }
    }

    [Fact]
    public void A_run_that_is_stopped_leaves_the_model_as_it_was()
    {
        using var model = new Blocks(device, DType.F32);
        Dictionary<string, double[]> before = model.Weights();
        using var stop = new CancellationTokenSource();
        var told = new Told(stop.Cancel);
        Assert.Throws<OperationCanceledException>(() => CompressedModel.Compress(model, Data(model), Options, told, stop.Token));
        Assert.Equal(1, told.Count);
        Assert.Equal(before, model.Weights());
        Assert.Contains("no calibration data reaches", Assert.Throws<NumericException>(() => CompressedModel.Compress(model, new Calibration(1, _ => { }), Options, cancellation: TestContext.Current.CancellationToken)).Message, StringComparison.Ordinal);
        Assert.Equal(before, model.Weights());
    }

    [Fact]
    public void Bad_options_are_named()
    {
        using var model = new Blocks(device, DType.F32);
        foreach ((CompressionOptions options, string want) in new[]
        {
            (new CompressionOptions(), "neither Grid nor Pattern"),
            (Options with { Grid = new RowGrid(9) }, "Bits is 9"),
            (Options with { Rank = 0 }, "Rank is 0"),
            (Options with { Pattern = new SparsePattern(2, 5) }, "2:5 for 16 inputs"),
            (Options with { Targets = ["norm"] }, "norm"),
            (Options with { Targets = ["nothing"] }, "matches no layer"),
        })
        {
            Assert.Contains(want, Assert.Throws<AdapterConfigException>(() => CompressedModel.Plan(model, options)).Message, StringComparison.Ordinal);
        }
    }

    private static Calibration Data(Blocks model) => new(Samples, i => model.Forward(model.Inputs(i)));

    private double[] Output(Blocks model)
    {
        using Scope scope = device.BeginScope();
        return model.Forward(model.Inputs(99)).ToDoubles();
    }

    private sealed class Told(Action first) : IProgress<CompressedLayer>
    {
        public int Count { get; private set; }

        public void Report(CompressedLayer value)
        {
            Count++;
            first();
        }
    }

    private sealed class FolderOf : IDisposable
    {
        public string Path { get; } = Directory.CreateTempSubdirectory("lowrank-eora").FullName;

        public void Dispose() => Directory.Delete(Path, recursive: true);
    }

    /// <summary>Twice x += down(relu(up(norm(x)))), the second block with an inner width below the rank, then a head.</summary>
    private sealed class Blocks : Model
    {
        private readonly Site norm, head;
        private readonly Site[] layers;

        public Blocks(Device device, DType type)
            : base(device, type)
        {
            Site Layer(string path, int outputs, int inputs, bool isOutput = false)
            {
                var w = new double[outputs * inputs];
                new Rng(1).Fork(path).FillNormal(w, 0, 0.3);
                return Add(new Site(path, SiteKind.Linear, Add(path + ".weight", Packing.Pack(Store.Of([outputs, inputs], w, type), Store)), null) { IsOutput = isOutput });
            }
            norm = Add(new Site("norm", SiteKind.Norm, Add("norm.weight", Store.Of([Width], [.. Enumerable.Repeat(1.0, Width)], type.ForParameters())), null) { Normalization = new RmsNorm(1e-5) });
            layers = [Layer("blocks.0.up", 24, Width), Layer("blocks.0.down", Width, 24), Layer("blocks.1.up", 20, Width), Layer("blocks.1.down", Width, 20)];
            head = Layer("head", 5, Width, isOutput: true);
        }

        public Site this[string path] => Sites.Single(s => s.Path == path);

        public Tensor Inputs(int sample)
        {
            var x = new double[Tokens * Width];
            new Rng(2).Fork($"{sample}").FillNormal(x, 0, 1);
            for (int i = 0; i < x.Length; i++)
            {
                x[i] += i % Width == 0 ? 0 : 0.9 * x[i - 1];
            }
            return Device.Current!.Of([Tokens, Width], x, DType);
        }

        public Tensor Forward(Tensor x)
        {
            for (int i = 0; i < layers.Length; i += 2)
            {
                x = new Add().Apply(x, layers[i + 1].Forward(new Relu().Apply(layers[i].Forward(norm.Forward(x)))));
            }
            return head.Forward(x);
        }

        public Dictionary<string, double[]> Weights()
        {
            using Scope scope = Device.BeginScope();
            return Sites.Where(s => s.Kind == SiteKind.Linear).ToDictionary(s => s.Path, s => s.WeightMatrix().ToDoubles());
        }
    }
}
