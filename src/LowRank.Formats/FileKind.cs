namespace LowRank.Formats;

/// <summary>Recognises by their first bytes the files that people take for safetensors, and says what to do about each.</summary>
internal static class FileKind
{
    /// <summary>As many bytes as <see cref="Explain"/> looks at.</summary>
    public const int HeadBytes = 64;

    /// <summary>Why a pickle is refused and what to do.</summary>
    public const string FromTorch = "a pickle may run code when loaded, so it is never read here. Convert it in Python: " +
        "safetensors.torch.save_file(torch.load(path, weights_only=True), \"model.safetensors\")";

    private const string Original = "want safetensors: take the model's original repository";

    /// <summary>What the file is and the remedy, or null where nothing is recognised.</summary>
    public static string? Explain(ReadOnlySpan<byte> head) => head switch
    {
        [(byte)'P', (byte)'K', 3, 4, ..] when head.IndexOf(".npy"u8) > 0 => "it is a NumPy archive; read it with NpzFile",
        [(byte)'P', (byte)'K', 3 or 5 or 7, 4 or 6 or 8, ..] => $"it is a zip archive, as torch.save writes (pickle inside): {FromTorch}",
        [0x80, >= 1 and <= 5, ..] => $"it is a Python pickle, as torch.save wrote: {FromTorch}",
        [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', ..] => "it is a NumPy array; read it with NpyFile",
        [0x89, (byte)'H', (byte)'D', (byte)'F', ..] => "it is an HDF5 file; want safetensors: save it with safetensors in Python",
        [0x1f, 0x8b, ..] => "it is a gzip archive: unpack it first",
        [0x08, <= 20, 0x12, ..] => $"it looks like an ONNX model; {Original}",
        _ when head.StartsWith("GGUF"u8) => $"it is a GGUF file; {Original}",
        _ when head.StartsWith("version https://git-lfs"u8) => "it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
        [(byte)'{', ..] => "it is JSON; want 8 bytes of header length first: for shards open the folder, or the index with SafeTensorsIndex",
        [(byte)'<', ..] => "it looks like a web page: download the file itself",
        _ => null,
    };
}
