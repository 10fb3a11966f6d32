using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>Gate and up of a feed-forward in one pass: the bits of one layer after the other, whatever adapters they have.</summary>
public class GatedTests
{
    private const int Inputs = 70, Outputs = 136, Tokens = 37;

    public static TheoryData<DType, string[], double> Rows
    {
        get
        {
            var rows = new TheoryData<DType, string[], double>();
            foreach (DType type in (ReadOnlySpan<DType>)[DType.F32, DType.BF16, DType.F64])
            {
                foreach (string[] targets in (string[][])[[], ["gate"], ["up"], ["gate", "up"]])
                {
                    rows.Add(type, targets, 0);
                }
            }
            rows.Add(DType.F32, ["gate", "up"], 0.5);      // dropout: one layer after the other
            return rows;
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void One_pass_has_the_bits_of_two_layers(DType type, string[] targets, double dropout)
    {
        foreach (Gated op in (ReadOnlySpan<Gated>)[new SwiGlu(), new GeGlu()])
        {
            byte[][] want = Run(type, targets, dropout, (gate, up, x) => op.Apply(gate.Forward(x), up.Forward(x)));
            byte[][] got = Run(type, targets, dropout, (gate, up, x) => Site.Gated(gate, up, op, x));
            Assert.Equal(want, got);
        }
    }

    /// <summary>Bytes of y and of the gradients of x and of what is trained.</summary>
    private static byte[][] Run(DType type, string[] targets, double dropout, Func<Site, Site, Tensor, Tensor> forward)
    {
        using Device device = Devices.Open("cpu");
        using var model = new Pair(device, type);
        using AdaptedModel? adapted = targets.Length == 0 ? null : model.Attach(new LoraConfig { Rank = 5, Targets = targets, Dropout = dropout, Init = LoraInit.None });
        IReadOnlyList<Parameter> trained = adapted?.Parameters ?? model.TrainAll();
        using Scope data = device.NewStore();
        Tensor Drawn(string name, Shape shape)
        {
            var values = new float[shape.Count];
            new Rng(2).Fork(name).FillUniform(values, -1, 1);
            return data.Of(shape, values, type);
        }
        Tensor x = Drawn("x", [Tokens, Inputs]);
        x.NeedsGradient = true;
        using Tape tape = device.BeginTape();
        Tensor y = forward(model.Gate, model.Up, x);
        tape.Backward(y, Drawn("dy", y.Shape));
        return [y.ToBytes(), x.Gradient!.ToBytes(), .. trained.Select(p => p.Gradient!.ToBytes())];
    }

    /// <summary>Two layers of one input.</summary>
    private sealed class Pair : Model
    {
        public Pair(Device device, DType type)
            : base(device, type)
        {
            (Gate, Up) = (Layer("gate"), Layer("up"));

            Site Layer(string name)
            {
                using Scope scope = device.BeginScope();
                var rng = new Rng(1);
                Parameter w = Add($"{name}.weight", Packing.Pack(Init.Uniform(0.5).Make(scope, rng.Fork(name), [Outputs, Inputs], type), Store));
                return Add(new Site(name, SiteKind.Linear, w, Add($"{name}.bias", Init.Uniform(0.5).Make(Store, rng.Fork(name + " bias"), [Outputs], type.ForParameters()))));
            }
        }

        public Site Gate { get; }

        public Site Up { get; }
    }
}
