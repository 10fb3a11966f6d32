using F = TorchSharp.torch.nn.functional;
using Torch = TorchSharp.torch;

namespace LowRank.Bench.Cases;

/// <summary>Text models in torch, as its functions in a row, on weights named as in the model file. LoRA's factors stand beside a linear layer's name.</summary>
internal sealed class TorchText(IReadOnlyDictionary<string, Torch.Tensor> weights, int heads, int kvHeads, double epsilon)
{
    /// <summary>A [r,in] and B [out,r] by the layer's name in the file.</summary>
    public Dictionary<string, (Torch.Tensor A, Torch.Tensor B)> Factors { get; } = [];

    /// <summary>alpha / r.</summary>
    public float Scale { get; init; }

    /// <summary>Adds B to the product in place of a sum of two outputs.</summary>
    public bool Fused { get; set; }

    /// <summary>Cosines and sines [tokens, dim/2] of rotary positions; null where there are none.</summary>
    public (Torch.Tensor Cosine, Torch.Tensor Sine)? Angles { get; init; }

    /// <summary>BERT: ids [rows, tokens], all of the first sentence → last hidden state [rows, tokens, d].</summary>
    public Torch.Tensor Bert(string prefix, int layers, Torch.Tensor ids)
    {
        string at = prefix + "embeddings.";
        Torch.Tensor places = weights[at + "position_embeddings.weight"].narrow(0, 0, ids.shape[1]);
        Torch.Tensor h = Norm(at + "LayerNorm", Rows(at + "word_embeddings", ids) + weights[at + "token_type_embeddings.weight"][0] + places);
        for (int i = 0; i < layers; i++)
        {
            string layer = $"{prefix}encoder.layer.{i}.", self = layer + "attention.self.";
            Torch.Tensor attended = F.scaled_dot_product_attention(Heads(Linear(self + "query", h)), Heads(Linear(self + "key", h)), Heads(Linear(self + "value", h)));
            h = Norm(layer + "attention.output.LayerNorm", Linear(layer + "attention.output.dense", Joined(attended)) + h);
            h = Norm(layer + "output.LayerNorm", Linear(layer + "output.dense", F.gelu(Linear(layer + "intermediate.dense", h))) + h);
        }
        return h;
    }

    /// <summary>A decoder of one layer as Llama has it: ids [rows, tokens] → last hidden state.</summary>
    public Torch.Tensor LlamaLayer(Torch.Tensor ids)
    {
        const string Layer = "layers.0.", Self = Layer + "self_attn.", Mlp = Layer + "mlp.";
        Torch.Tensor h = Rows("embed_tokens", ids), x = RmsNorm(Layer + "input_layernorm", h);
        Torch.Tensor q = Turned(Heads(Linear(Self + "q_proj", x))), k = Turned(Heads(Linear(Self + "k_proj", x), kvHeads)), v = Heads(Linear(Self + "v_proj", x), kvHeads);
        Torch.Tensor attended = F.scaled_dot_product_attention(q, Repeated(k), Repeated(v), is_casual: true);
        h = Linear(Self + "o_proj", Joined(attended)) + h;
        x = RmsNorm(Layer + "post_attention_layernorm", h);
        h = Linear(Mlp + "down_proj", F.silu(Linear(Mlp + "gate_proj", x)) * Linear(Mlp + "up_proj", x)) + h;
        return RmsNorm("norm", h);
    }

    /// <summary>A linear layer, with its LoRA where it has one.</summary>
    public Torch.Tensor Linear(string name, Torch.Tensor x)
    {
        Torch.Tensor w = weights[name + ".weight"];
        Torch.Tensor? bias = weights.GetValueOrDefault(name + ".bias");
        if (!Factors.TryGetValue(name, out (Torch.Tensor A, Torch.Tensor B) f))
        {
            return F.linear(x, w, bias);
        }
        if (!Fused)
        {
            return F.linear(x, w, bias) + (F.linear(F.linear(x, f.A), f.B) * Scale);
        }
        Torch.Tensor rows = x.view(-1, x.shape[^1]);
        return Torch.addmm(F.linear(rows, w, bias), F.linear(rows, f.A), f.B.t(), 1, Scale).view(x.shape[0], x.shape[1], -1);
    }

    private Torch.Tensor Rows(string name, Torch.Tensor ids) => weights[name + ".weight"].index_select(0, ids.flatten()).view(ids.shape[0], ids.shape[1], -1);

    private static Torch.Tensor Joined(Torch.Tensor heads) => heads.transpose(1, 2).flatten(2);

    private Torch.Tensor Heads(Torch.Tensor x, int? count = null) => x.view(x.shape[0], x.shape[1], count ?? heads, -1).transpose(1, 2);

    private Torch.Tensor Repeated(Torch.Tensor x) => x.repeat_interleave(heads / kvHeads, 1);

    private Torch.Tensor Turned(Torch.Tensor x)
    {
        (Torch.Tensor cosine, Torch.Tensor sine) = Angles!.Value;
        Torch.Tensor[] halves = x.chunk(2, -1);
        return Torch.cat([(halves[0] * cosine) - (halves[1] * sine), (halves[1] * cosine) + (halves[0] * sine)], -1);
    }

    private Torch.Tensor Norm(string name, Torch.Tensor x) => F.layer_norm(x, [x.shape[^1]], weights[name + ".weight"], weights[name + ".bias"], epsilon);

    private Torch.Tensor RmsNorm(string name, Torch.Tensor x) => x * (x.square().mean([-1], keepdim: true) + epsilon).rsqrt() * weights[name + ".weight"];
}
