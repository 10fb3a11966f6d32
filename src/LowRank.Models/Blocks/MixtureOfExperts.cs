using LowRank.Adapters;

namespace LowRank.Models.Blocks;

/// <summary>What a layer's router decided in a pass.</summary>
/// <param name="Logits">[tokens, experts] in parameter precision.</param>
/// <param name="Chosen">Experts of each token, so many a token.</param>
internal sealed record Routing(Tensor Logits, int[] Chosen);

/// <summary>Feed-forwards of which each token takes the few that a router scores highest, weighted by the softmax of those scores alone (Mixtral, arXiv
/// 2401.04088, section 2.1): x [..., d] → the same shape.</summary>
internal sealed class MixtureOfExperts : ILayerMlp
{
    private const double Never = -1e30;
    private readonly Site router;
    private readonly FeedForward[] experts;
    private readonly Tensor one;
    private readonly int active;

    public MixtureOfExperts(PretrainedModel model, Place place, int d, int inner, int count, int active, Op activation)
    {
        this.active = active;
        router = model.Linear(place.At("gate"), count, d, bias: false);
        experts = [.. Enumerable.Range(0, count).Select(e => place.At($"experts.{e}")).Select(at => new FeedForward(model, at.At("w3"), at.At("w2"), d, inner, activation, bias: false, gate: at.At("w1")))];
        one = model.Store.Of([1, count, count], [.. Enumerable.Range(0, count * count).Select(i => i % (count + 1) == 0 ? 1.0 : 0)], model.DType.ForParameters());
    }

    public Tensor Forward(Tensor x, AttentionContext context)
    {
        int count = experts.Length, d = x.Shape.Cols, tokens = checked((int)(x.Shape.Count / d));
        Scope scope = x.Device.Current!;
        Tensor flat = x.Reshape([tokens, d]), logits = router.Forward(flat);
        logits = logits.DType == one.DType ? logits : new Cast(one.DType).Apply(logits);
        double[] scores = logits.ToDoubles(), barred = [.. Enumerable.Repeat(Never, scores.Length)];
        var chosen = new int[tokens * active];
        for (int t = 0; t < tokens; t++)
        {
            int[] best = [.. Enumerable.Range(0, count).OrderByDescending(e => scores[(t * count) + e]).Take(active)];
            best.CopyTo(chosen, t * active);
            foreach (int e in best)
            {
                barred[(t * count) + e] = 0;
            }
        }
        context.Routings.Add(new Routing(logits, chosen));
        Tensor weights = Softmax(logits, one, scope.Of([1, tokens, count], barred, one.DType));
        Tensor? sum = null;
        for (int e = 0; e < count; e++)
        {
            int[] rows = [.. Enumerable.Range(0, tokens).Where(t => Array.IndexOf(chosen, e, t * active, active) >= 0)];
            if (rows.Length > 0)
            {
                Tensor made = experts[e].Forward(new Gather().Apply(flat, scope.Of([rows.Length], rows)), context);
                // Tokens of other experts read some row, with weight 0.
                var place = new int[tokens];
                for (int i = 0; i < rows.Length; i++)
                {
                    place[rows[i]] = i;
                }
                Tensor part = new ScaleRows().Apply(new Gather().Apply(made, scope.Of([tokens], place)), new Columns(e, 1).Apply(weights).Reshape([tokens]));
                sum = sum is null ? part : new Add().Apply(sum, part);
            }
        }
        return sum!.Reshape(x.Shape);
    }

    /// <summary>experts·Σ_e f_e·P_e → [1]: f_e how often expert e was chosen a token, P_e the mean of its softmax, both over all layers and the tokens that are text
    /// (arXiv 2101.03961, equation 4).</summary>
    public static Tensor Balance(IReadOnlyList<Routing> routings, TextBatch batch)
    {
        Tensor first = routings[0].Logits;
        int count = first.Shape[1], text = Enumerable.Range(0, batch.Ids.Length).Count(batch.IsText);
        Scope scope = first.Device.Current!;
        double all = (double)routings.Count * text;
        var weights = new double[count];
        foreach (Routing routing in routings)
        {
            for (int i = 0; i < routing.Chosen.Length; i++)
            {
                weights[routing.Chosen[i]] += batch.IsText(i / (routing.Chosen.Length / batch.Ids.Length)) ? count / (all * all) : 0;
            }
        }
        Tensor one = scope.Of([1, count, count], [.. Enumerable.Range(0, count * count).Select(i => i % (count + 1) == 0 ? 1.0 : 0)], first.DType);
        Tensor rows = scope.Of([1, batch.Ids.Length], [.. Enumerable.Range(0, batch.Ids.Length).Select(i => batch.IsText(i) ? 1.0 : 0)], first.DType);
        Tensor? sum = null;
        foreach (Routing routing in routings)
        {
            Tensor shares = new MatMul().Apply(rows, Softmax(routing.Logits, one, null));
            sum = sum is null ? shares : new Add().Apply(sum, shares);
        }
        return new Linear().Apply(sum, scope.Of([1, count], weights, first.DType)).Reshape([1]);
    }

    // Attention to the unit vectors: queries [1, tokens, experts], so that values come out as the probabilities
    private static Tensor Softmax(Tensor logits, Tensor one, Tensor? bias) =>
        new Attention(1) { Scale = 1 }.Apply(logits.Reshape([1, logits.Shape[0], logits.Shape[1]]), one, one, null, bias).Reshape(logits.Shape);
}
