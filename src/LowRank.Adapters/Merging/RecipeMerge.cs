using LowRank.Formats;

namespace LowRank.Adapters;

/// <summary>A recipe with its models: which tensor comes of which, and how it is computed.</summary>
internal sealed class RecipeMerge
{
    private readonly MergeRecipe recipe;
    private readonly IReadOnlyDictionary<string, TensorSource> sources;
    private readonly MergeOptions options;
    private readonly Rng rng;
    private readonly Device device = Device.Cpu();
    private readonly List<(SafeTensorsEntry Entry, MergeSlice Slice, string[] Names, double Depth)> plan = [];
    private readonly Dictionary<string, int> places = new(StringComparer.Ordinal);
    private int done;

    public RecipeMerge(MergeRecipe recipe, IReadOnlyDictionary<string, TensorSource> sources, MergeOptions options)
    {
        (this.recipe, this.sources, this.options) = (recipe, sources, options);
        rng = new Rng(recipe.Seed).Fork("merge");
        if (recipe.Method.Learns)
        {
            throw Bad("the method", recipe.Method.Name, $"one that needs no data: {nameof(ConcreteMerge)} learns from it");
        }
        if (recipe.Slices.Count == 0)
        {
            throw Bad("slices", "none", "at least one");
        }
        MergeSlice[] slices = [.. recipe.Slices.Select(Whole)];
        Outside(slices[0], ModelLayers.IsEmbedding);
        int layer = 0;
        foreach (MergeSlice slice in slices)
        {
            Layers(slice, ref layer);
        }
        Outside(slices[^1], name => !ModelLayers.IsEmbedding(name));
    }

    public MergedTensors Tensors()
    {
        foreach ((int i, var step) in plan.Index())
        {
            places[step.Entry.Name] = i;
        }
        return new MergedTensors($"{recipe.Method.Name} of {string.Join(", ", sources.Keys)}", plan.Select(p => p.Entry), Compute, [.. sources.Values, device]);
    }

    /// <summary>The slice with its layers spelled out and the base among its inputs.</summary>
    private MergeSlice Whole(MergeSlice slice)
    {
        string? origin = slice.Base ?? recipe.Base;
        MergeInput[] inputs = [.. slice.Inputs];
        if (origin is not null && inputs.All(i => i.Model != origin) && inputs.All(i => i.Layers is null))
        {
            inputs = [.. inputs, new MergeInput(origin)];
        }
        if (inputs.GroupBy(i => i.Model).FirstOrDefault(g => g.Count() > 1) is { } twice)
        {
            throw Bad($"the input {twice.Key}", "given twice in one slice", "each model once");
        }
        inputs = [.. inputs.Select(i => i with { Layers = i.Layers ?? (0, Count(i.Model)) })];
        foreach (MergeInput input in inputs)
        {
            (int from, int to) = input.Layers!.Value;
            int there = Count(input.Model);
            if (from < 0 || to < from || to > there)
            {
                throw Bad($"layer_range of {input.Model}", $"[{from}, {to}]", $"a range within its {there} layers");
            }
        }
        if (inputs.Select(i => i.Layers!.Value.To - i.Layers.Value.From).Distinct().Count() > 1)
        {
            throw Bad("the number of layers of a slice", string.Join(", ", inputs.Select(i => $"{i.Layers!.Value.To - i.Layers.Value.From} of {i.Model}")), "the same of each input");
        }
        MergeMethod method = recipe.Method;
        bool apart = method.Base == BaseUse.Required || (method.Base == BaseUse.Optional && origin is not null);
        if (method.Base == BaseUse.Required && inputs.All(i => i.Model != origin))
        {
            throw Bad("base_model", origin is null ? "missing" : $"{origin}, which is no source of a slice", $"the model that {method.Name} starts from");
        }
        int count = inputs.Count(i => !apart || i.Model != origin);
        return count >= method.Least && count <= method.Most ? slice with { Inputs = inputs, Base = apart ? origin : null }
            : throw Bad("the number of models", $"{count}{(apart ? " beside the base" : "")}", method.Least == method.Most ? $"{method.Least} for {method.Name}" : $"at least {method.Least} for {method.Name}");
    }

