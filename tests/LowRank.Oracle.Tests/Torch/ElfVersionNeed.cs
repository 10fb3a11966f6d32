using System.Buffers.Binary;
using System.Text;

namespace LowRank.Oracle;

/// <summary>Takes one symbol version off what an x86-64 ELF library needs, so that an older system library will do. Layout: the ELF gABI, chapter 4,
/// and the symbol versioning of the Linux Standard Base.</summary>
internal static class ElfVersionNeed
{
    private const uint VersionNeed = 0x6ffffffe, VersionSymbols = 0x6fffffff, DynamicSymbols = 11;
    private const int SymbolBytes = 24, WeakVersion = 2, GlobalVersion = 1;

    /// <summary>Makes <paramref name="version"/> a weak need, and lets every symbol that asked for it name <paramref name="standIn"/> of any version.</summary>
    /// <param name="elf">The library's bytes, changed in place.</param>
    /// <param name="version">For example <c>GLIBCXX_3.4.32</c>.</param>
    /// <param name="standIn">A function of the C library that may be called without arguments and without effect; shorter than the names it replaces.</param>
    /// <returns>True where something was changed.</returns>
    public static bool Drop(Span<byte> elf, string version, string standIn)
    {
        int names = 0, needs = 0, versions = 0, count = 0, symbols = 0;
        for (int i = 0; i < U16(elf, 60); i++)
        {
            int header = checked((int)(U64(elf, 40) + ((ulong)i * U16(elf, 58))));
            int offset = checked((int)U64(elf, header + 24));
            switch (U32(elf, header + 4))
            {
                case VersionNeed:
                    needs = offset;
                    break;
                case VersionSymbols:
                    (versions, count) = (offset, checked((int)U64(elf, header + 32) / 2));
                    break;
                case DynamicSymbols:
                    int strings = checked((int)(U64(elf, 40) + ((ulong)U32(elf, header + 40) * U16(elf, 58))));
                    (symbols, names) = (offset, checked((int)U64(elf, strings + 24)));
                    break;
            }
        }
        if (needs == 0 || versions == 0 || symbols == 0 || Weaken(elf, needs, names, version) is not { } index)
        {
            return false;
        }
        bool changed = false;
        for (int i = 0; i < count; i++)
        {
            if (U16(elf, versions + (2 * i)) == index)
            {
                BinaryPrimitives.WriteUInt16LittleEndian(elf[(versions + (2 * i))..], GlobalVersion);
                Encoding.ASCII.GetBytes(standIn + '\0').CopyTo(elf[(names + (int)U32(elf, symbols + (SymbolBytes * i)))..]);
                changed = true;
            }
        }
        return changed;
    }

    /// <summary>Index of the version, made weak; null where the library does not need it.</summary>
    private static ushort? Weaken(Span<byte> elf, int need, int names, string version)
    {
        while (true)
        {
            int entry = need + (int)U32(elf, need + 8);
            for (int i = 0; i < U16(elf, need + 2); i++)
            {
                if (Text(elf, names + (int)U32(elf, entry + 8)) == version)
                {
                    BinaryPrimitives.WriteUInt16LittleEndian(elf[(entry + 4)..], WeakVersion);
                    return U16(elf, entry + 6);
                }
                entry += (int)U32(elf, entry + 12);
            }
            if (U32(elf, need + 12) is not (> 0 and var next))
            {
                return null;
            }
            need += (int)next;
        }
    }

    private static string Text(ReadOnlySpan<byte> elf, int at) => Encoding.ASCII.GetString(elf.Slice(at, elf[at..].IndexOf((byte)0)));

    private static ushort U16(ReadOnlySpan<byte> elf, int at) => BinaryPrimitives.ReadUInt16LittleEndian(elf[at..]);

    private static uint U32(ReadOnlySpan<byte> elf, int at) => BinaryPrimitives.ReadUInt32LittleEndian(elf[at..]);

    private static ulong U64(ReadOnlySpan<byte> elf, int at) => BinaryPrimitives.ReadUInt64LittleEndian(elf[at..]);
}
