using System.Text;

namespace LowRank.Formats;

/// <summary>Reads the one Python literal that a NumPy header holds: a dict of 'descr' (string), 'fortran_order' (bool) and 'shape' (tuple of whole numbers), then spaces and a line's end.</summary>
internal ref struct NpyLiteral(ReadOnlySpan<byte> text, Func<string, ModelFormatException> bad)
{
    private const int MostSizes = 256;      // more than any rank: a bound, the caller has the rule
    private readonly ReadOnlySpan<byte> text = text;
    private int at;

    public (string Descr, bool IsFortran, List<long> Shape) Read()
    {
        string? descr = null;
        bool? isFortran = null;
        List<long>? shape = null;
        Want('{');
        while (!Take('}'))
        {
            string key = String("a key");
            Want(':');
            switch (key)
            {
                case "descr" when descr is null: descr = Peek() is '[' or '(' ? throw Bad("has a structured descr, want one type of number: save each field as an array of its own") : String("descr"); break;
                case "fortran_order" when isFortran is null: isFortran = Boolean(); break;
                case "shape" when shape is null: shape = Tuple(); break;
                case "descr" or "fortran_order" or "shape": throw Bad($"has {key} twice, want it once");
                default: throw Bad($"has the key {ModelFormatException.Quote(key)}, want descr, fortran_order and shape alone");
            }
            if (!Take(','))
            {
                Want('}');
                break;
            }
        }
        if (text.Length - at < 1 || text[^1] != '\n' || text[at..^1].ContainsAnyExcept((byte)' '))
        {
            throw Bad($"has a header with more than spaces and a line's end behind the literal, at byte {at}");
        }
        return descr is null || isFortran is null || shape is null
            ? throw Bad($"has no {(descr is null ? "descr" : isFortran is null ? "fortran_order" : "shape")} in its header")
            : (descr, isFortran.Value, shape);
    }

    private List<long> Tuple()
    {
        var sizes = new List<long>();
        if (!Take('('))
        {
            throw Bad($"has a shape that begins with {Shown()}, want a tuple such as (2, 3)");
        }
        while (!Take(')'))
        {
            sizes.Add(Number());
            if (sizes.Count > MostSizes)
            {
                throw Bad($"has more than {MostSizes} sizes in its shape");
            }
            if (!Take(','))
            {
                Want(')');
                return sizes.Count == 1 ? throw Bad($"has a number in brackets as shape, want a tuple: ({sizes[0]},)") : sizes;
            }
        }
        return sizes;
    }

    private long Number()
    {
        Skip();
        long value = 0;
        int start = at;
        for (; at < text.Length && char.IsAsciiDigit((char)text[at]); at++)
        {
            int digit = text[at] - '0';
            if (value > (long.MaxValue - digit) / 10)
            {
                throw Bad("has a size of 2^63 or more in its shape");
            }
            value = (value * 10) + digit;
        }
        if (at == start)
        {
            throw Bad($"has a shape with {Shown()} in it, want whole numbers from 0");
        }
        if (at < text.Length && text[at] == 'L')
        {
            at++;       // Python 2 wrote its long numbers so
        }
        return value;
    }

    private bool Boolean()
    {
        Skip();
        ReadOnlySpan<byte> rest = text[at..];
        bool value = rest.StartsWith("True"u8);
        if (!value && !rest.StartsWith("False"u8))
        {
            throw Bad($"has fortran_order {Shown()}, want True or False");
        }
        at += value ? 4 : 5;
        return value;
    }

    private string String(string what)
    {
        int quote = Peek();
        int length = quote is '\'' or '"' ? text[(at + 1)..].IndexOf((byte)quote) : -1;
        if (length < 0 || text.Slice(at + 1, length).Contains((byte)'\\'))
        {
            throw Bad($"has {Shown()} in its header, want {what} in quotes");
        }
        string value = Encoding.Latin1.GetString(text.Slice(at + 1, length));
        at += length + 2;
        return value;
    }

    private void Want(char token)
    {
        if (!Take(token))
        {
            throw Bad($"has {Shown()} at byte {at} of its header, want '{token}'");
        }
    }

    private bool Take(char token)
    {
        bool found = Peek() == token;
        at += found ? 1 : 0;
        return found;
    }

    /// <summary>The next byte that is no space, or -1.</summary>
    private int Peek()
    {
        Skip();
        return at < text.Length ? text[at] : -1;
    }

    private void Skip()
    {
        while (at < text.Length && text[at] is (byte)' ' or (byte)'\n')
        {
            at++;
        }
    }

    private readonly string Shown() => at >= text.Length ? "the end" : ModelFormatException.Quote(Encoding.Latin1.GetString(text.Slice(at, Math.Min(12, text.Length - at))));

    private readonly ModelFormatException Bad(string found) => bad(found);
}
