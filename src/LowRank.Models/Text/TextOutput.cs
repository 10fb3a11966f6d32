namespace LowRank.Models;

/// <summary>What a text model computes.</summary>
/// <param name="Last">Hidden state after the last layer (and the final norm, where there is one) [rows, tokens, d].</param>
/// <param name="Pooled">Pooler's output [rows, d]; null where the model has none.</param>
/// <param name="Logits">Head's output: [rows, classes], or [rows, tokens, vocabulary]; null where the model has no head.</param>
/// <param name="Hidden">Where asked for: the embeddings, then every layer's output.</param>
public sealed record TextOutput(Tensor Last, Tensor? Pooled, Tensor? Logits, IReadOnlyList<Tensor> Hidden);
