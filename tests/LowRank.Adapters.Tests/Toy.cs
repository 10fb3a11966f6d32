using LowRank.Formats;

namespace LowRank.Adapters.Tests;

/// <summary>The toy network of the peft goldens: x = embed[ids]; per layer a = o(tanh(q(x)) ⊙ v(x)), h = x + a, x += down(relu(up(h))); y = head(x).</summary>
internal sealed class Toy : Model
{
    private readonly int layers;

    public Toy(Device device, DType type, TensorSource source)
        : base(device, type)
    {
        foreach (string module in source.Entries.Select(e => e.Name).Where(n => n.EndsWith(".weight", StringComparison.Ordinal)).Select(n => n[..^7]).Order(StringComparer.Ordinal))
        {
            Tensor w = source.Load(module + ".weight", Store, type);
            bool embed = module == "embed";
            Parameter weight = Add(module + ".weight", embed ? w : Packing.Pack(w, Store));
            Parameter? bias = source.Contains(module + ".bias") ? Add(module + ".bias", source.Load(module + ".bias", Store, type.ForParameters())) : null;
            Add(new Site(module, embed ? SiteKind.Embedding : SiteKind.Linear, weight, bias) { IsOutput = module == "head" });
        }
        layers = Sites.Count(s => s.Path.EndsWith(".up_proj", StringComparison.Ordinal));
    }

    public Site this[string path] => Sites.Single(s => s.Path == path);

    public Tensor Forward(Tensor x)
    {
        x = Sites.Any(s => s.Path == "embed") ? this["embed"].Forward(x) : x;
        for (int i = 0; i < layers; i++)
        {
            string at = $"layers.{i}.";
            Tensor gate = new Tanh().Apply(this[at + "attn.q_proj"].Forward(x));
            Tensor a = this[at + "attn.o_proj"].Forward(new Mul().Apply(gate, this[at + "attn.v_proj"].Forward(x)));
            Tensor h = new Add().Apply(x, a);
            x = new Add().Apply(x, this[at + "mlp.down_proj"].Forward(new Relu().Apply(this[at + "mlp.up_proj"].Forward(h))));
        }
        return this["head"].Forward(x);
    }
}
