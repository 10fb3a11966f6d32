using LowRank.Testing;

namespace LowRank.Models.Tests;

/// <summary>What CLIP computes for a golden case: both towers and their comparison, or one tower.</summary>
internal static class ClipGolden
{
    public static Dictionary<string, Tensor> Results(GoldenCase c, Clip model, Scope scope, DType type)
    {
        ClipFeatures? texts = c.Has("in.input_ids") ? model.Texts(TextGolden.Batch(c, "in."), keepHidden: true) : null;
        ClipFeatures? images = c.Has("in.pixel_values") ? model.Images(c.Load("in.pixel_values", scope, type), keepHidden: true) : null;
        var results = new Dictionary<string, Tensor>();
        if (texts is null || images is null)
        {
            ClipFeatures one = (texts ?? images)!;
            results.Add("last_hidden_state", one.Last);
            results.Add("pooler_output", one.Pooled);
            for (int i = 0; i < one.Hidden.Count; i++)
            {
                results.Add($"hidden.{i}", one.Hidden[i]);
            }
            if (one.Projected is { } projected)
            {
                results.Add(texts is null ? "image_embeds" : "text_embeds", projected);
            }
            return results;
        }
        foreach ((string name, ClipFeatures tower) in (ReadOnlySpan<(string, ClipFeatures)>)[("text", texts), ("vision", images)])
        {
            results.Add($"{name}.last_hidden_state", tower.Last);
            results.Add($"{name}.pooler_output", tower.Projected!);      // as transformers names it
        }
        Tensor text = model.Unit(texts.Projected!), image = model.Unit(images.Projected!), similarities = model.Similarity(text, image);
        results.Add("text_embeds", text);
        results.Add("image_embeds", image);
        results.Add("logits_per_text", similarities);
        results.Add("logits_per_image", new Transpose().Apply(similarities.Reshape([1, similarities.Shape[0], similarities.Shape[1]])).Reshape([similarities.Shape[1], similarities.Shape[0]]));
        results.Add("loss", model.Loss(similarities));
        return results;
    }
}
