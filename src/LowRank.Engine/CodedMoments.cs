namespace LowRank;

/// <summary>The moments of Adam in 8 bits (arXiv 2110.02861): of a parameter with at least <c>least</c> elements each moment is a byte an element and a
/// largest magnitude for every 256 of them, in row-major order; of smaller ones it is kept as it is.</summary>
/// <param name="pack">Whose states hold them.</param>
internal sealed class CodedMoments(ParameterPack pack)
{
    /// <summary>Elements that share a largest magnitude.</summary>
    public const int Block = 256;

    private const string First = "exp_avg", Second = "exp_avg_sq", Codes = "_codes", Most = "_max";
    private readonly Tensor book1 = Book(pack, Codebook.Signed8), book2 = Book(pack, Codebook.Unsigned8);

    /// <summary>Shape of a state where the moments are [shape]; null where there is no such state.</summary>
    public static Shape? ShapeOf(string state, Shape shape, long least) => state switch
    {
        First or Second => shape.Count < least ? shape : null,
        First + Codes or Second + Codes => shape.Count < least ? null : shape,
        First + Most or Second + Most => shape.Count < least ? null : [checked((int)((shape.Count + Block - 1) / Block))],
        _ => null,
    };

    /// <summary>Bytes for codes; the parameters' type for the rest.</summary>
    public static DType? TypeOf(string state) => state is First + Codes or Second + Codes ? DType.U8 : null;

    /// <summary>Where parameter <paramref name="i"/>'s moments begin: codes and their largest magnitudes, or floats and -1.</summary>
    public (long State, long Blocks) PlaceOf(int i) => pack.StateShape(First, pack.Parameters[i]) is null
        ? (pack.StateStart(First + Codes, i), pack.StateStart(First + Most, i))
        : (pack.StateStart(First, i), -1);

    /// <summary>One step of the segments; the caller fills in what is not of the moments.</summary>
    public void Launch(Adam8BitArgs args, StepTable<Segment> segments, StepTable<long> blocks, IReadOnlyList<(Segment Segment, long Blocks)> rows)
    {
        if (rows.Count == 0)
        {
            return;
        }
        (args.M, args.V) = (Data(First), Data(Second));
        (args.Codes1, args.Codes2) = (Data(First + Codes), Data(Second + Codes));
        (args.Max1, args.Max2) = (Data(First + Most), Data(Second + Most));
        (args.Book1, args.Book2) = (book1.Data, book2.Data);
        args.Segments = segments.Of([.. rows.Select(r => r.Segment)]);
        args.Blocks = blocks.Of([.. rows.Select(r => r.Blocks)]);
        args.SegmentCount = rows.Count;
        args.DType = pack.Values.DType;
        pack.Values.Device.Launch(Kernels.Adam8Bit, args);
    }

    private nint Data(string state) => pack.Parameters.Any(p => pack.StateShape(state, p) is not null) ? pack.State(state).Data : 0;

    private static Tensor Book(ParameterPack pack, Codebook book)
    {
        byte[] bytes = book.ToBook();
        return pack.Store.Of([bytes.Length], bytes);
    }
}
