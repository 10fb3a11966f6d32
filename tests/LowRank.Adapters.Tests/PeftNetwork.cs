using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Testing;

namespace LowRank.Adapters.Tests;

/// <summary>The base model of a peft golden and how the case's inputs go through it.</summary>
internal sealed class PeftNetwork : IDisposable
{
    private static readonly Dictionary<string, string> Classes = new(StringComparer.Ordinal) { ["gpt2"] = "GPT2LMHeadModel", ["llama"] = "LlamaForCausalLM" };
    private readonly GoldenCase golden;
    private readonly TemporaryFolder folder = new();

    public PeftNetwork(GoldenCase golden, Device device, DType type)
    {
        this.golden = golden;
        Model = NameOf(golden) switch
        {
            "toy" => new Toy(device, type, golden.Open("base.safetensors")),
            "convs" => new Convolutions(device, type, golden.Open("base.safetensors"), golden.Config.GetProperty("forward").GetString()!),
            var name => Load(name, device, type),
        };
    }

    public Model Model { get; }

    /// <summary>Why a case's network cannot be had, or null.</summary>
    public static string? Missing(GoldenCase golden) => NameOf(golden) switch
    {
        "toy" or "convs" => null,
        "conv13" => "layers of kind Conv1d and Conv3d are not built",
        "mha" => "a layer of kind MultiheadAttention is not built",
        "moe" => "adapters on bare parameters are not built",
        var name => Classes.ContainsKey(name) ? null : $"architecture {name} is not built yet",
    };

    /// <summary>The input that a gradient is stored of, or null for token ids.</summary>
    public Tensor? Floats(Scope scope) => golden.Has("in.x") && golden.Tensors["in.x"].Type.TryToDType(out DType stored) && stored.IsFloat() ? golden.Load("in.x", scope, Model.DType) : null;

    /// <summary>The output, of <paramref name="x"/> where the input is one of floats.</summary>
    public Tensor Forward(Scope scope, Tensor? x) => Model switch
    {
        TextModel text => text.Forward(new TextBatch(golden.Shape("in.input_ids")[0], golden.Ints("in.input_ids"), [.. golden.Ints("in.attention_mask").Select(m => (byte)m)])).Logits!,
        Convolutions convolutions => convolutions.Forward(x!),
        _ => ((Toy)Model).Forward(x ?? golden.Load("in.x", scope, DType.I32)),
    };

    /// <summary>Values of a weight by its module path, in the order of the file; a tied one has two names.</summary>
    public double[] Weight(string path)
    {
        Parameter weight = Model.Parameters.Values.FirstOrDefault(p => Model.ModulePath(p.Name) == path) ?? Model.Sites.Single(s => s.Path + ".weight" == path).Weight;
        double[] values = weight.Value.ToDoubles();
        if (Model is not PretrainedModel pretrained || !pretrained.IsTransposedInFile(weight))
        {
            return values;
        }
        (int rows, int cols) = (weight.Value.Shape[0], weight.Value.Shape[1]);
        return [.. from c in Enumerable.Range(0, cols) from r in Enumerable.Range(0, rows) select values[(r * cols) + c]];
    }

    public void Dispose()
    {
        Model.Dispose();
        folder.Dispose();
    }

    private static string NameOf(GoldenCase golden) => golden.Config.TryGetProperty("net", out var net) ? net.GetString()! : "toy";

    /// <summary>A transformer: the case holds its config without the class, which the loader asks for.</summary>
    private PretrainedModel Load(string name, Device device, DType type)
    {
        JsonObject config = JsonNode.Parse(File.ReadAllText(golden.PathOf("base_config.json")))!.AsObject();
        config["architectures"] = new JsonArray(Classes[name]);
        File.WriteAllText(Path.Combine(folder.Path, "config.json"), config.ToJsonString());
        File.Copy(golden.PathOf("base.safetensors"), Path.Combine(folder.Path, PretrainedModel.WeightFile));
        return PretrainedModel.Load(folder.Path, device, new LoadOptions { Type = type });
    }
}
