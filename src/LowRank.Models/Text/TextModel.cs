using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models.Blocks;

namespace LowRank.Models;

/// <summary>What stands behind the layers of a text model.</summary>
public enum TextHead
{
    /// <summary>Nothing, or a pooler.</summary>
    None,
    /// <summary>One output a text: classes, or a single number for a regression.</summary>
    Classifier,
    /// <summary>Words at masked places.</summary>
    MaskedLanguage,
    /// <summary>The next word.</summary>
    CausalLanguage,
}

/// <summary>A transformer over token ids: embeddings, layers, perhaps a final norm, then a head. Architectures declare their parts here.</summary>
public abstract class TextModel : PretrainedModel
{
    private const string TieKey = "tie_word_embeddings";
    private readonly FileWeights? file;
    private readonly bool renewsClasses;
    private readonly List<string> headModules = [];
    private (Place Place, string CountKey, Func<Place, int, TransformerLayer> Declare)? layers;
    private Site? head;
    private Tensor? cap, capInverse;

    /// <summary>An empty model that takes its weights from <paramref name="source"/>.</summary>
    private protected TextModel(ModelConfig config, Device device, LoadOptions options, WeightSource source)
        : base(device, options.Type, source, options.Pack, config.Number("initializer_range", 0.02))
    {
        Config = config;
        file = source as FileWeights;
        Head = options.Classes is not null ? TextHead.Classifier : config.Architecture switch
        {
            var name when name.EndsWith("ForSequenceClassification", StringComparison.Ordinal) => TextHead.Classifier,
            var name when name.EndsWith("ForMaskedLM", StringComparison.Ordinal) => TextHead.MaskedLanguage,
            var name when name.EndsWith("ForCausalLM", StringComparison.Ordinal) || name.EndsWith("LMHeadModel", StringComparison.Ordinal) => TextHead.CausalLanguage,
            var name when name.Length == 0 || name.EndsWith("Model", StringComparison.Ordinal) => TextHead.None,
            var other => throw config.Wrong("architectures", other, "a Model, ForSequenceClassification, ForMaskedLM, ForCausalLM or LMHeadModel"),
        };
        renewsClasses = options.Classes is not null;
    }

    /// <summary>config.json.</summary>
    public ModelConfig Config { get; }

    /// <summary>What stands behind the layers.</summary>
    public TextHead Head { get; }

    /// <summary>Number of token ids.</summary>
    public int Vocabulary => Config.Count("vocab_size");

    /// <summary>Tokens a text may have.</summary>
    public abstract int MostTokens { get; }

    /// <summary>Id that fills short rows; 0 where the config names none.</summary>
    public int PadId => Config.Ids("pad_token_id") is [var first, ..] ? first : 0;

    /// <inheritdoc/>
    public override string TransformersClass => ClassPrefix + Head switch
    {
        TextHead.Classifier => "ForSequenceClassification",
        TextHead.MaskedLanguage => "ForMaskedLM",
        TextHead.CausalLanguage => CausalSuffix,
        _ => "Model",
    };

    private protected abstract string ClassPrefix { get; }

    private protected virtual string CausalSuffix => "ForCausalLM";

    /// <summary>Layers in order; set by the architecture.</summary>
    private protected List<TransformerLayer> Layers { get; } = [];

    private protected Norm? FinalNorm { get; set; }

    /// <inheritdoc/>
    public override IReadOnlyList<string> HeadModules => headModules;

    /// <summary>A new model with random weights, drawn by name from the options' seed.</summary>
    /// <param name="config">Its sizes; <see cref="ModelConfig.Parse"/> makes one.</param>
    /// <param name="device">Where it lives.</param>
    /// <param name="options">As for a loaded one.</param>
    /// <exception cref="ModelFormatException">The model_type is none of a text model, or a size is missing or contradicts another.</exception>
    public static TextModel Create(ModelConfig config, Device device, LoadOptions? options = null)
    {
        options ??= new();
        return Maker(config)(options.Classes is { } classes ? config.WithClasses(classes) : config, device, options, new RandomWeights(new Rng(options.Seed)));
    }

