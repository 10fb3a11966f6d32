using LowRank.Testing;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>A forward and backward pass of an adapter by the tiled plans alone, with what it must launch.</summary>
/// <param name="Tokens">Rows of x.</param>
/// <param name="N">Outputs.</param>
/// <param name="K">Inputs.</param>
/// <param name="R">Rank.</param>
/// <param name="Halves">Kernels of 16-bit types.</param>
/// <param name="Exact">Kernels of F32.</param>
internal sealed record LoraCase(int Tokens, int N, int K, int R, string[] Halves, string[] Exact)
{
    /// <summary>With a bias and its gradient.</summary>
    public bool Bias { get; init; }

    /// <summary>With c, y0 and their gradients.</summary>
    public bool Scaled { get; init; }

    /// <summary>The adapter has an input of its own (dropout).</summary>
    public bool Own { get; init; }

    /// <summary>Only dx is wanted, so that u is made alone.</summary>
    public bool OnlyX { get; init; }

    /// <summary>How the pass over dy is cut; null: as the plan does.</summary>
    public LoraDyGrid? Grid { get; init; }

    public override string ToString() => $"T {Tokens}, n {N}, k {K}, r {R}";

    /// <summary>Outputs by name: their bytes, and their error to the float64 reference.</summary>
    public IEnumerable<(string Name, byte[] Bits, double Error)> Run(CudaDriver driver, DType type)
    {
        using Device host = Device.Cpu();
        using Scope scope = host.NewStore();
        Tensor x = Draw(scope, "x", [Tokens, K], type), xa = Draw(scope, "xa", [Tokens, K], type), w = Draw(scope, "w", [N, K], type), dy = Draw(scope, "dy", [Tokens, N], type);
        Tensor a = Draw(scope, "a", [R, K], DType.F32), b = Draw(scope, "b", [N, R], DType.F32), c = Draw(scope, "c", [N], DType.F32), bias = Draw(scope, "bias", [N], DType.F32);
        var made = new List<(string Name, Tensor Got, Tensor Want)>();
        (nint Got, nint Want) Make(string name, bool wanted, Shape shape, DType t)
        {
            if (!wanted)
            {
                return (0, 0);
            }
            // Not zeros: what is added to and what is overwritten both show.
            made.Add((name, Draw(scope, name, shape, t), scope.Of(shape, Draw(scope, name, shape, t).ToDoubles())));
            return (made[^1].Got.Data, made[^1].Want.Data);
        }
        var y = Make("y", true, [Tokens, N], type);
        var y0 = Make("y0", Scaled, [Tokens, N], type);
        var t = Make("t", true, [Tokens, R], DType.F32);
        var forward = new LoraArgs { X = x.Data, Xa = Own ? xa.Data : 0, W = w.Data, A = a.Data, B = b.Data, Bias = Bias ? bias.Data : 0, C = Scaled ? c.Data : 0, Y = y.Got, Y0 = y0.Got, T = t.Got, Tokens = Tokens, N = N, K = K, R = R, Scale = 0.5, DType = type, WType = type };
        With(driver, stream => CudaTilePlans.TryForward(stream, in forward));
        host.Launch(Kernels.LoraForward, forward with
        {
            X = Wide(scope, x),
            Xa = Own ? Wide(scope, xa) : 0,
            W = Wide(scope, w),
            A = Wide(scope, a),
            B = Wide(scope, b),
            Bias = Bias ? Wide(scope, bias) : 0,
            C = Scaled ? Wide(scope, c) : 0,
            Y = y.Want,
            Y0 = y0.Want,
            T = t.Want,
            DType = DType.F64,
            WType = DType.F64,
        });
        var dx = Make("dx", true, [Tokens, K], type);
        var dxa = Make("dxa", Own, [Tokens, K], type);
        var da = Make("da", !OnlyX, [R, K], DType.F32);
        var db = Make("db", !OnlyX, [N, R], DType.F32);
        var dbias = Make("dbias", Bias, [N], DType.F32);
        var dc = Make("dc", Scaled, [N], DType.F32);
        var backward = new LoraGradArgs { X = x.Data, Xa = forward.Xa, W = w.Data, A = a.Data, B = b.Data, C = forward.C, T = t.Got, Y0 = y0.Got, Dy = dy.Data, Dx = dx.Got, Dxa = dxa.Got, Da = da.Got, Db = db.Got, Dbias = dbias.Got, Dc = dc.Got, Tokens = Tokens, N = N, K = K, R = R, Scale = 0.5, DType = type, WType = type, Add = R % 2 == 0 ? 0x3Fu : 0 };
        With(driver, stream => CudaTilePlans.TryBackward(stream, in backward, Grid ?? LoraDyGrid.For(Tokens, N)));
        host.Launch(Kernels.LoraBackward, backward with
        {
            X = Wide(scope, x),
            Xa = Own ? Wide(scope, xa) : 0,
            W = Wide(scope, w),
            A = Wide(scope, a),
            B = Wide(scope, b),
            C = Scaled ? Wide(scope, c) : 0,
            T = t.Want,
            Y0 = y0.Want,
            Dy = Wide(scope, dy),
            Dx = dx.Want,
            Dxa = dxa.Want,
            Da = da.Want,
            Db = db.Want,
            Dbias = dbias.Want,
            Dc = dc.Want,
            DType = DType.F64,
            WType = DType.F64,
        });
        return [.. made.Select(m => (m.Name, m.Got.ToBytes(), Close.Error(m.Got.ToDoubles(), m.Want.ToDoubles())))];
    }

    /// <summary>Values in (-1, 1), the same for a name.</summary>
    public static Tensor Draw(Scope scope, string name, Shape shape, DType type)
    {
        float[] values = new float[shape.Count];
        new Rng(3).Fork(name).FillUniform(values, -1, 1);
        return scope.Of(shape, values, type);
    }

    /// <summary>The tensor's values as float64.</summary>
    public static nint Wide(Scope scope, Tensor tensor) => scope.Of(tensor.Shape, tensor.ToDoubles()).Data;

    /// <summary>Runs a plan, which must take its arguments.</summary>
    public static void With(CudaDriver driver, Func<CudaStream, bool> plan)
    {
        var stream = new CudaStream(driver);
        try
        {
            Assert.True(plan(stream), "the plan refuses these arguments");
        }
        finally
        {
            stream.End();
            stream.Free();
        }
    }
}
