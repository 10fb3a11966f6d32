namespace LowRank.Models.Tokenizers;

/// <summary>The post_processor of tokenizer.json: trims offsets and sets special tokens around one text or two.</summary>
internal sealed class PostProcessor
{
    private readonly List<Action<List<Token>>> trims = [];
    private Part[]? single, pair;

    public PostProcessor(JsonPart part) => Read(part);

    /// <summary>A stretch of a template: a text (0, 1) or special tokens.</summary>
    private sealed record Part(int? Sequence, Token[] Special, int Type);

    /// <summary>Special tokens that it adds.</summary>
    public int Added(bool hasPair) => ((hasPair ? pair : single) ?? []).Sum(p => p.Special.Length);

    /// <summary>Trims the offsets of a text's tokens, before anything is cut off.</summary>
    public void Trim(List<Token> tokens) => trims.ForEach(trim => trim(tokens));

    /// <summary>The texts with what the template sets around them; without special tokens only their types are the template's.</summary>
    public List<Token> Join(IReadOnlyList<Token> first, IReadOnlyList<Token>? second, bool special)
    {
        Part[] template = (second is null ? single : pair) ?? (second is null ? [new(0, [], 0)] : [new(0, [], 0), new(1, [], 1)]);
        List<Token> all = [];
        foreach (Part part in template)
        {
            if (part.Sequence is { } sequence)
            {
                all.AddRange((sequence == 0 ? first : second!).Select(t => t with { Type = part.Type, Sequence = sequence }));
            }
            else if (special)
            {
                all.AddRange(part.Special);
            }
        }
        return all;
    }

    private void Read(JsonPart part)
    {
        if (part.IsNull)
        {
            return;
        }
        switch (part.Type)
        {
            case "Sequence":
                foreach (JsonPart item in part.At("processors").Items())
                {
                    Read(item);
                }
                break;
            case "ByteLevel":
                if (part.Flag("trim_offsets", true))
                {
                    bool prefix = part.Flag("add_prefix_space", true);
                    trims.Add(tokens => TrimSpaces(tokens, prefix));
                }
                break;
            case "TemplateProcessing":
                JsonPart specials = part.At("special_tokens");
                single = Template(part.At("single"), specials);
                pair = Template(part.At("pair"), specials);
                break;
            case "BertProcessing":
                (Token sep, Token cls) = (Pair(part.At("sep")), Pair(part.At("cls")));
                single = [Special(cls, 0), new(0, [], 0), Special(sep, 0)];
                pair = [.. single, new(1, [], 1), Special(sep, 1)];
                break;
            case "RobertaProcessing":
                (Token end, Token start) = (Pair(part.At("sep")), Pair(part.At("cls")));
                single = [Special(start, 0), new(0, [], 0), Special(end, 0)];
                pair = [.. single, Special(end, 0), new(1, [], 0), Special(end, 0)];
                if (part.Flag("trim_offsets", true))
                {
                    bool prefix = part.Flag("add_prefix_space", true);
                    trims.Add(tokens => TrimSpaces(tokens, prefix));
                }
                break;
            default:
                throw part.UnknownType("Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing");
        }
    }

    private static Part Special(Token token, int type) => new(null, [token with { Type = type }], type);

    private static Token Pair(JsonPart part)
    {
        JsonPart[] items = [.. part.Items()];
        return items.Length == 2 ? Added(items[0].Text(), items[1].Number(), 0) : throw part.Wrong("a token and its id");
    }

    private static Token Added(string text, int id, int type) => new(id, text, 0, 0, null, type, IsAdded: true);

    private static Part[] Template(JsonPart part, JsonPart specials) =>
    [
        .. part.Items().Select(item =>
        {
            if (item.At("Sequence") is { IsNull: false } sequence)
            {
                return new Part(sequence.Text("id") == "B" ? 1 : 0, [], sequence.Number("type_id", 0));
            }
            JsonPart token = item.At("SpecialToken"), known = specials.At(token.Text("id"));
            int type = token.Number("type_id", 0);
            int[] ids = [.. known.At("ids").Items().Select(i => i.Number())];
            string[] texts = [.. known.At("tokens").Items().Select(i => i.Text())];
            return ids.Length == texts.Length ? new Part(null, [.. ids.Zip(texts, (id, text) => Added(text, id, type))], type) : throw known.Wrong("as many ids as tokens");
        }),
    ];

    /// <summary>Spaces at the ends of a token are no part of its place in the text.</summary>
    private static void TrimSpaces(List<Token> tokens, bool prefix)
    {
        int space = PreTokenizer.LetterOf((byte)' ');
        bool IsSpace(char c) => c == space || char.IsWhiteSpace(c);
        for (int i = 0; i < tokens.Count; i++)
        {
            Token token = tokens[i];
            string text = token.Text;
            int leading = 0, trailing = 0;
            while (leading < text.Length && IsSpace(text[leading]))
            {
                leading++;
            }
            while (trailing < text.Length && IsSpace(text[^(trailing + 1)]))
            {
                trailing++;
            }
            if (leading > 0)
            {
                // A single one at the beginning was put there: it has no place in the text.
                leading = (i == 0 || token.Start == 0) && prefix && leading == 1 ? 0 : leading;
                token = token with { Start = Math.Min(token.Start + leading, token.End) };
            }
            if (trailing > 0 && token.End >= trailing)
            {
                token = token with { End = Math.Max(token.End - trailing, token.Start) };
            }
            tokens[i] = token;
        }
    }
}
