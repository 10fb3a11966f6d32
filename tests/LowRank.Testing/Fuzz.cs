using System.Text;
using LowRank.Formats;
using Xunit;

namespace LowRank.Testing;

/// <summary>What a run of <see cref="Fuzz"/> met.</summary>
/// <param name="Files">How many were read.</param>
/// <param name="Accepted">How many of them opened.</param>
/// <param name="Refusals">How many kinds of refusal there were: messages without their names and numbers.</param>
/// <param name="MostBytes">The most that one file made the reader allocate.</param>
public sealed record FuzzReport(int Files, int Accepted, int Refusals, long MostBytes);

/// <summary>Bounded mutation fuzz of a reader: it may refuse with <see cref="ModelFormatException"/>, must not fail otherwise, and must not allocate beyond the size class of the file.</summary>
public static class Fuzz
{
    private const long FreeBytes = 1 << 17;     // messages, a stack trace, tables of a reader
    private const int MostMessage = 1500;       // characters, whatever the file holds
    private static readonly ulong[] Edges = [0, 1, 2, 7, 8, 127, 128, 255, 256, 65535, 65536, int.MaxValue, 1UL << 31, uint.MaxValue, 1UL << 32, 100_000_000, 100_000_001, 1UL << 53, long.MaxValue, 1UL << 63, ulong.MaxValue];

    /// <summary>Reads files made from one seed. A failure names the number of the file, which with the seed makes it again.</summary>
    /// <param name="seed">Printed in every message.</param>
    /// <param name="files">How many.</param>
    /// <param name="make">A file, from its own random numbers.</param>
    /// <param name="read">Reads all of it.</param>
    /// <param name="factor">The most bytes allocated for each byte of the file.</param>
    public static FuzzReport Run(int seed, int files, Func<Random, byte[]> make, Action<byte[]> read, long factor)
    {
        int accepted = 0;
        long most = 0;
        var refusals = new HashSet<string>(StringComparer.Ordinal);
        for (int i = 0; i < files; i++)
        {
            byte[] file = make(new Random(unchecked((seed * 1_000_003) + i)));
            long before = GC.GetAllocatedBytesForCurrentThread();
            Exception? error = Record.Exception(() => read(file));
            long bytes = GC.GetAllocatedBytesForCurrentThread() - before;
            most = Math.Max(most, bytes);
            Assert.True(error is null or ModelFormatException, $"seed {seed}, file {i}: {error}");
            Assert.True(bytes <= FreeBytes + (factor * file.Length), $"seed {seed}, file {i}: {bytes} bytes allocated for a file of {file.Length} ({error?.Message})");
            accepted += error is null ? 1 : 0;
            if (error is not null)
            {
                Assert.True(error.Message.Length is > 20 and < MostMessage, $"seed {seed}, file {i}: a message of {error.Message.Length} characters: {error.Message}");
                refusals.Add(Kind(error.Message));
            }
        }
        return new(files, accepted, refusals.Count, most);
    }

    /// <summary>A few changes without regard to structure: bits, runs cut out, doubled or filled, edges of whole numbers, the end.</summary>
    public static byte[] Damage(byte[] file, Random random)
    {
        List<byte> bytes = [.. file];
        for (int n = random.Next(1, 4); n > 0 && bytes.Count > 0; n--)
        {
            int at = random.Next(bytes.Count), length = Math.Min(random.Next(1, 17), bytes.Count - at);
            switch (random.Next(7))
            {
                case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: bytes[at] = (byte)random.Next(256); break;
                case 2: bytes.RemoveRange(at, length); break;
                case 3: bytes.InsertRange(at, bytes.GetRange(at, length)); break;
                case 4: bytes.RemoveRange(at, bytes.Count - at); break;
                case 5: Overwrite(bytes, at, BitConverter.GetBytes(Pick(Edges, random)).AsSpan(0, random.Next(2) == 0 ? 4 : 8)); break;
                default: bytes.InsertRange(at, Enumerable.Repeat((byte)random.Next(256), length)); break;
            }
        }
        return [.. bytes];
    }

    /// <summary>One of a list.</summary>
    public static T Pick<T>(IReadOnlyList<T> list, Random random) => list[random.Next(list.Count)];

    private static void Overwrite(List<byte> bytes, int at, ReadOnlySpan<byte> with)
    {
        for (int i = 0; i < with.Length && at + i < bytes.Count; i++)
        {
            bytes[at + i] = with[i];
        }
    }

    // Names between quotes and digits go, so that one rule counts once.
    private static string Kind(string message)
    {
        var kind = new StringBuilder();
        bool quoted = false;
        foreach (char c in message)
        {
            quoted ^= c == '\'';
            if (!quoted && char.IsAsciiLetter(c))
            {
                kind.Append(c);
            }
        }
        return kind.ToString();
    }
}
