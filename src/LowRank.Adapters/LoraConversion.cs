using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>Adapters of a start that takes a part of the base weight (PiSSA, OLoRA) as plain LoRA of twice the rank on the base as it was, and back, from
/// file to file: W_res + s·B·A = W + s·[B, -B₀]·[A; A₀] with A₀, B₀ as they started (PEFT's path_initial_model_for_weight_conversion).</summary>
public static class LoraConversion
{
    private const string A = ".lora_A.weight", B = ".lora_B.weight";

    /// <summary>Writes the adapter of <paramref name="folder"/> as plain LoRA.</summary>
    /// <param name="folder">The trained adapter, of PiSSA or OLoRA.</param>
    /// <param name="initial">The same adapter as it was before training.</param>
    /// <param name="output">Where the plain one goes.</param>
    /// <exception cref="AdapterConfigException">The adapter starts otherwise, or there is no plain form of its settings.</exception>
    /// <exception cref="ModelFormatException">A file is damaged, or the two do not belong together.</exception>
    /// <exception cref="IOException">A file is missing or cannot be written.</exception>
    public static void ToPlain(string folder, string initial, string output)
    {
        using PeftFolder trained = PeftFolder.Open(folder), first = PeftFolder.Open(initial);
        AdapterConfig plain = Subtracting(trained).Plain();
        Write(trained, first, output, plain, (key, now, start, scope) => key.EndsWith(A, StringComparison.Ordinal) ? LoraStart.Stack(now, start, scope) : LoraStart.Beside(now, start, scope));
    }

    /// <summary>Writes a plain adapter that <see cref="ToPlain"/> or PEFT converted as what it was.</summary>
    /// <param name="folder">The plain adapter.</param>
    /// <param name="initial">The adapter as it started.</param>
    /// <param name="output">Where the result goes, with the settings of <paramref name="initial"/>.</param>
    /// <exception cref="AdapterConfigException">The start is not one that takes a part of the base.</exception>
    /// <exception cref="ModelFormatException">A file is damaged, or the two do not belong together.</exception>
    /// <exception cref="IOException">A file is missing or cannot be written.</exception>
    public static void FromPlain(string folder, string initial, string output)
    {
        using PeftFolder plain = PeftFolder.Open(folder), first = PeftFolder.Open(initial);
        Write(plain, first, output, Subtracting(first), (key, both, start, scope) =>
        {
            bool down = key.EndsWith(A, StringComparison.Ordinal);
            (int rows, int cols) = (start.Shape[0], start.Shape[1]);
            if (both.Shape != (down ? [2 * rows, cols] : [rows, 2 * cols]))
            {
                throw Stranger(plain, key, $"is {both.Shape}, not of twice the rank of {start.Shape}");
            }
            Tensor now = scope.Of(start.Shape, [.. both.ToDoubles().Chunk(both.Shape[1]).Take(rows).SelectMany(row => row.Take(cols))], start.DType);
            Tensor again = down ? LoraStart.Stack(now, start, scope) : LoraStart.Beside(now, start, scope);
            return again.ToDoubles().AsSpan().SequenceEqual(both.ToDoubles()) ? now : throw Stranger(plain, key, "holds another start in its second half");
        });
    }

    private static LoraConfig Subtracting(PeftFolder folder) => folder.Config is LoraConfig { Init: var init } config && (init.IsPissa || init == LoraInit.Olora)
        ? config
        : throw new AdapterConfigException($"{nameof(LoraConversion)}: {folder.Path} has {(folder.Config is LoraConfig lora ? $"init_lora_weights {lora.Init}" : folder.Config.Method)}, want a start that takes a part of the base: pissa or olora");

    private static void Write(PeftFolder from, PeftFolder first, string output, AdapterConfig config, Func<string, Tensor, Tensor, Scope, Tensor> turn)
    {
        using Device device = Device.Cpu();
        using Scope scope = device.BeginScope();
        List<TensorData> tensors = [];
        foreach (SafeTensorsEntry entry in from.Tensors.Entries)
        {
            Tensor value = Read(from, entry.Name, scope);
            if (entry.Name.EndsWith(A, StringComparison.Ordinal) || entry.Name.EndsWith(B, StringComparison.Ordinal))
            {
                if (!first.Tensors.Contains(entry.Name))
                {
                    throw Stranger(first, entry.Name, "is missing");
                }
                value = turn(entry.Name, value, Read(first, entry.Name, scope), scope);
            }
            tensors.Add(TensorData.Of(entry.Name, value));
        }
        PeftFolder.Save(output, config, tensors);
    }

    private static Tensor Read(PeftFolder folder, string key, Scope scope) => folder.Tensors.Load(key, scope);

    private static ModelFormatException Stranger(PeftFolder folder, string key, string what) =>
        new($"{nameof(LoraConversion)}: {folder.Tensors.Name}: {key} {what}, want an adapter and its own start") { File = folder.Tensors.Name, Key = key };
}
