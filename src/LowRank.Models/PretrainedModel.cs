using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>A network that lives in a folder as Hugging Face lays it out: config.json and safetensors. Blocks declare their weights here.</summary>
public abstract class PretrainedModel : Model
{
    /// <summary>Name of the weight file.</summary>
    public const string WeightFile = TensorSource.ModelFile;

    private const string Class = "sequence classification", Masked = "masked words", Next = "next word", Projected = "projection", Bare = "bare";

    private static readonly SortedDictionary<string, Architecture> Architectures = new(
        new Architecture[]
        {
            new(new ArchitectureFacts(VisionTransformerConfig.ModelTypeName, ["image classification", Bare], [], Generates: false) { Adapts = "linear, patches, norms" }, VisionTransformer.Load, null),
            new(new ArchitectureFacts("deit", ["image classification", "with a teacher's head"], [Bare], Generates: false) { Adapts = "linear, patches, norms" }, Deit.Load, null),
            new(new ArchitectureFacts("dinov2", ["image classification", Bare], [], Generates: false) { Adapts = "linear, patches, norms" }, Dinov2.Load, null),
            Clip("clip", ["texts and images compared"], [], "linear, embeddings, patches, norms"),
            Clip("clip_text_model", [Projected], [Bare], "linear, embeddings, norms"),
            Clip("clip_vision_model", [Projected], [Bare], "linear, patches, norms"),
            new(new ArchitectureFacts("whisper", ["speech to text"], [], Generates: true) { Adapts = "linear, embeddings, convolutions, norms" }, Whisper.Load, null),
            new(new ArchitectureFacts("t5", ["text to text", "encoder alone"], [], Generates: true) { Adapts = "linear, embeddings, norms" }, T5.Load, null),
            Text("bert", [Class, Masked, Bare], [], (c, d, o, s) => new Bert(c, d, o, s)),
            Text("roberta", [Class, Masked], [Bare], (c, d, o, s) => new Roberta(c, d, o, s)),
            Text("electra", [Class], [Bare], (c, d, o, s) => new Electra(c, d, o, s)),
            Text("deberta-v2", [Class, Masked], [Bare], (c, d, o, s) => new DebertaV2(c, d, o, s)),
            Text("distilbert", [Class], [Masked, Bare], (c, d, o, s) => new DistilBert(c, d, o, s)),
            Text("gpt2", [Next, Class], [Bare], (c, d, o, s) => new Gpt2(c, d, o, s)),
            Text("llama", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("mistral", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("mixtral", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("qwen2", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("qwen3", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("phi3", [Next], [Class, Bare], (c, d, o, s) => new Llama(c, d, o, s)),
            Text("gemma2", [Next], [Class, Bare], (c, d, o, s) => new Gemma(c, d, o, s), "linear, embeddings"),
            Text("gemma3_text", [Next], [Class, Bare], (c, d, o, s) => new Gemma(c, d, o, s), "linear, embeddings"),
            Text("gpt_neox", [Next], [Class, Bare], (c, d, o, s) => new GptNeoX(c, d, o, s)),
            Text("opt", [Next], [Class, Bare], (c, d, o, s) => new Opt(c, d, o, s)),
        }.ToDictionary(a => a.Facts.ModelType),
        StringComparer.Ordinal);

    private readonly Dictionary<string, string> paths = new(StringComparer.Ordinal);
    private readonly HashSet<string> transposedInFile = new(StringComparer.Ordinal);
    private readonly bool pack;
    private readonly double initializerRange;
    private WeightSource? source;
    private Scope? staging;
    private Repetition? repetition;      // while layers are stacked anew

    /// <summary>An empty network whose blocks take their weights from <paramref name="source"/> until <see cref="Built"/> is called.</summary>
    private protected PretrainedModel(Device device, DType type, WeightSource source, bool pack, double initializerRange)
        : base(device, type is DType.F32 or DType.BF16 or DType.F64 ? type : throw new ShapeException($"Model: type is {type}, want F32, BF16 or F64"))
    {
        this.source = source;
        this.pack = pack;
        this.initializerRange = initializerRange;
        staging = device.NewStore();
    }

    /// <summary>The model_type values that <see cref="Load(string, Device, LoadOptions?)"/> knows.</summary>
    public static IEnumerable<string> ModelTypes => Architectures.Keys;

    /// <summary>What is built of each architecture.</summary>
    public static IEnumerable<ArchitectureFacts> Facts => Architectures.Values.Select(a => a.Facts);

    /// <summary>Loads whatever model the folder's config.json describes.</summary>
    /// <exception cref="ModelFormatException">The model_type is unknown (the message lists those known), or config and weights contradict.</exception>
    /// <exception cref="IOException">A file is missing or unreadable.</exception>
    public static PretrainedModel Load(string folder, Device device, LoadOptions? options = null)
    {
        string type = ConfigFile.ModelType(folder);
        return Architectures.TryGetValue(type, out Architecture? architecture)
            ? architecture.Load(folder, device, options ?? new())
            : throw new ModelFormatException($"{Path.Combine(folder, ConfigFile.Name)}: model_type is '{type}', want one of {string.Join(", ", ModelTypes)}") { File = Path.Combine(folder, ConfigFile.Name), Key = "model_type" };
    }

    /// <summary>On a tape, keep the input of each layer alone and make the rest once more on the way back: the same bits, less memory, one more forward pass.</summary>
    public bool RecomputesLayers { get; set; }

    /// <summary>Modules that stand behind the network's trunk and are trained with new classes.</summary>
    public virtual IReadOnlyList<string> HeadModules => [.. Sites.Where(s => s.IsOutput).Select(s => s.Path)];

    /// <inheritdoc/>
    public override string ModulePath(string fileName) => paths.GetValueOrDefault(fileName, fileName);

    /// <summary>Input → the network's main output.</summary>
    /// <exception cref="ShapeException">The input has another shape than the config says.</exception>
    public abstract Tensor Forward(Tensor input);

    /// <summary>Writes config.json and model.safetensors (or shards and their index), each whole or not at all, with the names that the loader reads; other files in the folder stay.</summary>
    /// <param name="folder">Made where it is missing.</param>
    /// <param name="type">Type of the weights on disk; null keeps each weight's own.</param>
    /// <param name="shardBytes">The most bytes of weights in one file.</param>
    /// <exception cref="IOException">A file cannot be written.</exception>
    /// <exception cref="InvalidOperationException">A weight was freed, since adapters stand in for it.</exception>
    public void Save(string folder, DType? type = null, long shardBytes = SafeTensorsIndex.DefaultShardBytes)
    {
        if (Parameters.Values.FirstOrDefault(p => !p.Value.IsAlive) is { } freed)
        {
            throw new InvalidOperationException($"Save: {freed.Name} was freed, want its adapters merged, which makes it anew");
        }
        Directory.CreateDirectory(folder);
        using Scope scope = Device.NewStore();
        SafeTensorsIndex.Save(
            folder,
            Parameters.Values.Select(p => TensorData.Of(p.Name, AsInFile(p, type ?? p.Value.DType, scope))),
            new Dictionary<string, string> { ["format"] = "pt" },       // transformers refuses files that do not say so
            shardBytes);
        AtomicFile.WriteText(Path.Combine(folder, ConfigFile.Name), ConfigText(type ?? DType.ForParameters()));
    }

    /// <summary>The weights of a folder: one file, or shards with their index.</summary>
    private protected static TensorSource OpenWeights(string folder) => TensorSource.Open(folder);

    /// <summary>Weights that a merge overwrites are read again from the folder; those of <paramref name="renewed"/> did not come from there.</summary>
    private protected void ReadAgainFrom(string folder, IReadOnlySet<string> renewed) => Original = (parameter, scope) =>
    {
        if (renewed.Contains(parameter.Name))
        {
            return null;
        }
        using TensorSource file = OpenWeights(folder);
        Tensor value = file.Load(FileNames.Find(file, parameter.Name), scope, parameter.Value.DType);
        return IsTransposedInFile(parameter) ? Turned(value, scope) : value;
    };

    /// <summary>True where the file holds the weight as [inputs, outputs].</summary>
    public bool IsTransposedInFile(Parameter parameter) => transposedInFile.Contains(parameter.Name);

    /// <summary>The text of config.json.</summary>
    private protected abstract string ConfigText(DType type);

    /// <summary>Declares a weight.</summary>
    internal Parameter Weight(Place place, Shape shape, Init? init = null, bool matrix = false, bool transposed = false)
    {
        if (repetition is not null)
        {
            Place own = repetition.Of(place);
            paths[own.File] = own.Path;
            if (transposed)
            {
                transposedInFile.Add(own.File);
            }
            return Add(own.File, repetition.Before[place.File].Value);
        }
        (DType type, bool packed) = (matrix ? DType : DType.ForParameters(), matrix && pack);
        init ??= Init.Normal(initializerRange);
        Tensor value;
        if (transposed)
        {
            transposedInFile.Add(place.File);
            value = Turned(source!.Take(place.File, [shape[1], shape[0]], type, init, staging!), packed ? staging! : Store);
            value = packed ? Packing.Pack(value, Store) : value;
            staging!.Reset();
        }
        else
        {
            value = packed ? source!.Pack(place.File, shape, type, init, Store) : source!.Take(place.File, shape, type, init, Store);
        }
        Parameter parameter = Add(place.File, value);
        paths.Add(place.File, place.Path);
        return parameter;
    }

    /// <summary>Declares a linear layer [outputs, inputs].</summary>
    /// <param name="place">Where it sits.</param>
    /// <param name="outputs">Rows of the weight.</param>
    /// <param name="inputs">Columns.</param>
    /// <param name="bias">With a bias [outputs].</param>
    /// <param name="isOutput">The output layer, which <c>all-linear</c> leaves out.</param>
    /// <param name="transposed">The file holds the weight as [inputs, outputs].</param>
    /// <param name="tied">The weight is that of an embedding.</param>
    internal Site Linear(Place place, int outputs, int inputs, bool bias, bool isOutput = false, bool transposed = false, Parameter? tied = null) => Add(new Site(
        Here(place).Path,
        SiteKind.Linear,
        tied ?? Weight(place.At("weight"), [outputs, inputs], matrix: true, transposed: transposed),
        bias ? Weight(place.At("bias"), [outputs], Init.Zeros) : null)
    {
        Aliases = place.File == place.Path ? [] : [Here(place).File],
        IsOutput = isOutput,
        IsTransposed = transposed,
    });

    /// <summary>Declares a table [rows, width] looked up by ids.</summary>
    internal Site Embedding(Place place, int rows, int width) => Add(new Site(place.Path, SiteKind.Embedding, Weight(place.At("weight"), [rows, width]), null)
    {
        Aliases = place.File == place.Path ? [] : [place.File],
    });

    /// <summary>Declares a norm over <paramref name="d"/> channels with a weight and, for LayerNorm, a bias.</summary>
    internal Site NormLayer(Place place, int d, Normalization op) => Add(new Site(
        place.Path,
        SiteKind.Norm,
        Weight(place.At("weight"), [d], Init.Ones),
        op is LayerNorm ? Weight(place.At("bias"), [d], Init.Zeros) : null)
    {
        Aliases = place.File == place.Path ? [] : [place.File],
        Normalization = op,
    });

    /// <summary>Declares a convolution [outputs, inputs, size, size] with stride <paramref name="size"/>: patches side by side.</summary>
    internal Site PatchConvolution(Place place, int outputs, int inputs, int size, bool bias = true) => Add(new Site(
        place.Path,
        SiteKind.Conv2d,
        Weight(place.At("weight"), [outputs, inputs, size, size]),
        bias ? Weight(place.At("bias"), [outputs], Init.Zeros) : null)
    {
        Aliases = place.File == place.Path ? [] : [place.File],
        Convolution = new Convolution { Stride = size },
    });

    /// <summary>Declares a convolution along one axis [outputs, inputs, size], size odd, whose edges are filled up with zeros.</summary>
    internal Site Convolution1d(Place place, int outputs, int inputs, int size, int stride) => Add(new Site(
        Here(place).Path,
        SiteKind.Conv1d,
        Weight(place.At("weight"), [outputs, inputs, size]),
        Weight(place.At("bias"), [outputs], Init.Zeros))
    {
        Aliases = place.File == place.Path ? [] : [place.File],
        Convolution = new Convolution { Stride = stride, Padding = size / 2 },
    });

    /// <summary>Drops the layers under <paramref name="layers"/> and has layer order[i] declared again as number i, for each i: with parameters and sites of
    /// its own over the tensors that are there. Returns what exchanges names; parameters and sites are the caller's.</summary>
    internal Action Repeat(Place layers, IReadOnlyList<int> order, Action<int> declare)
    {
        Dictionary<string, Parameter> before = Parameters.ToDictionary(StringComparer.Ordinal);
        KeyValuePair<string, string>[] pathsBefore = [.. paths];
        string[] transposedBefore = [.. transposedInFile];
        Drop(layers.File + ".", layers.Path + ".");
        for (int i = 0; i < order.Count; i++)
        {
            repetition = new Repetition(before, layers.At($"{order[i]}"), layers.At($"{i}"));
            declare(order[i]);
        }
        repetition = null;
        return () =>
        {
            (KeyValuePair<string, string>[] put, pathsBefore) = (pathsBefore, [.. paths]);
            paths.Clear();
            foreach ((string file, string path) in put)
            {
                paths.Add(file, path);
            }
            (string[] turned, transposedBefore) = (transposedBefore, [.. transposedInFile]);
            transposedInFile.Clear();
            transposedInFile.UnionWith(turned);
        };
    }

    /// <summary>Rows [count, d] of hidden states [rows, tokens, d], counted over both.</summary>
    private protected Tensor RowsAt(Tensor hidden, int[] rows)
    {
        Tensor flat = hidden.Reshape([checked((int)(hidden.Shape.Count / hidden.Shape.Cols)), hidden.Shape.Cols]);
        return new Gather().Apply(flat, Device.Current!.Of([rows.Length], rows));
    }

    /// <summary>A number [1] that goes with the activations.</summary>
    internal Tensor Constant(double value) => Store.Of([1], [value], DType.ForParameters());

    /// <summary>A layer's output, recorded as <see cref="RecomputesLayers"/> says.</summary>
    private protected Tensor Through(TransformerLayer layer, Tensor h, AttentionContext context) =>
        RecomputesLayers && Device.Current is Tape tape ? tape.Recompute(x => layer.Forward(x, context), h) : layer.Forward(h, context);

    /// <summary>Ends the declarations: every tensor of the file must have found its place.</summary>
    private protected void Built()
    {
        source!.Finish();
        staging!.Dispose();
        (source, staging) = (null, null);
    }

    private static Architecture Clip(string type, string[] held, string[] others, string adapts) =>
        new(new ArchitectureFacts(type, held, others, Generates: false) { Adapts = adapts }, Models.Clip.Load, null);

    /// <summary>How to make a new text model of a config's type.</summary>
    private protected static Func<ModelConfig, Device, LoadOptions, WeightSource, TextModel> Maker(ModelConfig config) =>
        Architectures.GetValueOrDefault(config.ModelType)?.Make ?? throw config.Wrong("model_type", config.ModelType, $"one of {string.Join(", ", Architectures.Values.Where(a => a.Make is not null).Select(a => a.Facts.ModelType))}");

    private static Architecture Text(string type, string[] held, string[] others, Func<ModelConfig, Device, LoadOptions, WeightSource, TextModel> make, string adapts = "linear, embeddings, norms") =>
        new(new ArchitectureFacts(type, held, others, Generates: held.Contains(Next)) { Adapts = adapts }, (folder, device, options) => TextModel.Load(folder, device, options, (config, source, o) => make(config, device, o, source)), make);

    private Place Here(Place place) => repetition?.Of(place) ?? place;

    private Tensor AsInFile(Parameter parameter, DType type, Scope scope)
    {
        Tensor value = parameter.Value;
        if (type == value.DType && !IsTransposedInFile(parameter))
        {
            return value;
        }
        value = (value.IsPacked ? Packing.Unpack(value, scope) : value).ConvertTo(type, scope);
        return IsTransposedInFile(parameter) ? Turned(value, scope) : value;
    }

    private static Tensor Turned(Tensor value, Scope scope)
    {
        using Scope own = value.Device.BeginScope();
        return new Transpose().Apply(value).CopyTo(scope);
    }

    private sealed record Architecture(
        ArchitectureFacts Facts, Func<string, Device, LoadOptions, PretrainedModel> Load, Func<ModelConfig, Device, LoadOptions, WeightSource, TextModel>? Make);
}

/// <summary>Declarations under <paramref name="From"/> that stand for the same under <paramref name="To"/>.</summary>
internal sealed record Repetition(IReadOnlyDictionary<string, Parameter> Before, Place From, Place To)
{
    public Place Of(Place place) => new(To.Path + place.Path[From.Path.Length..], To.File + place.File[From.File.Length..]);
}

/// <summary>What is built of an architecture.</summary>
/// <param name="ModelType">As config.json names it.</param>
/// <param name="Held">What may stand behind the layers and is held to golden/models: outputs and the gradients of all weights, in float64 and float32.</param>
/// <param name="Others">What may stand there too, of the same parts, without a golden case of its own.</param>
/// <param name="Generates">Writes: a decoder with a cache of keys and values, one behind an encoder with its whole text anew for every token.</param>
public sealed record ArchitectureFacts(string ModelType, IReadOnlyList<string> Held, IReadOnlyList<string> Others, bool Generates)
{
    /// <summary>Layers that an adapter may take.</summary>
    public required string Adapts { get; init; }
}
