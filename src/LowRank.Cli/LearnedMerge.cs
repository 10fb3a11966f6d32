using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Cli;

/// <summary>The methods of a recipe that learn from predictions on unlabelled images: concrete and adamerging. Every model keeps its own output layer, through
/// which its images are predicted; what is merged is all the rest, and the result has the base's output layer.</summary>
internal sealed class LearnedMerge : IDisposable
{
    /// <summary>File beside the result with the output layer of every model, each tensor under MODEL.TENSOR.</summary>
    public const string HeadsFile = "heads.safetensors";

    private readonly Device device = Device.Cpu();
    private readonly MergeRecipe recipe;
    private readonly ulong seed;
    private readonly Backbone start;
    private readonly List<Expert> experts = [];
    private readonly ConcreteMerge merge;

    /// <summary>Opens models and images.</summary>
    /// <param name="recipe">With one of these methods.</param>
    /// <param name="folder">Folder of a model by its name.</param>
    /// <param name="data">Images of each model's task, in the recipe's order.</param>
    /// <exception cref="UsageException">There is not one source of images for each model, or the recipe asks for what such a method cannot do.</exception>
    public LearnedMerge(MergeRecipe recipe, Func<string, string> folder, IReadOnlyList<string> data)
    {
        (this.recipe, seed) = (recipe, recipe.Seed);
        string name = recipe.Method.Name, origin = recipe.Base ?? throw new UsageException($"merge: base_model is missing, want the model that {name} starts from");
        MergeInput[] inputs = [.. recipe.Slices[0].Inputs.Where(i => i.Model != origin)];
        if (recipe.Slices.Count > 1 || inputs.Any(i => i.Layers is not null) || recipe.Type is not null)
        {
            throw new UsageException($"merge: {name} takes whole models and keeps the base's types, want models in place of slices, and no dtype");
        }
        if (data.Count != inputs.Length)
        {
            throw new UsageException($"merge: {name} learns from predictions on unlabelled images, want --data once for each of the {inputs.Length} models in the recipe's order ({string.Join(", ", inputs.Select(i => i.Model))}), got {data.Count}");
        }
        try
        {
            start = new Backbone(TensorSource.Open(folder(origin)));
            foreach ((MergeInput input, string source) in inputs.Zip(data))
            {
                experts.Add(new Expert(input.Model, folder(input.Model), source, device));
            }
            merge = new ConcreteMerge(device, start, [.. experts.Select(e => e.Weights)], Options());
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Entropy of the first and of the last step, summed over the models; null before any.</summary>
    public (double First, double Last)? Entropy { get; private set; }

    /// <summary>Learns, and gives the merged tensors, which read this object.</summary>
    public MergedTensors Run(Action<ConcreteProgress> progress, MergeOptions options)
    {
        merge.Fit(
            (weights, task, batch) => experts[task].Predict(weights, batch, (int)Number("batch"), seed),
            new Each(made =>
            {
                Entropy = (Entropy?.First ?? made.Loss, made.Loss);
                progress(made);
            }),
            options.Cancellation);
        return merge.Merged(options);
    }

    /// <summary>Writes the merged tensors with the base's output layer, and every model's beside them.</summary>
    public void Save(MergedTensors merged, string to, long shardBytes)
    {
        SafeTensorsIndex.Save(to, merged.Entries.Select(e => TensorData.Of(merged, e.Name)).Concat(start.Head.Select(n => TensorData.Of(start.Whole, n))), merged.Metadata, shardBytes);
        SafeTensorsFile.Save(Path.Combine(to, HeadsFile), experts.SelectMany(e => e.Weights.Head.Select(n => TensorData.Of($"{e.Name}.{n}", e.Weights.Whole[n].Type, e.Weights.Whole[n].Dimensions, e.Weights.Whole.Bytes(n).ToArray()))));
    }

    public void Dispose()
    {
        merge?.Dispose();
        experts.ForEach(e => e.Dispose());
        start?.Dispose();
        device.Dispose();
    }

    private double Number(string name) => recipe.Settings.GetValueOrDefault(name)?.At("", 0) ?? recipe.Method.Parameters.First(p => p.Name == name).Default!.Value;

    private ConcreteOptions Options()
    {
        var plain = new ConcreteOptions
        {
            Masked = false,
            Adaptive = true,
            LayerWise = Number("layer_wise") != 0,
            Lambda = Number("lambda"),
            Clamp = Number("clamp") != 0,
            Steps = 0,
            AdaptationSteps = (int)Number("adaptation_steps"),
            AdaptationRate = Number("adaptation_rate"),
            Seed = seed,
        };
        return recipe.Method.Name == MergeMethod.AdaMerging ? plain
            : plain with { Masked = true, Adaptive = Number("adaptive") != 0, Temperature = Number("temperature"), Steps = (int)Number("steps"), MaskRate = Number("mask_rate") };
    }

    /// <summary>A model's tensors without its output layer.</summary>
    private sealed class Backbone(TensorSource whole) : TensorSource
    {
        private const string Layer = "classifier.";

        public TensorSource Whole => whole;

        public IEnumerable<string> Head => whole.Entries.Where(e => IsHead(e.Name)).Select(e => e.Name);

        public override string Name => whole.Name;

        public override IReadOnlyList<SafeTensorsEntry> Entries { get; } = [.. whole.Entries.Where(e => !IsHead(e.Name))];

        public override IReadOnlyDictionary<string, string> Metadata => whole.Metadata;

        public override bool TryGet(string name, out SafeTensorsEntry? entry)
        {
            entry = null;
            return !IsHead(name) && whole.TryGet(name, out entry);
        }

        public override ReadOnlySpan<byte> Bytes(string name, long start, int count) => whole.Bytes(name, start, count);

        protected override void Dispose(bool disposing) => whole.Dispose();

        private static bool IsHead(string name) => name.StartsWith(Layer, StringComparison.Ordinal);
    }

    /// <summary>A fine-tuned model with images of its task.</summary>
    private sealed class Expert : IDisposable
    {
        private readonly VisionTransformer model;
        private readonly ImageSet images;
        private readonly Preprocessing preprocessing;

        public Expert(string name, string folder, string source, Device device)
        {
            Name = name;
            preprocessing = Preprocessing.Read(folder) ?? throw new UsageException($"merge: {folder} has no {Preprocessing.FileName}, which says how images are prepared, want an image classifier as train writes one");
            images = new ImageChoice(source, null, 0).ReadPart(train: !ImageSource.HasTest(source), preprocessing.Channels == 1 ? 1 : 3);
            Weights = new Backbone(TensorSource.Open(folder));
            model = VisionTransformer.Load(folder, device, new LoadOptions { Pack = false });
        }

        public string Name { get; }

        public Backbone Weights { get; }

        /// <summary>Logits of a batch under other weights; batches go through the images in an order of their own each time around.</summary>
        public Tensor Predict(IReadOnlyDictionary<string, Tensor> weights, int batch, int size, ulong seed)
        {
            foreach ((string name, Tensor value) in weights)
            {
                Parameter parameter = model.Parameters[name];
                parameter.Frozen = false;
                parameter.Replace(value);
            }
            int count = Math.Clamp(size, 1, images.Count), each = images.Count / count;
            int[] order = new Rng(seed).Fork($"{Name} {batch / each}").Permutation(images.Count);
            return model.Forward(preprocessing.Apply(images.Select(order.AsSpan(batch % each * count, count))).ToTensor(model.Device));
        }

        public void Dispose()
        {
            model.Dispose();
            Weights.Dispose();
        }
    }

    private sealed class Each(Action<ConcreteProgress> act) : IProgress<ConcreteProgress>
    {
        public void Report(ConcreteProgress value) => act(value);
    }
}