    private int Count(string model) => ModelLayers.Count(sources[model].Entries.Select(e => e.Name));

    private void Outside(MergeSlice slice, Func<string, bool> wanted)
    {
        bool Belongs(string name) => ModelLayers.Of(name) is null && wanted(name);
        string[][] names = [.. slice.Inputs.Select(i => sources[i.Model].Entries.Select(e => e.Name).Where(Belongs).ToArray())];
        Same(slice, names, name => name);
        foreach (string name in names[0])
        {
            Plan(slice, name, [.. names.Select(_ => name)], 0);
        }
    }

    private void Layers(MergeSlice slice, ref int layer)
    {
        int count = slice.Inputs[0].Layers!.Value.To - slice.Inputs[0].Layers!.Value.From;
        for (int i = 0; i < count; i++, layer++)
        {
            int offset = i;
            int[] numbers = [.. slice.Inputs.Select(input => input.Layers!.Value.From + offset)];
            string[][] names = [.. slice.Inputs.Select((input, k) => sources[input.Model].Entries.Select(e => e.Name).Where(n => ModelLayers.Of(n) == numbers[k]).ToArray())];
            Same(slice, names, name => ModelLayers.Renamed(name, 0));
            foreach (string name in names[0])
            {
                Plan(slice, ModelLayers.Renamed(name, layer), [.. numbers.Select(n => ModelLayers.Renamed(name, n))], count > 1 ? (double)i / (count - 1) : 1);
            }
        }
    }

    private static void Same(MergeSlice slice, string[][] names, Func<string, string> key)
    {
        HashSet<string> first = [.. names[0].Select(key)];
        for (int i = 1; i < names.Length; i++)
        {
            HashSet<string> other = [.. names[i].Select(key)];
            MergedTensors.RequireSame(slice.Inputs[0].Model, first, slice.Inputs[i].Model, other);
        }
    }

    private void Plan(MergeSlice slice, string name, string[] inputs, double depth)
    {
        SafeTensorsEntry[] entries = [.. slice.Inputs.Select((input, i) => sources[input.Model][inputs[i]])];
        for (int i = 1; i < entries.Length; i++)
        {
            if (!entries[i].Dimensions.SequenceEqual(entries[0].Dimensions) || MergedTensors.IsMerged(entries[i]) != MergedTensors.IsMerged(entries[0]))
            {
                throw new ModelFormatException($"merge: {name} is {entries[0]} in {slice.Inputs[0].Model} and {entries[i]} in {slice.Inputs[i].Model}, want one shape: models of one architecture and vocabulary") { Key = name };
            }
        }
        SafeTensorsType type = recipe.Type is { } wanted && MergedTensors.IsMerged(entries[0]) ? wanted.ToSafeTensors() : entries[0].Type;
        var step = (entries[0] with { Name = name, Type = type }, slice, inputs, depth);
        plan.Add(step);
        _ = Settings(slice, null, name, depth);
        foreach (MergeInput input in slice.Inputs.Where(i => i.Model != slice.Base))
        {
            _ = Settings(slice, input, name, depth);
        }
    }

    /// <summary>The numbers of the merge, or of one input.</summary>
    private Dictionary<string, double> Settings(MergeSlice slice, MergeInput? input, string name, double depth)
    {
        var settings = new Dictionary<string, double>(StringComparer.Ordinal);
        foreach (MergeParameter parameter in recipe.Method.Parameters.Where(p => p.PerModel == (input is not null)))
        {
            settings[parameter.Name] = (input?.Settings.GetValueOrDefault(parameter.Name))?.At(name, depth)
                ?? slice.Settings.GetValueOrDefault(parameter.Name)?.At(name, depth)
                ?? recipe.Settings.GetValueOrDefault(parameter.Name)?.At(name, depth)
                ?? parameter.Default
                ?? throw Bad($"{parameter.Name}{(input is null ? "" : $" of {input.Model}")} for {name}", "missing", "a number");
        }
        return settings;
    }

    private byte[] Compute(SafeTensorsEntry entry)
    {
        options.Cancellation.ThrowIfCancellationRequested();
        (_, MergeSlice slice, string[] names, double depth) = plan[places[entry.Name]];
        byte[] bytes = MergedTensors.IsMerged(entry) ? Merged(entry, slice, names, depth) : sources[slice.Inputs[0].Model].Bytes(names[0]).ToArray();
        options.Progress?.Report(new MergeProgress(entry.Name, ++done, plan.Count));
        return bytes;
    }

