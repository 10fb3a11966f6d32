using LowRank.Adapters;

namespace LowRank.Models;

/// <summary>Texts for many askers at once.</summary>
public static class TextServing
{
    /// <summary>A server of one text model: token ids → logits, or without a head the pooled output or the last hidden state, row-major. Texts of one length
    /// run together: without padding a text's bits cannot depend on its neighbours.</summary>
    /// <param name="model">Not to be used by others until the server is disposed.</param>
    /// <param name="adapters">On that model.</param>
    /// <param name="options">Bounds.</param>
    public static AdapterServer<int[], float[]> Serve(this TextModel model, NamedAdapters adapters, ServerOptions? options = null) => new(
        adapters,
        texts =>
        {
            TextOutput y = model.Forward(new TextBatch(texts.Count, [.. texts.SelectMany(ids => ids)]));
            float[] all = (y.Logits ?? y.Pooled ?? y.Last).ToArray();
            return all.Chunk(all.Length / texts.Count).ToArray();
        },
        ids => ids.Length,
        options);
}
