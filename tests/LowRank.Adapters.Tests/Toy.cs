using LowRank.Formats;

namespace LowRank.Adapters.Tests;

/// <summary>The toy network of the peft goldens: x = embed[ids]; per layer n = norm(x), a = o(tanh(q(n)) ⊙ v(n)), h = x + a, x += down(relu(up(h)));
/// y = head(x). Embedding and norms may be absent.</summary>
internal sealed class Toy : Model
{
    private const double Epsilon = 1e-5;
    private readonly int layers;

    public Toy(Device device, DType type, TensorSource source)
        : base(device, type)
    {
        foreach (string module in source.Entries.Select(e => e.Name).Where(n => n.EndsWith(".weight", StringComparison.Ordinal)).Select(n => n[..^7]).Order(StringComparer.Ordinal))
        {
            Tensor w = source.Load(module + ".weight", Store, type);
            SiteKind kind = module == "embed" ? SiteKind.Embedding : module.EndsWith(".norm", StringComparison.Ordinal) ? SiteKind.Norm : SiteKind.Linear;
            Parameter weight = Add(module + ".weight", kind == SiteKind.Linear ? Packing.Pack(w, Store) : w);
            Parameter? bias = source.Contains(module + ".bias") ? Add(module + ".bias", source.Load(module + ".bias", Store, type.ForParameters())) : null;
            Add(new Site(module, kind, weight, bias) { IsOutput = module == "head", Normalization = kind == SiteKind.Norm ? new LayerNorm(Epsilon) : null });
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
            Tensor n = Sites.FirstOrDefault(s => s.Path == at + "norm")?.Forward(x) ?? x;
            Tensor gate = new Tanh().Apply(this[at + "attn.q_proj"].Forward(n));
            Tensor a = this[at + "attn.o_proj"].Forward(new Mul().Apply(gate, this[at + "attn.v_proj"].Forward(n)));
            Tensor h = new Add().Apply(x, a);
            x = new Add().Apply(x, this[at + "mlp.down_proj"].Forward(new Relu().Apply(this[at + "mlp.up_proj"].Forward(h))));
        }
        return this["head"].Forward(x);
    }
}
