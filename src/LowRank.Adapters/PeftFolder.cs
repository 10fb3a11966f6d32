using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>A folder as PEFT writes it: adapter_config.json and adapter_model.safetensors; an adapter with a name of its own lies in a sub-folder.</summary>
public sealed class PeftFolder : IDisposable
{
    /// <summary>Name of the settings' file.</summary>
    public const string ConfigFile = "adapter_config.json";

    /// <summary>Name of the tensors' file.</summary>
    public const string ModelFile = "adapter_model.safetensors";

    /// <summary>The adapter that lies in the folder itself.</summary>
    public const string DefaultName = "default";

    private PeftFolder(string path, AdapterConfig config, SafeTensorsFile tensors) => (Path, Config, Tensors) = (path, config, tensors);

    /// <summary>The folder.</summary>
    public string Path { get; }

    /// <summary>The settings.</summary>
    public AdapterConfig Config { get; }

    /// <summary>The tensors; nothing is read before it is asked for.</summary>
    public SafeTensorsFile Tensors { get; }

    /// <summary>Opens an adapter.</summary>
    /// <param name="folder">The folder; for a named adapter the one above it.</param>
    /// <param name="name">Name of the adapter.</param>
    /// <exception cref="ModelFormatException">A file is not what its format asks for, or asks for what is not built.</exception>
    /// <exception cref="IOException">A file is missing or cannot be read.</exception>
    public static PeftFolder Open(string folder, string name = DefaultName)
    {
        string path = FolderOf(folder, name);
        string config = System.IO.Path.Combine(path, ConfigFile), model = System.IO.Path.Combine(path, ModelFile);
        if (!File.Exists(config))
        {
            throw new FileNotFoundException($"PeftFolder: {path} has no {ConfigFile}; want a folder that PEFT's save_pretrained or SavePeft wrote", config);
        }
        if (!File.Exists(model))
        {
            string old = System.IO.Path.Combine(path, "adapter_model.bin");
            throw new FileNotFoundException(File.Exists(old)
                ? $"PeftFolder: {path} has {System.IO.Path.GetFileName(old)} in place of {ModelFile}; a pickle is never read: load it with PEFT and save it again"
                : $"PeftFolder: {path} has no {ModelFile}", model);
        }
        AdapterConfig read = AdapterCatalog.Read(File.ReadAllBytes(config), config);
        return new PeftFolder(path, read, SafeTensorsFile.Open(model));
    }

    /// <summary>Writes an adapter: the tensors first, the settings last, each file whole or not at all. Makes the folder where there is none.</summary>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    public static void Save(string folder, AdapterConfig config, IEnumerable<TensorData> tensors, string name = DefaultName)
    {
        string text = AdapterCatalog.Write(config), path = FolderOf(folder, name);
        try
        {
            Directory.CreateDirectory(path);
        }
        catch (Exception error) when (error is UnauthorizedAccessException or IOException)
        {
            throw new IOException($"PeftFolder: cannot make {path}: {error.Message.TrimEnd('.')}. Choose a writable folder", error);
        }
        SafeTensorsFile.Save(System.IO.Path.Combine(path, ModelFile), tensors, new Dictionary<string, string> { ["format"] = "pt" });
        AtomicFile.WriteText(System.IO.Path.Combine(path, ConfigFile), text);
    }

    /// <inheritdoc/>
    public void Dispose() => Tensors.Dispose();

    internal static string FolderOf(string folder, string name)
    {
        if (name == DefaultName)
        {
            return folder;
        }
        return name.Length > 0 && name is not ("." or "..") && name.AsSpan().IndexOfAny('/', '\\', '\0') < 0
            ? System.IO.Path.Combine(folder, name)
            : throw new AdapterConfigException($"PeftFolder: the adapter's name is {ModelFormatException.Quote(name)}, want the name of a folder");
    }
}
