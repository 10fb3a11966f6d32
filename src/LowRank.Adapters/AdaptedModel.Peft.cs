using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Formats;

namespace LowRank.Adapters;

public sealed partial class AdaptedModel
{
    private const string Prefix = "base_model.model.";
    private static readonly string[] EmbeddingNames = ["embed_tokens", "lm_head"];
    private (string Key, Tensor Value)[] copies = [];       // of what adapters share, under the layers of the file that was read: PEFT writes such of RandLoRA

    /// <summary>Keys of the file that this model has no place for; they were passed over.</summary>
    public IReadOnlyList<string> Warnings { get; private set; } = [];

    /// <summary>Weights of the model whose values differ from those that the adapter was trained on, as far as its folder tells: it computes, but hardly what
    /// it was trained to.</summary>
    public IReadOnlyList<string> BaseDifferences { get; private set; } = [];

    /// <summary>Writes the adapter as PEFT does, and beside its files what it was trained on (<see cref="BaseFingerprint"/>). A method that changed the base
    /// weights (PiSSA, OLoRA) is written as plain LoRA of twice the rank, which goes with the original base, unless <paramref name="keepInit"/> is set: then a
    /// reader must repeat the init to the last bit.</summary>
    /// <param name="folder">The folder; made where there is none.</param>
    /// <param name="name">Name of the adapter; any but <c>default</c> goes to a sub-folder.</param>
    /// <param name="keepInit">Write A and B as they are.</param>
    /// <exception cref="IOException">It cannot be written; what was there before is whole.</exception>
    /// <exception cref="AdapterConfigException">There is no plain form of these settings.</exception>
    public void SavePeft(string folder, string name = PeftFolder.DefaultName, bool keepInit = false)
    {
        bool plain = !keepInit && adapters.Exists(a => a.ChangesBase);
        using Scope scope = Model.Device.BeginScope();
        Save(folder, name, plain ? Config.Plain() : Config, a => a.Saved(plain, scope));
    }

    /// <summary>As <see cref="SavePeft"/>, with other settings and what goes with them of each adapter.</summary>
    internal void Save(string folder, string name, AdapterConfig settings, Func<Adapter, IEnumerable<(string Suffix, Tensor Value)>> saved)
    {
        if (Merged && WholeEmbeddings().Any())
        {
            throw new InvalidOperationException("SavePeft: the adapters are merged into embeddings that go into the file whole; call Unmerge first");
        }
        AdapterConfig config = settings with { InferenceMode = true };
        IEnumerable<(string Key, Tensor Value)> tensors = OfAdapters(saved)
            .Concat(swaps.SelectMany(s => KeysOf(s).Select(key => (key, s.Trained))))
            .Concat(swaps.SelectMany(s => Untrained(s).Select(key => (key, s.Original))))
            .Concat(WholeEmbeddings().Select(e => (e.Key, e.Adapter.Base)))
            .Concat(copies);
        PeftFolder.Save(folder, config with { AutoMapping = config.AutoMapping ?? Mapping(config) }, tensors.Select(t => TensorData.Of(t.Key, t.Value)), name);
        BaseFingerprint.Of(Model, Whole).Write(PeftFolder.FolderOf(folder, name));
    }

    /// <summary>Puts the values of a file in place. Everything is checked before anything is written.</summary>
    /// <exception cref="ModelFormatException">Keys are missing or have other shapes: names them, and both shapes.</exception>
    internal void Load(PeftFolder folder)
    {
        SafeTensorsFile file = folder.Tensors;
        using Scope scope = Model.Device.BeginScope();
        List<(string Key, Tensor Place)> wanted =
        [
            .. OfAdapters(a => a.Saved(plain: false, scope)),
            .. swaps.Select(s => (KeysOf(s).FirstOrDefault(file.Contains) ?? KeysOf(s)[0], s.Trained)),
        ];
        string[] missing = [.. wanted.Where(w => !file.Contains(w.Key)).Select(w => $"{w.Key} {w.Place.Shape}")];
        if (missing.Length > 0)
        {
            throw Mismatch(file, $"lacks {missing.Length} of {wanted.Count} tensors that the config asks for on this model: {Some(missing)}");
        }
        string[] wrong = [.. wanted.Where(w => !file[w.Key].Dimensions.SequenceEqual(w.Place.Shape.Select(d => (long)d)))
            .Select(w => $"{w.Key} is [{string.Join(", ", file[w.Key].Dimensions)}], want {w.Place.Shape}")];
        if (wrong.Length > 0)
        {
            throw Mismatch(file, $"was made for another base model: {Some(wrong)}");
        }
        Version++;
        foreach ((string key, Tensor place) in wanted)
        {
            using Scope own = Model.Device.BeginScope();
            place.CopyFrom(file.Load(key, own, place.DType));
        }
        if (adapters.Select(a => a.Fault).FirstOrDefault(fault => fault is not null) is { } wrongValue)
        {
            throw Mismatch(file, wrongValue);
        }
        RequireTied(file);
        copies = [.. adapters.SelectMany(a => a.Shared.Select(s => ($"{Prefix}{a.Path}.{s.Name}", s.Value))).Where(c => file.Contains(c.Item1))];
        HashSet<string> known = [.. wanted.Select(w => w.Key), .. copies.Select(c => c.Key), .. swaps.SelectMany(KeysOf), .. swaps.SelectMany(Untrained), .. LoadEmbeddings(file)];
        Warnings = [.. file.Entries.Select(e => e.Name).Where(key => !known.Contains(key))];
        BaseDifferences = BaseFingerprint.Read(folder.Path)?.Differences(Model, folder.Path) ?? [];
    }

