using System.Text.Json;
using System.Text.Json.Serialization;

namespace LowRank.Adapters;

/// <summary>Tokens whose embeddings are trained beside an adapter, as PEFT writes them: ids for the first embedding of the model, or ids by the name of one.</summary>
[JsonConverter(typeof(TokenIndicesConverter))]
public sealed class TokenIndices
{
    private TokenIndices(IReadOnlyList<int>? tokens, IReadOnlyDictionary<string, IReadOnlyList<int>> byName) => (Tokens, ByName) = (tokens, byName);

    /// <summary>Ids for the first embedding; null where they are given by name.</summary>
    public IReadOnlyList<int>? Tokens { get; }

    /// <summary>Ids by the name of an embedding: exact, or the end of a path after a dot.</summary>
    public IReadOnlyDictionary<string, IReadOnlyList<int>> ByName { get; }

    /// <summary>Ids for the first embedding of the model.</summary>
    public static TokenIndices Of(params ReadOnlySpan<int> tokens) => new(tokens.ToArray(), new Dictionary<string, IReadOnlyList<int>>());

    /// <summary>Ids by the names of embeddings.</summary>
    public static TokenIndices Of(IReadOnlyDictionary<string, IReadOnlyList<int>> byName) => new(null, byName);

    /// <exception cref="AdapterConfigException">Ids are missing, negative or doubled.</exception>
    internal void Require(AdapterConfig config, string setting)
    {
        foreach ((string name, IReadOnlyList<int> tokens) in Entries)
        {
            TokenRows.Require(config, Label(setting, name), tokens);
        }
    }

    /// <summary>The adapters of the named embeddings and of the layers tied to them.</summary>
    /// <exception cref="AdapterConfigException">A name is that of no embedding, or of one of those adapted, or an id lies outside the vocabulary.</exception>
    internal IEnumerable<Adapter> Adapters(AdapterConfig config, string setting, Model model, IReadOnlyList<Site> adapted, Rng rng, Scope store)
    {
        Site[] embeddings = [.. model.Sites.Where(s => s.Kind == SiteKind.Embedding)];
        foreach ((string name, IReadOnlyList<int> tokens) in Entries)
        {
            Site site = embeddings.FirstOrDefault(s => name.Length == 0 || TargetRules.Paths(s).Any(path => TargetRules.Named([name], path)))
                ?? throw Bad(config, setting, name, $"an embedding; this model has {string.Join(", ", embeddings.Select(s => s.Path))}");
            if (adapted.Contains(site))
            {
                throw Bad(config, setting, site.Path, "an embedding that target_modules leaves alone");
            }
            foreach (Adapter adapter in TrainableTokens.WithTied(TokenRows.Of(config, Label(setting, name), tokens, site, "token_adapter." + TokenRows.Key), model, site, rng.Fork(site.Path), store))
            {
                yield return adapter;
            }
        }
    }

    private IEnumerable<KeyValuePair<string, IReadOnlyList<int>>> Entries => Tokens is null ? ByName : [new("", Tokens)];

    private static string Label(string setting, string name) => name.Length == 0 ? setting : $"{setting} {name}";

    private static AdapterConfigException Bad(AdapterConfig config, string setting, string name, string want) => new($"{config.GetType().Name}: {setting} names {name}, want {want}");
}

internal sealed class TokenIndicesConverter : JsonConverter<TokenIndices>
{
    public override TokenIndices? Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options)
    {
        if (reader.TokenType != JsonTokenType.StartObject)
        {
            return TokenIndices.Of([.. Ids(ref reader)]);
        }
        var byName = new OrderedDictionary<string, IReadOnlyList<int>>(StringComparer.Ordinal);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            reader.Read();
            byName[name] = Ids(ref reader);
        }
        return TokenIndices.Of(byName);
    }

    public override void Write(Utf8JsonWriter writer, TokenIndices value, JsonSerializerOptions options)
    {
        if (value.Tokens is { } tokens)
        {
            Write(writer, tokens);
            return;
        }
        writer.WriteStartObject();
        foreach ((string name, IReadOnlyList<int> ids) in value.ByName)
        {
            writer.WritePropertyName(name);
            Write(writer, ids);
        }
        writer.WriteEndObject();
    }

    private static List<int> Ids(ref Utf8JsonReader reader)
    {
        List<int> ids = [];
        Json.ReadList(ref reader, (ref Utf8JsonReader r) => ids.Add(r.TokenType == JsonTokenType.Number && r.TryGetInt32(out int id) ? id : throw new JsonException("want a list of token ids")));
        return ids;
    }

    private static void Write(Utf8JsonWriter writer, IReadOnlyList<int> ids)
    {
        writer.WriteStartArray();
        foreach (int id in ids)
        {
            writer.WriteNumberValue(id);
        }
        writer.WriteEndArray();
    }
}