    /// <summary>Loads a folder.</summary>
    internal static TextModel Load(string folder, Device device, LoadOptions options, Func<ModelConfig, WeightSource, LoadOptions, TextModel> create)
    {
        ModelConfig config = ModelConfig.Read(folder);
        using TensorSource file = OpenWeights(folder);
        if (options.Classes is { } classes)
        {
            config = config.WithClasses(classes);
        }
        var source = new FileWeights(file, new RandomWeights(new Rng(options.Seed)));
        TextModel model = create(config, source, options);
        model.ReadAgainFrom(folder, source.Renewed);
        return model;
    }

    /// <summary>Token ids I32 [rows, tokens], all text → logits, or without a head the pooled output or the last hidden state.</summary>
    /// <exception cref="ShapeException">Another type or shape, an id out of range, or too many tokens.</exception>
    public override Tensor Forward(Tensor input)
    {
        if (input.Shape.Rank != 2 || input.DType != DType.I32)
        {
            throw new ShapeException($"{GetType().Name}: input_ids is {input}, want I32 [rows, tokens]");
        }
        TextOutput y = Forward(new TextBatch(input.Shape[0], input.ToInts()));
        return y.Logits ?? y.Pooled ?? y.Last;
    }

    /// <summary>A batch of texts → hidden states, pooled output and logits, as far as the model has them.</summary>
    /// <param name="batch">Token ids and what tells text from padding.</param>
    /// <param name="keepHidden">Keep every layer's output.</param>
    /// <exception cref="ShapeException">An id or position is out of range.</exception>
    public TextOutput Forward(TextBatch batch, bool keepHidden = false)
    {
        (Tensor last, List<Tensor> hidden, List<Routing> routings) = Run(batch, null, keepHidden);
        Tensor? pooled = Pool(last);
        return new TextOutput(last, pooled, LogitsOf(last, pooled, batch), hidden)
        {
            Routers = [.. routings.Select(r => r.Logits)],
            Balance = routings.Count > 0 ? MixtureOfExperts.Balance(routings, batch) : null,
        };
    }

    /// <summary>The last hidden state [rows, tokens, d] alone.</summary>
    /// <exception cref="ShapeException">As for <see cref="Forward(TextBatch, bool)"/>.</exception>
    public Tensor Hidden(TextBatch batch) => Run(batch, null, keepHidden: false).Last;

    /// <summary>Mean cross-entropy, as <see cref="CrossEntropy"/> has it, of a decoder's next words over those asked for → [1]. A head without an adapter
    /// makes its logits a slab at a time, so that they are never whole in memory. A mixture of experts whose config says output_router_logits adds
    /// router_aux_loss_coef times the imbalance of its routers.</summary>
    /// <param name="batch">Texts.</param>
    /// <param name="targets">What follows each token, [rows, tokens]; -100 where nothing is asked.</param>
    /// <param name="smoothing">Share of the target that all words have.</param>
    /// <exception cref="InvalidOperationException">The model has no language head.</exception>
    /// <exception cref="ShapeException">A target is out of range, or there is not one a token.</exception>
    public Tensor NextWordLoss(TextBatch batch, ReadOnlySpan<int> targets, double smoothing = 0)
    {
        RequireLanguageHead("NextWordLoss");
        (Tensor last, _, List<Routing> routings) = Run(batch, null, keepHidden: false);
        Tensor ids = Device.Current!.Of([targets.Length], targets);
        Tensor loss = !head!.IsAdapted
            ? new LinearCrossEntropy(Smoothing: smoothing, SoftCap: LogitCap).Apply(last, head.Weight, ids, head.Bias?.Value)
            : new CrossEntropy(Smoothing: smoothing).Apply(LanguageLogits(last), ids);
        return routings.Count > 0 && Config.Flag("output_router_logits", false)
            ? new Add(Config.Number("router_aux_loss_coef", 0.001)).Apply(loss, MixtureOfExperts.Balance(routings, batch))
            : loss;
    }

    /// <summary>One pass with a cache: logits of each row's last token [rows, vocabulary].</summary>
    internal Tensor NextLogits(TextBatch batch, KeyValueCache cache)
    {
        cache.Begin(batch);
        Tensor last = Run(batch, cache, keepHidden: false).Last;
        cache.End();
        return LanguageLogits(RowsAt(last, [.. Enumerable.Range(1, batch.Rows).Select(row => (row * batch.Tokens) - 1)]));
    }

