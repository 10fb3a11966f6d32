using System.Text;

namespace LowRank.Models.Data;

/// <summary>A text of lines to learn the next byte from: a byte of Latin-1 is a token. Of every twenty stretches of 64 lines the last is held out.</summary>
public sealed class ByteText
{
    /// <summary>Of so many stretches of so many lines the last is held out.</summary>
    private const int Stretches = 20, Lines = 64;

    private readonly byte[] train;

    private ByteText(byte[] train, byte[] heldOut) => (this.train, HeldOut) = (train, heldOut);

    /// <summary>Bytes to measure with, in the order of the text.</summary>
    public ReadOnlyMemory<byte> HeldOut { get; }

    /// <summary>Reads a file.</summary>
    /// <param name="path">Lines of text.</param>
    /// <param name="tokens">Length of the windows that it must have at least one of.</param>
    /// <exception cref="ShapeException">It is too short for one.</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    public static ByteText Read(string path, int tokens)
    {
        string[] lines = File.ReadAllLines(path, Encoding.Latin1);
        byte[] Part(bool heldOut) => Encoding.Latin1.GetBytes(string.Concat(lines.Where((_, i) => i / Lines % Stretches == Stretches - 1 == heldOut).Select(l => l + '\n')));
        var text = new ByteText(Part(heldOut: false), Part(heldOut: true));
        return text.Windows(tokens) > 0 && text.HeldOut.Length > 1 ? text
            : throw new ShapeException($"ByteText: {path} has {text.train.Length} bytes to train on and {text.HeldOut.Length} held out, want at least {(2 * tokens) + 1} and 2 in {Stretches * Lines} lines");
    }

    /// <summary>Windows of that many tokens to train on.</summary>
    public int Windows(int tokens) => ((train.Length - 1) / tokens) - 1;

    /// <summary>Windows by their numbers, each moved by up to its length so that every pass cuts elsewhere, and the bytes that follow theirs.</summary>
    public (TextBatch Inputs, int[] Next) Batch(ReadOnlySpan<int> windows, int tokens, Rng rng)
    {
        int[] inputs = new int[windows.Length * tokens], next = new int[inputs.Length];
        for (int row = 0; row < windows.Length; row++)
        {
            int start = (windows[row] * tokens) + rng.Below(tokens);
            for (int t = 0; t < tokens; t++)
            {
                inputs[(row * tokens) + t] = train[start + t];
                next[(row * tokens) + t] = train[start + t + 1];
            }
        }
        return (new TextBatch(windows.Length, inputs), next);
    }
}
