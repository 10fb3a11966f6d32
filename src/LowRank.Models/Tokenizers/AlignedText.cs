using System.Runtime.InteropServices;

namespace LowRank.Models.Tokenizers;

/// <summary>A code point of a text under way, and the code points [Start, End) of the original that it stands for.</summary>
internal readonly record struct Letter(int Rune, int Start, int End)
{
    public Letter With(int rune) => new(rune, Start, End);
}

/// <summary>A stretch of text that is cut apart and rewritten on its way to tokens; every letter keeps its place in the original.</summary>
internal sealed class AlignedText
{
    private List<Letter> letters;

    private AlignedText(List<Letter> letters) => this.letters = letters;

    /// <summary>A text as it came; unpaired surrogates become U+FFFD.</summary>
    public static AlignedText Of(string text)
    {
        var letters = new List<Letter>(text.Length);
        foreach (System.Text.Rune rune in text.EnumerateRunes())
        {
            letters.Add(new(rune.Value, letters.Count, letters.Count + 1));
        }
        return new(letters);
    }

    public int Count => letters.Count;

    public Letter this[int i] => letters[i];

    /// <summary>Letters [start, end) as a text of its own.</summary>
    public AlignedText Slice(int start, int end) => new(letters.GetRange(start, end - start));

    public override string ToString() => Text(0, Count);

    /// <summary>The characters of letters [start, end).</summary>
    public string Text(int start, int end)
    {
        int units = end - start;
        foreach (Letter letter in CollectionsMarshal.AsSpan(letters)[start..end])
        {
            units += letter.Rune > char.MaxValue ? 1 : 0;
        }
        return string.Create(units, (letters, start, end), static (to, of) =>
        {
            foreach (Letter letter in CollectionsMarshal.AsSpan(of.letters)[of.start..of.end])
            {
                if (letter.Rune <= char.MaxValue)
                {
                    to[0] = (char)letter.Rune;
                    to = to[1..];
                }
                else
                {
                    to = to[new System.Text.Rune(letter.Rune).EncodeToUtf16(to)..];
                }
            }
        });
    }

    /// <summary>Puts other code points in the place of each letter: those that <paramref name="map"/> adds.</summary>
    public void Map(Action<int, List<int>> map)
    {
        var result = new List<Letter>(letters.Count);
        List<int> into = [];
        foreach (Letter letter in letters)
        {
            into.Clear();
            map(letter.Rune, into);
            foreach (int rune in into)
            {
                result.Add(letter.With(rune));
            }
        }
        letters = result;
    }

    /// <summary>Keeps some letters.</summary>
    public void Filter(Func<int, bool> keep) => letters.RemoveAll(l => !keep(l.Rune));

    /// <summary>Puts <paramref name="content"/> before the first letter, in whose place it stands.</summary>
    public void Prepend(string content)
    {
        if (letters.Count > 0)
        {
            letters.InsertRange(0, content.EnumerateRunes().Select(r => letters[0].With(r.Value)));
        }
    }

    /// <summary>Code points in the place of letters [start, end): letter i stands for old letter i, those past the last for the last.</summary>
    public IReadOnlyList<Letter> InPlace(int start, int end, IReadOnlyList<int> runes) => [.. runes.Select((rune, i) => letters[Math.Min(start + i, end - 1)].With(rune))];

    /// <summary>Puts other letters in the place of [start, end) of each range, ranges ascending.</summary>
    public void Rewrite(IEnumerable<(int Start, int End, IReadOnlyList<Letter> Letters)> ranges)
    {
        var result = new List<Letter>(letters.Count);
        int done = 0;
        foreach ((int start, int end, IReadOnlyList<Letter> replaced) in ranges)
        {
            result.AddRange(letters.GetRange(done, start - done));
            result.AddRange(replaced);
            done = end;
        }
        result.AddRange(letters.GetRange(done, letters.Count - done));
        letters = result;
    }

    /// <summary>Replaces each match [start, end) by <paramref name="content"/>, which stands for the match's last letter.</summary>
    public void Replace(IEnumerable<(int Start, int End)> matches, string content)
    {
        int[] runes = [.. content.EnumerateRunes().Select(r => r.Value)];
        var result = new List<Letter>(letters.Count);
        Span<Letter> all = CollectionsMarshal.AsSpan(letters);
        int done = 0;
        foreach ((int start, int end) in matches)
        {
            result.AddRange(all[done..start]);
            foreach (int rune in runes)
            {
                result.Add(all[end - 1].With(rune));
            }
            done = end;
        }
        result.AddRange(all[done..]);
        letters = result;
    }

    /// <summary>Letters, one unit of UTF-16 each, for patterns: those past U+FFFF as another of their category.</summary>
    public string ForPatterns(bool ignoreCase) => string.Create(letters.Count, (letters, ignoreCase), static (to, state) =>
    {
        for (int i = 0; i < to.Length; i++)
        {
            int rune = state.letters[i].Rune;
            to[i] = rune > 0xFFFF ? Unicode.StandIn(rune) : rune == 0x17F && state.ignoreCase ? 's' : (char)rune;
        }
    });
}
