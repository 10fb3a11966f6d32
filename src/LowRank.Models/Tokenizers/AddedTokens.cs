using System.Globalization;

namespace LowRank.Models.Tokenizers;

/// <summary>A token that is found in the text before anything else.</summary>
internal sealed record AddedToken(int Id, string Content, bool SingleWord, bool LeftStrip, bool RightStrip, bool Normalized, bool Special);

/// <summary>The added_tokens of tokenizer.json: cuts them out of a text.</summary>
internal sealed class AddedTokens
{
    private readonly AddedToken[] raw, normalized;

    public AddedTokens(JsonPart part, Action<AlignedText> normalizer)
    {
        All = part.IsNull ? [] : [.. part.Items().Select(t => new AddedToken(t.Number("id"), t.Text("content"), t.Flag("single_word"), t.Flag("lstrip"), t.Flag("rstrip"), t.Flag("normalized"), t.Flag("special")))];
        raw = [.. All.Where(t => !t.Normalized && t.Content.Length > 0)];
        normalized = [.. All.Where(t => t.Normalized && t.Content.Length > 0).Select(t =>
        {
            AlignedText content = AlignedText.Of(t.Content);
            normalizer(content);
            return t with { Content = content.ToString() };
        })];
    }

    public IReadOnlyList<AddedToken> All { get; }

    /// <summary>True where a token that only the normalised text shows may reach across a space.</summary>
    public bool HideAcrossSpaces => normalized.Any(ReachesAcrossSpaces);

    /// <summary>True where a text may hold a token that reaches across a space.</summary>
    public bool ReachAcrossSpaces(string text) => raw.Any(t => ReachesAcrossSpaces(t) && text.Contains(t.Content, StringComparison.Ordinal));

    /// <summary>A text as stretches: added tokens with their id, and what lies between, normalised.</summary>
    public List<(AlignedText Text, AddedToken? Token)> Cut(AlignedText text, Action<AlignedText> normalizer)
    {
        List<(AlignedText, AddedToken?)> stretches = [];
        foreach ((AlignedText stretch, AddedToken? token) in Find(text, raw))
        {
            if (token is not null)
            {
                stretches.Add((stretch, token));
                continue;
            }
            normalizer(stretch);
            stretches.AddRange(Find(stretch, normalized));
        }
        return stretches;
    }

    // The first token from the left; of those that begin at one place the longest.
    private static List<(AlignedText Text, AddedToken? Token)> Find(AlignedText text, AddedToken[] tokens)
    {
        if (tokens.Length == 0)
        {
            return text.Count > 0 ? [(text, null)] : [];
        }
        List<(AlignedText, AddedToken?)> found = [];
        string flat = text.ToString();
        var letterOf = new int[flat.Length + 1];
        for (int i = 0, letter = 0; i < flat.Length; i++)
        {
            letterOf[i] = letter;
            letter += char.IsHighSurrogate(flat[i]) ? 0 : 1;
            letterOf[i + 1] = letter;
        }
        int[] next = [.. tokens.Select(t => flat.IndexOf(t.Content, StringComparison.Ordinal))];     // where each comes next; -1: nowhere
        int done = 0;       // letters taken
        for (int at = 0; at < flat.Length;)
        {
            AddedToken? best = null;
            int first = -1;
            for (int i = 0; i < tokens.Length; i++)
            {
                next[i] = next[i] >= 0 && next[i] < at ? flat.IndexOf(tokens[i].Content, at, StringComparison.Ordinal) : next[i];
                if (next[i] >= 0 && (first < 0 || next[i] < first || (next[i] == first && tokens[i].Content.Length > best!.Content.Length)))
                {
                    (best, first) = (tokens[i], next[i]);
                }
            }
            if (best is null)
            {
                break;
            }
            int start = letterOf[first], end = letterOf[first + best.Content.Length];
            at = first + best.Content.Length;
            if (start < done || (best.SingleWord && ((start > 0 && IsWord(text[start - 1].Rune)) || (end < text.Count && IsWord(text[end].Rune)))))
            {
                continue;
            }
            while (best.LeftStrip && start > done && Unicode.IsWhiteSpace(text[start - 1].Rune))
            {
                start--;
            }
            while (best.RightStrip && end < text.Count && Unicode.IsWhiteSpace(text[end].Rune))
            {
                end++;
            }
            if (start > done)
            {
                found.Add((text.Slice(done, start), null));
            }
            found.Add((text.Slice(start, end), best));
            done = end;
        }
        if (done < text.Count)
        {
            found.Add((text.Slice(done, text.Count), null));
        }
        return found;
    }

    private static bool ReachesAcrossSpaces(AddedToken token) => token.LeftStrip || token.RightStrip || token.Content.Any(char.IsWhiteSpace);

    private static bool IsWord(int rune) => Unicode.Category(rune) is UnicodeCategory.UppercaseLetter or UnicodeCategory.LowercaseLetter or UnicodeCategory.TitlecaseLetter or UnicodeCategory.ModifierLetter or UnicodeCategory.OtherLetter
        or UnicodeCategory.NonSpacingMark or UnicodeCategory.SpacingCombiningMark or UnicodeCategory.EnclosingMark or UnicodeCategory.DecimalDigitNumber or UnicodeCategory.LetterNumber or UnicodeCategory.ConnectorPunctuation;
}