    private (Tensor Last, List<Tensor> Hidden, List<Routing> Routings) Run(TextBatch batch, KeyValueCache? cache, bool keepHidden)
    {
        Scope scope = Device.Current ?? throw new InvalidOperationException($"{GetType().Name}: no scope is open; call BeginScope or BeginTape first");
        int[] positions = batch.Positions ?? PositionsOf(batch);
        Check(batch, positions);
        Tensor ids = scope.Of([batch.Rows, batch.Tokens], batch.Ids), places = scope.Of([batch.Rows, batch.Tokens], positions);
        Tensor? mask = batch.Mask is null ? null : scope.Of([batch.Rows, batch.Tokens], batch.Mask);
        AttentionContext context = Prepared(new AttentionContext(mask, places, positions.Max() + 1, cache), batch);
        Tensor h = Embed(ids, places, batch);
        h = h.DType == DType ? h : new Cast(DType).Apply(h);
        List<Tensor> hidden = keepHidden ? [h] : [];
        foreach (TransformerLayer layer in Layers)
        {
            h = Through(layer, h, context);
            if (keepHidden)
            {
                hidden.Add(h);
            }
        }
        h = Finish(h);
        if (keepHidden)
        {
            hidden[^1] = h;     // as transformers counts it
        }
        return (h, hidden, context.Routings);
    }

    /// <summary>Embeddings [rows, tokens, d] of ids and positions, both I32 [rows, tokens].</summary>
    private protected abstract Tensor Embed(Tensor ids, Tensor positions, TextBatch batch);

    /// <summary>What the layers of one pass share, with what an architecture adds.</summary>
    private protected virtual AttentionContext Prepared(AttentionContext context, TextBatch batch) => context;

    /// <summary>What becomes of the last layer's output.</summary>
    private protected virtual Tensor Finish(Tensor h) => FinalNorm is null ? h : FinalNorm.Forward(h);

    /// <summary>Positions where the batch gives none.</summary>
    private protected virtual int[] PositionsOf(TextBatch batch) => batch.PlainPositions();

    /// <summary>First position that the model has no place for.</summary>
    private protected virtual int PositionLimit => MostTokens;

    private protected virtual Tensor? Pool(Tensor last) => null;

    /// <summary>Output of the classifier given the last hidden state and the pooled one.</summary>
    private protected virtual Tensor ClassLogits(Tensor last, Tensor? pooled, TextBatch batch) => head!.Forward(LastTokens(last, batch));

    /// <summary>Words for hidden states [..., d].</summary>
    private protected virtual Tensor LanguageLogits(Tensor hidden)
    {
        Tensor logits = head!.Forward(hidden);
        return cap is null ? logits : new Mul().Apply(new Tanh().Apply(new Mul().Apply(logits, capInverse)), cap);
    }

    /// <summary>Soft cap of a decoder's logits; 0: none.</summary>
    private protected virtual double LogitCap => 0;

    private Tensor? LogitsOf(Tensor last, Tensor? pooled, TextBatch batch) => Head switch
    {
        TextHead.None => null,
        TextHead.Classifier => ClassLogits(last, pooled, batch),
        _ => LanguageLogits(last),
    };

    /// <inheritdoc/>
    private protected override string ConfigText(DType type)
    {
        Dictionary<string, JsonNode?> changed = [];
        if (layers is { } stack && Layers.Count != Config.Count(stack.CountKey, Layers.Count, least: 0))
        {
            changed.Add(stack.CountKey, Layers.Count);
        }
        if (Parameters.ContainsKey("lm_head.weight") && Config.Has(TieKey))
        {
            changed.Add(TieKey, false);
        }
        return Config.Write(TransformersClass, type, changed);
    }

    /// <summary>Declares the layers <c>{place}.0</c>, <c>{place}.1</c> and so on, as many as the config's <paramref name="countKey"/> says.</summary>
    private protected void Stack(Place place, string countKey, int? missing, Func<Place, int, TransformerLayer> declare)
    {
        layers = (place, countKey, declare);
        for (int i = 0; i < Config.Count(countKey, missing, least: 0); i++)
        {
            Layers.Add(declare(place.At($"{i}"), i));
        }
    }

