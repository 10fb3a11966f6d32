using System.Text.Json.Nodes;
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
