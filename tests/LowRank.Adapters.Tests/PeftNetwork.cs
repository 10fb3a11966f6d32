using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Adapters.Tests;

/// <summary>The network of a peft golden: its model, and its output for the inputs of the case.</summary>
internal sealed class PeftNetwork : IDisposable
{
    private static readonly Dictionary<string, Func<GoldenCase, Device, DType, PeftNetwork>> All = new(StringComparer.Ordinal)
    {
        ["toy"] = (golden, device, type) => new(golden, new Toy(device, type, golden.Open(Base)), (model, x) => ((Toy)model).Forward(x!)),
        ["convs"] = (golden, device, type) => new(golden, new Images(device, type, golden.Open(Base), golden.Config.GetProperty("forward").GetString()!), (model, x) => ((Images)model).Forward(x!)),
        ["conv13"] = (golden, device, type) => new(golden, new Convolutions(device, type, golden.Open(Base)), (model, x) => ((Convolutions)model).Forward(x!)),
        ["mha"] = (golden, device, type) => new(golden, new MultiheadAttention(device, type, golden.Open(Base), golden.Config.GetProperty("dims").GetProperty("heads").GetInt32()), (model, x) => ((MultiheadAttention)model).Forward(x!)),
        ["moe"] = (golden, device, type) => new(golden, new Mixture(device, type, golden.Open(Base)), (model, x) => ((Mixture)model).Forward(x!)),
        ["llama"] = (golden, device, type) => Text(golden, device, type, "LlamaForCausalLM"),
        ["gpt2"] = (golden, device, type) => Text(golden, device, type, "GPT2LMHeadModel"),
    };

    private const string Base = "base.safetensors";
    private readonly GoldenCase golden;
    private readonly Func<Model, Tensor?, Tensor> forward;

    private PeftNetwork(GoldenCase golden, Model model, Func<Model, Tensor?, Tensor> forward) => (this.golden, Model, this.forward) = (golden, model, forward);

    public Model Model { get; }

    /// <summary>The name of the case's network; older cases have the toy.</summary>
    public static string NameOf(GoldenCase golden) => golden.Config.TryGetProperty("net", out var net) ? net.GetString()! : "toy";

    public static bool IsKnown(GoldenCase golden) => All.ContainsKey(NameOf(golden));

    public static PeftNetwork Open(GoldenCase golden, Device device, DType type) => All[NameOf(golden)](golden, device, type);

    /// <summary>The numbers that the network reads, or the ids that it looks up; null where the case gives a batch of text.</summary>
    public Tensor? Input(Scope scope) => golden.Has("in.x") ? golden.Load("in.x", scope, Model.Sites.Any(s => s.Kind == SiteKind.Embedding) ? DType.I32 : Model.DType) : null;

    public Tensor Forward(Tensor? x) => forward(Model, x);

    public double[] Output()
    {
        using Scope scope = Model.Device.BeginScope();
        return Forward(Input(scope)).ToDoubles();
    }

    /// <summary>The output of a model that was written to a folder.</summary>
    public double[] OutputOf(string folder)
    {
        using PretrainedModel saved = PretrainedModel.Load(folder, Model.Device, new LoadOptions { Type = Model.DType });
        using Scope scope = Model.Device.BeginScope();
        return forward(saved, null).ToDoubles();
    }

    /// <summary>A weight as the case stores it.</summary>
    public double[] Stored(Parameter parameter)
    {
        Tensor w = parameter.Value;
        if (Model is not PretrainedModel pretrained || !pretrained.IsTransposedInFile(parameter))
        {
            return w.ToDoubles();
        }
        double[] values = w.ToDoubles();
        return [.. from column in Enumerable.Range(0, w.Shape[1]) from row in Enumerable.Range(0, w.Shape[0]) select values[(row * w.Shape[1]) + column]];
    }

    public void Dispose() => Model.Dispose();

    private static PeftNetwork Text(GoldenCase golden, Device device, DType type, string architecture)
    {
        using var folder = new TemporaryFolder();
        JsonObject config = JsonNode.Parse(File.ReadAllText(golden.PathOf("base_config.json")))!.AsObject();
        config["architectures"] = new JsonArray(architecture);
        File.WriteAllText(Path.Combine(folder.Path, "config.json"), config.ToJsonString());
        File.Copy(golden.PathOf(Base), Path.Combine(folder.Path, PretrainedModel.WeightFile));
        var model = PretrainedModel.Load(folder.Path, device, new LoadOptions { Type = type });
        model.Original = null;      // the folder goes
        var batch = new TextBatch(golden.Shape("in.input_ids")[0], golden.Ints("in.input_ids"), [.. golden.Ints("in.attention_mask").Select(m => (byte)m)]);
        return new(golden, model, (m, _) => ((TextModel)m).Forward(batch).Logits!);
    }
}

