using System.Globalization;
using LowRank.Adapters;
using LowRank.Formats;
using YamlDotNet.Core;
using YamlDotNet.RepresentationModel;

namespace LowRank.Cli;

/// <summary>A recipe in mergekit's YAML. Whatever is wrong is told with its line and column.</summary>
internal sealed class RecipeFile
{
    private readonly string file;
    private readonly List<string> warnings = [];

    private RecipeFile(string file, MergeMethod method, YamlMappingNode root)
    {
        this.file = file;
        Mapping(root, "merge_method", "base_model", "models", "slices", "parameters", "dtype", "out_dtype", "tokenizer_source");
        Recipe = new MergeRecipe(method, Slices(root, method))
        {
            Base = Find(root, "base_model") is { } start ? Text(start) : null,
            Settings = Settings(Find(root, "parameters"), method, "the recipe"),
            Type = (Find(root, "out_dtype") ?? Find(root, "dtype")) is { } type ? TypeOf(type) : null,
        };
        TokenizerSource = Find(root, "tokenizer_source") is not { } tokenizer ? null : Text(tokenizer) switch
        {
            "base" => Recipe.Base ?? throw Bad(tokenizer, "tokenizer_source is base and there is no base_model; name a model"),
            "union" => throw Bad(tokenizer, "tokenizer_source is union, want base or a model: vocabularies are not joined here"),
            var model => model,
        };
    }

    /// <summary>What it says.</summary>
    public MergeRecipe Recipe { get; }

    /// <summary>The model whose tokenizer goes with the result; null: the base's or else the first's.</summary>
    public string? TokenizerSource { get; }

    /// <summary>Numbers that the method does not take.</summary>
    public IReadOnlyList<string> Warnings => warnings;

    /// <summary>Reads a recipe.</summary>
    /// <exception cref="ModelFormatException">It is no YAML, or no recipe: names line and column.</exception>
    /// <exception cref="IOException">It is missing or cannot be read.</exception>
    public static RecipeFile Read(string file)
    {
        if (!File.Exists(file))
        {
            throw new FileNotFoundException($"merge: there is no recipe {file}", file);
        }
        using StreamReader text = File.OpenText(file);
        var yaml = new YamlStream();
        try
        {
            yaml.Load(text);
        }
        catch (YamlException error)
        {
            throw new ModelFormatException($"{file}: line {error.Start.Line}, column {error.Start.Column}: {error.Message}", error) { File = file };
        }
        if (yaml.Documents is not [{ RootNode: YamlMappingNode root }])
        {
            throw new ModelFormatException($"{file}: line 1, column 1: this is no mapping, want a recipe with merge_method and models or slices") { File = file };
        }
        YamlNode? name = Find(root, "merge_method");
        return name is YamlScalarNode { Value: { } word } && MergeMethod.Find(word) is { } method
            ? new RecipeFile(file, method, root)
            : throw Bad(file, name ?? root, $"merge_method is {(name is YamlScalarNode s ? s.Value : "missing")}, want one of {string.Join(", ", MergeMethod.All.Select(m => m.Name))}");
    }

    private MergeSlice[] Slices(YamlMappingNode root, MergeMethod method)
    {
        (YamlNode? models, YamlNode? slices) = (Find(root, "models"), Find(root, "slices"));
        if (models is null == slices is null)
        {
            throw Bad(root, models is null ? "there are neither models nor slices, want one of them" : "there are models and slices, want one of them");
        }
        if (models is not null)
        {
            return [new MergeSlice(List(models, "models", node => Input(node, method, ranged: false)))];
        }
        return List(slices!, "slices", node =>
        {
            YamlMappingNode slice = Mapping(node, "sources", "parameters", "base_model");
            YamlNode sources = Find(slice, "sources") ?? throw Bad(slice, "sources is missing, want a list of models with layer_range");
            return new MergeSlice(List(sources, "sources", n => Input(n, method, ranged: true)))
            {
                Settings = Settings(Find(slice, "parameters"), method, "the slice"),
                Base = Find(slice, "base_model") is { } start ? Text(start) : null,
            };
        });
    }

    private MergeInput Input(YamlNode node, MergeMethod method, bool ranged)
    {
        YamlMappingNode input = ranged ? Mapping(node, "model", "layer_range", "parameters") : Mapping(node, "model", "parameters");
        string model = Text(Find(input, "model") ?? throw Bad(input, "model is missing, want a folder, or folder+adapter"));
        (int, int)? layers = null;
        if (ranged)
        {
            YamlNode range = Find(input, "layer_range") ?? throw Bad(input, "layer_range is missing, want [from, to]");
            int[] ends = List(range, "layer_range", n => int.TryParse(Text(n), NumberStyles.None, CultureInfo.InvariantCulture, out int end) ? end : throw Bad(n, $"a layer is {n}, want a whole number from 0"));
            layers = ends is [var from, var to] && from < to ? (from, to) : throw Bad(range, $"layer_range is [{string.Join(", ", ends)}], want two layers, the first below the second");
        }
        return new MergeInput(model) { Layers = layers, Settings = Settings(Find(input, "parameters"), method, model) };
    }

