namespace LowRank.Formats;

/// <summary>Recognises by their first bytes the files that people take for safetensors, and says what to do about each.</summary>
internal static class FileKind
{
    private const string FromTorch = "it may run code when loaded, so it is never read here. Convert it in Python: " +
        "safetensors.torch.save_file(torch.load(path, weights_only=True), \"model.safetensors\")";

    /// <summary>What the file is and the remedy, or null where nothing is recognised.</summary>
    public static string? Explain(ReadOnlySpan<byte> head) => head switch
    {
        [(byte)'P', (byte)'K', 3 or 5 or 7, 4 or 6 or 8, ..] => $"it is a zip archive, as torch.save writes (pickle inside): {FromTorch}",
        [0x80, >= 1 and <= 5, ..] => $"it is a Python pickle, as torch.save wrote: {FromTorch}",
        _ when head.StartsWith("GGUF"u8) => "it is a GGUF file; want safetensors: take the model's original repository",
        [0x89, (byte)'H', (byte)'D', (byte)'F', ..] => "it is an HDF5 file; want safetensors: save it with safetensors in Python",
        [0x93, (byte)'N', (byte)'U', (byte)'M', (byte)'P', (byte)'Y', ..] => "it is a NumPy array; read it with NpyFile",
        _ when head.StartsWith("version https://git-lfs"u8) => "it is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`",
        [0x08, <= 20, 0x12, ..] => "it looks like an ONNX model; want safetensors: take the model's original repository",
        [(byte)'{', ..] => "it is JSON; want 8 bytes of header length first: for shards name the folder, not the index",
        [(byte)'<', ..] => "it looks like a web page: download the file itself",
        _ => null,
    };
}