    /// <inheritdoc/>
    protected override Action Restack(IReadOnlyList<int> order)
    {
        TransformerLayer[] before = [.. Layers];
        if (layers is not { } stack || order.Any(i => i >= before.Length))
        {
            throw new AdapterConfigException($"{GetType().Name}: layer_replication reaches layer {order.Max()}, want numbers below {before.Length}");
        }
        Layers.Clear();
        Action exchange = Repeat(stack.Place, order, i => Layers.Add(stack.Declare(stack.Place.At($"{i}"), i)));
        return () =>
        {
            exchange();
            (TransformerLayer[] put, before) = (before, [.. Layers]);
            Layers.Clear();
            Layers.AddRange(put);
        };
    }

    /// <summary>Base model's name in front of its parts; nothing for a bare model.</summary>
    private protected Place Trunk(string prefix) => Head == TextHead.None ? new("", "") : new(prefix, prefix);

    /// <summary>Declares a layer of the classifier; a file without one, or with other classes at the output, gives way to random weights.</summary>
    private protected Site HeadLinear(string path, int outputs, int inputs, bool bias, bool isOutput)
    {
        var place = new Place(path, path);
        string module = path.Split('.')[0];
        if (!headModules.Contains(module))
        {
            headModules.Add(module);
        }
        if (file is not null && ((isOutput && renewsClasses) || !file.Has(place.At("weight").File)))
        {
            file.Renew(place.At("weight").File);
            file.Renew(place.At("bias").File);
        }
        return Linear(place, outputs, inputs, bias, isOutput);
    }

    /// <summary>Declares what stands behind a decoder, a classifier of its last token or words, and ends the declarations.</summary>
    /// <param name="words">Name of the head.</param>
    /// <param name="d">Width of the last hidden state.</param>
    /// <param name="tied">The embeddings, where the head is these.</param>
    private protected void BuiltAsDecoder(string words, int d, Parameter? tied)
    {
        head = Head switch
        {
            TextHead.Classifier => HeadLinear("score", Config.ClassNames.Count, d, bias: false, isOutput: true),
            TextHead.CausalLanguage => Linear(new Place(words, words), Vocabulary, d, bias: false, isOutput: true, tied: tied),
            _ => null,
        };
        (cap, capInverse) = LogitCap > 0 ? (Constant(LogitCap), Constant(1 / LogitCap)) : (null, null);
        BuiltBut(words + ".");
    }

    /// <summary>Ends the declarations; tensors under these names may be left over: heads for other tasks, copies of tied weights.</summary>
    private protected void BuiltBut(params ReadOnlySpan<string> unused)
    {
        file?.Ignore(unused);
        Built();
    }

    /// <summary>Hidden state of each row's first token [rows, d].</summary>
    private protected Tensor FirstTokens(Tensor hidden) => RowsAt(hidden, [.. Enumerable.Range(0, hidden.Shape[0]).Select(row => row * hidden.Shape[1])]);

    /// <summary>Hidden state of each row's last token that is no padding [rows, d].</summary>
    private protected Tensor LastTokens(Tensor hidden, TextBatch batch)
    {
        bool IsPadding(int i) => Config.Has("pad_token_id") ? batch.Ids[i] == PadId : !batch.IsText(i);
        return RowsAt(hidden, [.. Enumerable.Range(0, batch.Rows).Select(row =>
        {
            int at = ((row + 1) * batch.Tokens) - 1;
            while (at > row * batch.Tokens && IsPadding(at))
            {
                at--;
            }
            return at;
        })]);
    }

    internal void RequireLanguageHead(string verb)
    {
        if (Head != TextHead.CausalLanguage)
        {
            throw new InvalidOperationException($"{verb}: {TransformersClass} has no language head, want a model that predicts the next token");
        }
    }

    private void Check(TextBatch batch, int[] positions)
    {
        batch.RequireIds(Vocabulary, this, "input_ids");
        int far = Array.FindIndex(positions, p => p < 0 || p >= PositionLimit);
        if (far >= 0)
        {
            throw new ShapeException($"{GetType().Name}: a text of {batch.Tokens} tokens reaches position {positions[far]}, want at most {MostTokens} tokens: cut the text");
        }
    }
}