    private Dictionary<string, MergeSetting> Settings(YamlNode? node, MergeMethod method, string where)
    {
        var settings = new Dictionary<string, MergeSetting>(StringComparer.Ordinal);
        foreach ((YamlNode key, YamlNode value) in node is null ? new YamlMappingNode() : Mapping(node))
        {
            string name = Text(key);
            settings[name] = Setting(value);
            if (!method.Parameters.Any(p => p.Name == name))
            {
                warnings.Add($"{file}: line {key.Start.Line}: {name} of {where} is no parameter of {method.Name} and changes nothing; it takes {string.Join(", ", method.Parameters.Select(p => p.Name).DefaultIfEmpty("none"))}");
            }
        }
        return settings;
    }

    private MergeSetting Setting(YamlNode node)
    {
        switch (node)
        {
            case YamlSequenceNode list when list.Children.Count > 0 && list.All(n => n is YamlScalarNode):
                return MergeSetting.Of([.. list.Select(Number)]);
            case YamlSequenceNode list when list.Children.Count > 0:
                return MergeSetting.ByName([.. list.Select(Choice)]);
            case YamlMappingNode:
                return MergeSetting.ByName(Choice(node));
            default:
                return Number(node);
        }
    }

    private (string? Filter, MergeSetting Value) Choice(YamlNode node)
    {
        YamlMappingNode choice = Mapping(node, "filter", "value");
        return (Find(choice, "filter") is { } filter ? Text(filter) : null, Setting(Find(choice, "value") ?? throw Bad(choice, "value is missing, want a number or a list of them")));
    }

    private double Number(YamlNode node) => node is YamlScalarNode { Value: { } text }
        ? text switch
        {
            "true" or "True" or "yes" or "on" => 1,
            "false" or "False" or "no" or "off" => 0,
            _ => double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out double value) && double.IsFinite(value) ? value : throw Bad(node, $"the value is {text}, want a finite number, true or false"),
        }
        : throw Bad(node, $"the value is a {node.NodeType}, want a number, a list of numbers, or a list of filter and value");

    private DType TypeOf(YamlNode node) => Text(node) switch
    {
        "float32" => DType.F32,
        "float16" => DType.F16,
        "bfloat16" => DType.BF16,
        "float64" => DType.F64,
        var other => throw Bad(node, $"dtype is {other}, want float32, float16, bfloat16 or float64"),
    };

    private string Text(YamlNode node) => node is YamlScalarNode { Value: { Length: > 0 } text } ? text : throw Bad(node, $"this is a {node.NodeType}, want a word");

    private T[] List<T>(YamlNode node, string name, Func<YamlNode, T> item) => node is YamlSequenceNode { Children.Count: > 0 } list ? [.. list.Select(item)] : throw Bad(node, $"{name} is {(node is YamlSequenceNode ? "empty" : $"a {node.NodeType}")}, want a list");

    /// <summary>The node as a mapping of these keys; of any where none are given.</summary>
    private YamlMappingNode Mapping(YamlNode node, params IReadOnlyList<string> keys)
    {
        YamlMappingNode mapping = node as YamlMappingNode ?? throw Bad(node, $"this is a {node.NodeType}, want a mapping{(keys.Count > 0 ? $" of {string.Join(", ", keys)}" : "")}");
        YamlNode? unknown = keys.Count == 0 ? null : mapping.Children.Keys.FirstOrDefault(k => !keys.Contains((k as YamlScalarNode)?.Value));
        return unknown is null ? mapping : throw Bad(unknown, $"{unknown} is no key here, want {string.Join(", ", keys)}");
    }

    private static YamlNode? Find(YamlMappingNode mapping, string key) =>
        mapping.Children.FirstOrDefault(p => p.Key is YamlScalarNode name && name.Value == key).Value is { } found && found is not YamlScalarNode { Value: "null" or "~" or "" } ? found : null;

    private ModelFormatException Bad(YamlNode node, string what) => Bad(file, node, what);

    private static ModelFormatException Bad(string file, YamlNode node, string what) => new($"{file}: line {node.Start.Line}, column {node.Start.Column}: {what}") { File = file };
}
