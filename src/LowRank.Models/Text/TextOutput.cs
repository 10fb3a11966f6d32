namespace LowRank.Models;

/// <summary>What a text model computes.</summary>
/// <param name="Last">Hidden state after the last layer (and the final norm, where there is one) [rows, tokens, d].</param>
/// <param name="Pooled">Pooler's output [rows, d]; null where the model has none.</param>
/// <param name="Logits">Head's output: [rows, classes], or [rows, tokens, vocabulary]; null where the model has no head.</param>
/// <param name="Hidden">Where asked for: the embeddings, then every layer's output.</param>
public sealed record TextOutput(Tensor Last, Tensor? Pooled, Tensor? Logits, IReadOnlyList<Tensor> Hidden)
{
    /// <summary>Scores of the routers, layer by layer [rows·tokens, experts]; empty where the model has none.</summary>
    public IReadOnlyList<Tensor> Routers { get; init; } = [];

    /// <summary>How unevenly the routers chose [1], to be added to a loss with the config's router_aux_loss_coef; null where the model has none.</summary>
    public Tensor? Balance { get; init; }
}