    /// <summary>What the adapters have in a file. But in the plain form the values are the adapters' own tensors.</summary>
    private IEnumerable<(string Key, Tensor Value)> OfAdapters(Func<Adapter, IEnumerable<(string Suffix, Tensor Value)>> saved) => adapters
        .SelectMany(a => saved(a).Select(s => ($"{Prefix}{a.Path}.{s.Suffix}", s.Value)))
        .Concat(adapters.SelectMany(a => a.Shared).DistinctBy(s => s.Name).Select(s => ($"base_model.{s.Name}", s.Value)));

    /// <summary>Whole embeddings that PEFT writes beside their adapters where a target is called embed_tokens or lm_head: those of the words and of the
    /// output; but for rows that are trained alone.</summary>
    private IEnumerable<(string Key, Adapter Adapter)> WholeEmbeddings()
    {
        bool named = Config is not TrainableTokensConfig && Config.Targets?.Any(target => EmbeddingNames.Any(name => Config.Targets.IsPattern ? target.Contains(name, StringComparison.Ordinal) : target == name)) == true;
        Site? words = Model.Sites.FirstOrDefault(s => s.Kind == SiteKind.Embedding);
        return named ? adapters.Where(a => a.Site == words || a.Site.IsOutput).Select(a => ($"{Prefix}{a.Path}.base_layer.weight", a)) : [];
    }

    /// <summary>Puts the whole embeddings of a file in place where they are not the model's own. Returns their keys.</summary>
    private List<string> LoadEmbeddings(SafeTensorsFile file)
    {
        List<string> keys = [];
        foreach ((string key, Adapter adapter) in WholeEmbeddings().Where(e => file.Contains(e.Key)))
        {
            if (!file[key].Dimensions.SequenceEqual(adapter.Base.Shape.Select(d => (long)d)))
            {
                throw Mismatch(file, $"was made for another base model: {key} is [{string.Join(", ", file[key].Dimensions)}], want {adapter.Base.Shape}");
            }
            using Scope scope = Model.Device.BeginScope();
            Tensor read = file.Load(key, scope, adapter.Base.DType);
            if (!read.ToBytes().AsSpan().SequenceEqual(adapter.Base.ToBytes()))
            {
                adapter.ReplaceBase(read);
            }
            keys.Add(key);
        }
        return keys;
    }

    /// <exception cref="ModelFormatException">The file says something else of a tied adapter than of the one that it is tied to.</exception>
    private void RequireTied(SafeTensorsFile file)
    {
        foreach (Adapter adapter in adapters.Where(a => a.TiedTo is not null))
        {
            using Scope scope = Model.Device.BeginScope();
            foreach ((string suffix, Tensor value) in adapter.Saved(plain: false, scope))
            {
                string key = $"{Prefix}{adapter.Path}.{suffix}";
                if (!file.Load(key, scope, value.DType).ToBytes().AsSpan().SequenceEqual(value.ToBytes()))
                {
                    throw Mismatch(file, $"has other values at {key} than at {adapter.TiedTo!.Path}, whose weight the layer shares");
                }
            }
        }
    }

    /// <summary>Keys of a trained module or bias, the first one decisive. With bias "all" PEFT writes a whole module's bias under its wrapper's name too.</summary>
    private string[] KeysOf(Swap swap)
    {
        string path = Model.ModulePath(swap.Parameter.Name);
        if (swap.Kind == SwapKind.Bias)
        {
            Site? adapted = adapters.FirstOrDefault(a => a.Site.Bias == swap.Parameter)?.Site;
            return [Prefix + (adapted is null ? path : $"{adapted.Path}.base_layer.bias")];
        }
        if (Wrapped(path) is (var module, var last))
        {
            return [Prefix + path, $"{Prefix}{module}.modules_to_save.{last}"];
        }
        return [Prefix + path, .. Model.Sites.Where(s => s.Weight == swap.Parameter && IsAlias(s)).Select(s => $"{Prefix}{s.Path}.weight")];
    }

    private string[] Untrained(Swap swap) =>
        swap.Kind == SwapKind.Module && Wrapped(Model.ModulePath(swap.Parameter.Name)) is (var module, var last) ? [$"{Prefix}{module}.original_module.{last}"] : [];

    private (string Module, string Last)? Wrapped(string path)
    {
        if (Config.BiasRule != "all" || !path.Contains("bias", StringComparison.Ordinal))
        {
            return null;
        }
        foreach (string module in Config.ModulesToSave ?? [])
        {
            for (int dot = path.IndexOf('.', StringComparison.Ordinal); dot > 0; dot = path.IndexOf('.', dot + 1))
            {
                if (path[..dot] == module || path[..dot].EndsWith("." + module, StringComparison.Ordinal))
                {
                    return (path[..dot], path[(dot + 1)..]);
                }
            }
        }
        return null;
    }

    private JsonElement? Mapping(AdapterConfig config)
    {
        if (config.TaskType is not null || Model.TransformersClass is not { } full)
        {
            return null;
        }
        int dot = full.LastIndexOf('.');
        var mapping = new JsonObject { ["base_model_class"] = full[(dot + 1)..], ["parent_library"] = dot < 0 ? "transformers" : full[..dot] };
        return Json.Element(mapping.ToJsonString());
    }

    private static ModelFormatException Mismatch(SafeTensorsFile file, string what) => new($"PeftFolder: {file.Name} {what}") { File = file.Name };

    private static string Some(string[] items) => string.Join("; ", items.Take(8)) + (items.Length > 8 ? $"; and {items.Length - 8} more" : "");
}