/// <summary>x [batch, c, w]; h = relu(c1(x)), c1 along one axis; h as [batch, c', 1, rows, w]; c3 along three; the mean over its three axes; fc. Each
/// convolution keeps sizes.</summary>
internal sealed class Convolutions : Model
{
    private readonly Site c1, c3, fc;

    public Convolutions(Device device, DType type, TensorSource source)
        : base(device, type)
    {
        Site Layer(string name, SiteKind kind)
        {
            Parameter w = Add(name + ".weight", source.Load(name + ".weight", Store, type));
            int[] half = [.. Enumerable.Repeat(0, 5 - w.Value.Shape.Rank), .. w.Value.Shape.Skip(2).Select(k => k / 2)];
            return Add(new Site(name, kind, w, Add(name + ".bias", source.Load(name + ".bias", Store, type.ForParameters())))
            {
                Convolution = new() { Padding = new(half[0], half[1], half[2]) },
            });
        }
        (c1, c3, fc) = (Layer("c1", SiteKind.Conv1d), Layer("c3", SiteKind.Conv3d), Layer("fc", SiteKind.Linear));
    }

    public Tensor Forward(Tensor x)
    {
        Tensor h = new Relu().Apply(c1.Forward(x));
        int batch = h.Shape[0], channels = c3.Weight.Value.Shape[1];
        Tensor y = c3.Forward(h.Reshape([batch, channels, 1, h.Shape[1] / channels, h.Shape[2]]));
        int places = checked((int)(y.Shape.Count / batch / y.Shape[1]));
        Tensor mean = Device.Current!.New([places, 1], DType);
        mean.Fill(1.0 / places);
        return fc.Forward(new MatMul().Apply(y.Reshape([batch * y.Shape[1], places]), mean).Reshape([batch, y.Shape[1]]));
    }
}

/// <summary>y = head(out_proj(attention(in_proj(x)))), as torch.nn.MultiheadAttention: one module <c>attn</c>, adapted as a whole.</summary>
internal sealed class MultiheadAttention : Model
{
    private readonly Site input, output, head;
    private readonly int heads;

    public MultiheadAttention(Device device, DType type, TensorSource source, int heads)
        : base(device, type)
    {
        Site Layer(string path, string weight, string bias, params string[] aliases) => Add(new Site(
            path, SiteKind.Linear, Add(weight, source.Load(weight, Store, type)), Add(bias, source.Load(bias, Store, type.ForParameters())))
        { Aliases = aliases });
        this.heads = heads;
        input = Layer("attn", "attn.in_proj_weight", "attn.in_proj_bias");
        output = Layer("attn.base_layer.out_proj", "attn.out_proj.weight", "attn.out_proj.bias", "attn");
        head = Layer("head", "head.weight", "head.bias");
    }

    public Tensor Forward(Tensor x)
    {
        Tensor all = input.Forward(x);
        int d = x.Shape.Cols;
        Tensor Part(int i) => new Columns(i * d, d).Apply(all);
        return head.Forward(output.Forward(new Attention(heads).Apply(Part(0), Part(1), Part(2))));
    }
}

/// <summary>y = head(x + Σ_e relu(x·up_e)·down_e), up [experts, d, hidden] and down [experts, hidden, d] bare parameters of the module <c>experts</c>.</summary>
internal sealed class Mixture : Model
{
    private readonly Site up, down, head;

    public Mixture(Device device, DType type, TensorSource source)
        : base(device, type)
    {
        Site Stack(string path) => Add(new Site(path, SiteKind.Stack, Add(path, source.Load(path, Store, type)), null));
        (up, down) = (Stack("experts.up"), Stack("experts.down"));
        head = Add(new Site("head", SiteKind.Linear, Add("head.weight", source.Load("head.weight", Store, type)), Add("head.bias", source.Load("head.bias", Store, type.ForParameters()))));
    }

    public Tensor Forward(Tensor x)
    {
        Tensor rows = x.Reshape([x.Shape.Rows, x.Shape.Cols]), sum = rows, ups = up.CurrentWeight(), downs = down.CurrentWeight();
        for (int e = 0; e < ups.Shape[0]; e++)
        {
            Tensor Expert(Tensor stack) => stack.Slice(e, 1).Reshape([stack.Shape[1], stack.Shape[2]]);
            sum = new Add().Apply(sum, new MatMul().Apply(new Relu().Apply(new MatMul().Apply(rows, Expert(ups))), Expert(downs)));
        }
        return head.Forward(sum.Reshape(x.Shape));
    }
}
