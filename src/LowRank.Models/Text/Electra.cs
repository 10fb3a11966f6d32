namespace LowRank.Models;

/// <summary>ELECTRA (arXiv 2003.10555): BERT whose embeddings may be narrower than its layers, without a pooler, with a head of its own. The heads of its
/// pre-training, generator and discriminator, are not built.</summary>
public sealed class Electra : Bert
{
    internal Electra(ModelConfig config, Device device, LoadOptions options, Blocks.WeightSource source)
        : base(config, device, options, source)
    {
    }

    private protected override string ClassPrefix => "Electra";

    private protected override string Prefix => "electra";

    private protected override bool HasPooler => false;

    private protected override Op HeadActivation => new Gelu();

    private protected override int EmbeddingWidth(ModelConfig config, int d) => Head != TextHead.MaskedLanguage ? config.Count("embedding_size", d)
        : throw config.Wrong("architectures", config.Architecture, "ElectraModel or ElectraForSequenceClassification");
}