    private byte[] Merged(SafeTensorsEntry entry, MergeSlice slice, string[] names, double depth)
    {
        using Scope scope = device.BeginScope();
        Tensor? origin = null;
        List<MergePart> parts = [];
        foreach ((int i, MergeInput input) in slice.Inputs.Index())
        {
            Tensor values = sources[input.Model].Load(names[i], scope);
            if (input.Model == slice.Base)
            {
                origin = values;
            }
            else
            {
                parts.Add(new MergePart(input.Model, values, Settings(slice, input, entry.Name, depth)));
            }
        }
        int cols = entry.Dimensions.Count > 1 ? (int)entry.Dimensions[^1] : (int)entry.Count;
        Tensor y = scope.New(entry.Shape, MergedTensors.TypeOf(entry.Type));
        var tensor = new MergeTensor(entry.Name, cols == 0 ? 0 : (int)(entry.Count / cols), origin, parts, Settings(slice, null, entry.Name, depth), Draws(entry.Name, scope), y)
        {
            Compares = options.Report is not null,
        };
        (TensorSource, string)[] read = [.. slice.Inputs.Select((input, i) => (sources[input.Model], names[i]))];
        MergeFigures figures;
        if (recipe.Method.Pass is { } pass)
        {
            figures = pass(tensor);
            MergedTensors.RequireFinite(figures, read);
        }
        else
        {
            figures = TensorMerge.Run(origin, [.. parts.Select(p => new MergeTerm(p.Tensor))], MergeRule.Sum, null, compares: tensor.Compares);
            MergedTensors.RequireFinite(figures, read);
            double[]? from = tensor.Compares ? origin?.ToDoubles() : null;
            double[] merged = recipe.Method.Merge(tensor);
            y.Set(merged);
            figures = tensor.Compares ? Outcome(figures, from, merged, y.ToDoubles()) : figures;
        }
        options.Report?.Add(TensorInterference.Of(entry.Name, entry.Count, origin is not null, figures));
        return y.ToBytes();
    }

    /// <summary>The figures with those of the result.</summary>
    private static MergeFigures Outcome(MergeFigures figures, double[]? origin, double[] merged, double[] rounded)
    {
        double moved = 0, most = 0, squares = 0;
        for (int i = 0; i < merged.Length; i++)
        {
            double change = merged[i] - (origin is null ? 0 : origin[i]), off = Math.Abs(rounded[i] - merged[i]);
            moved += change * change;
            most = Math.Max(most, off);
            squares += off * off;
        }
        return figures with { Moved = moved, MaxRounding = most, RoundingSquares = squares };
    }

    /// <summary>What random methods keep of an input: where the masks are given those, else draws below a probability, by entry or the same for all.</summary>
    private Func<MergePart, Func<int, double>?, double, MergeTerm> Draws(string tensor, Scope scope) => (part, probability, density) =>
    {
        var all = new MergeTerm(part.Tensor);
        int count = (int)part.Tensor.Shape.Count;
        Rng stream = rng.Fork($"{part.Model} {tensor}");
        if (options.Masks is { } masks)
        {
            string mask = $"mask.{Path.GetFileName(part.Model.TrimEnd('/', '\\'))}.{tensor}";
            long[] kept = masks.ReadInt64(mask);
            return kept.Length == count ? all with { Keep = scope.Of([count], [.. kept.Select(k => k != 0 ? (byte)1 : (byte)0)]) }
                : throw new ModelFormatException($"{masks.Name}: {mask} has {kept.Length} values, want {count}") { File = masks.Name, Key = tensor };
        }
        return probability is null ? all with { Draws = MergeDraws.Below(stream, density) }
            : all with { Keep = scope.Of([count], [.. Enumerable.Range(0, count).Select(i => stream.Uniform(i) < probability(i) ? (byte)1 : (byte)0)]) };
    };

    private static AdapterConfigException Bad(string what, string got, string want) => new($"merge: {what} is {got}, want {want}");
}
