using System.Runtime.InteropServices;

namespace LowRank;

/// <summary>Plans of the cosine transforms: dct.cu. A block owns two lines, in shared memory where they fit, else in workspace.</summary>
internal static class CudaDctPlans
{
    private const string File = "dct.cu";
    private const int Threads = 256, Complex = 2 * sizeof(float), MostShared = 96 << 10;

    public static bool Dct2(CudaStream on, in Dct2Args a)
    {
        if (a.Rows == 0 || a.Cols == 0)
        {
            return true;
        }
        (long across, long down) = (Blocks(on, a.Rows), Blocks(on, a.Cols));
        var room = new Room(on, (4L * (a.Rows + a.Cols) * sizeof(float)) + ((long)a.Rows * a.Cols * sizeof(float)) + Work(across, 2L * a.Cols) + Work(down, 2L * a.Rows));
        nint rows = Table(on, ref room, a.Rows), cols = Table(on, ref room, a.Cols), between = room.Take((long)a.Rows * a.Cols * sizeof(float));
        on.Run(File, "dct_rows", a.DType, (across, 1, 1), Threads, Shared(2L * a.Cols), new DctRowsArgs
        {
            X = a.X,
            Y = between,
            Table = cols,
            Work = room.Take(Work(across, 2L * a.Cols)),
            XRow = a.Cols,
            XStep = 1,
            YRow = a.Cols,
            YStep = 1,
            Rows = a.Rows,
            N = a.Cols,
            Inverse = a.Inverse,
            XType = a.DType,
            YType = DType.F32,
            Scale = (float)a.Scale,
        });
        return on.Run(File, "dct_rows", a.DType, (down, 1, 1), Threads, Shared(2L * a.Rows), new DctRowsArgs
        {
            X = between,
            Y = a.Y,
            Table = rows,
            Work = room.Take(Work(down, 2L * a.Rows)),
            XRow = 1,
            XStep = a.Cols,
            YRow = 1,
            YStep = a.Cols,
            Rows = a.Cols,
            N = a.Rows,
            Inverse = a.Inverse,
            XType = DType.F32,
            YType = a.DType,
            Scale = 1,
            Add = a.Add,
        });
    }

    public static bool SparseDct(CudaStream on, in SparseDctArgs a)
    {
        if (a.DType != DType.F32)
        {
            return false;
        }
        long blocks = Blocks(on, a.Rows), ints = sizeof(int);
        var room = new Room(on, (4L * (a.Rows + a.Cols) * ints) + (5L * a.Count * ints) + ((a.Cols + 1) * ints) + Work(blocks, 2L * a.Cols));
        var places = new DctPlacesArgs { A = a.A, U = a.U, Loc = a.Loc, Places = room.Take(2 * a.Count * ints), Values = room.Take(a.Count * ints), Order = room.Take(a.Count * ints), Start = room.Take((a.Cols + 1) * ints), Rows = a.Rows, Cols = a.Cols, Count = a.Count };
        var planned = new PlannedDct<SparseDctArgs> { Op = a, Rows = Table(on, ref room, a.Rows), Cols = Table(on, ref room, a.Cols), Places = places.Places, Order = places.Order, Start = places.Start, Values = places.Values, Work = room.Take(Work(blocks, 2L * a.Cols)) };
        on.Run(File, "dct_places", a.DType, (Each(on, a.Count), 1, 1), Threads, 0, in places);
        on.Run(File, "dct_order", a.DType, (Each(on, a.Count + a.Cols + 1L), 1, 1), Threads, 0, in places);
        return on.Run(File, "sparse_dct_rows", a.DType, (blocks, 1, 1), Threads, Shared(2L * a.Cols), in planned);
    }

    public static bool SparseDctGrad(CudaStream on, in SparseDctGradArgs a)
    {
        long blocks = Math.Max(1, Blocks(on, a.Tokens)), most = 3L * Math.Max(a.Rows, a.Cols);
        int cells = a.Du != 0 ? 5 : 1;
        var room = new Room(on, (4L * (a.Rows + a.Cols) * sizeof(float)) + (2L * a.Count * sizeof(int)) + (blocks * cells * a.Count * sizeof(float)) + Work(blocks, most));
        var places = new DctPlacesArgs { A = a.A, U = a.U, Loc = a.Loc, Places = room.Take(2L * a.Count * sizeof(int)), Rows = a.Rows, Cols = a.Cols, Count = a.Count };
        var planned = new PlannedDct<SparseDctGradArgs> { Op = a, Rows = Table(on, ref room, a.Rows), Cols = Table(on, ref room, a.Cols), Places = places.Places, Parts = room.Take(blocks * cells * a.Count * sizeof(float)), Work = room.Take(Work(blocks, most)), Blocks = (int)blocks, Cells = cells };
        on.Run(File, "dct_places", DType.F32, (Each(on, a.Count), 1, 1), Threads, 0, in places);
        on.Run(File, "sparse_dct_samples", a.DType, (blocks, 1, 1), Threads, Shared(most), in planned);
        return on.Run(File, "sparse_dct_end", DType.F32, (Each(on, a.Count), 1, 1), Threads, 0, in planned);
    }

    private static nint Table(CudaStream on, ref Room room, int n)
    {
        nint table = room.Take(4L * n * sizeof(float));
        on.Run(File, "dct_table", DType.F32, (Each(on, 4L * n), 1, 1), Threads, 0, new DctTableArgs { Table = table, Order = 4L * n });
        return table;
    }

    // Two lines a block; no more blocks than fill the device, so that what they keep in workspace stays small.
    private static long Blocks(CudaStream on, int lines) => Math.Min((lines + 1L) / 2, 4L * on.Multiprocessors);

    private static long Each(CudaStream on, long count) => Math.Min((count + Threads - 1) / Threads, 32L * on.Multiprocessors);

    private static int Shared(long numbers) => numbers * Complex <= MostShared ? (int)numbers * Complex : 0;

    private static long Work(long blocks, long numbers) => Shared(numbers) > 0 ? 0 : blocks * numbers * Complex;

    /// <summary>Workspace that is asked for once and handed out in pieces.</summary>
    private ref struct Room(CudaStream on, long bytes)
    {
        private const int Align = 256, MostPieces = 12;
        private nint at = on.Workspace(bytes + (MostPieces * Align));

        /// <summary>The next piece; 0 for one of no bytes.</summary>
        public nint Take(long bytes)
        {
            nint piece = bytes == 0 ? 0 : at;
            at += (nint)((bytes + Align - 1) / Align * Align);
            return piece;
        }
    }
}

/// <summary>table[j] = cos(2πj/Order).</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DctTableArgs
{
    public nint Table;
    public long Order;
}

/// <summary>Lines of a matrix under transform.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DctRowsArgs
{
    public nint X, Y, Table, Work;
    public long XRow, XStep, YRow, YStep;
    public int Rows, N, Inverse;
    public DType XType, YType;
    public float Scale;
    public uint Add;
}

/// <summary>Where coefficients stand.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct DctPlacesArgs
{
    public nint A, U, Loc, Places, Values, Order, Start;
    public int Rows, Cols, Count, Reserved;
}

/// <summary>An op on coefficients with what the plan made.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct PlannedDct<TArgs> where TArgs : unmanaged
{
    public TArgs Op;
    public nint Rows, Cols, Places, Order, Start, Values, Parts, Work;
    public int Blocks, Cells;
}
