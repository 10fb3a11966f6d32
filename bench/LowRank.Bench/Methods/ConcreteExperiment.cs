using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Formats;
using LowRank.Models;
using LowRank.Models.Data;

namespace LowRank.Bench.Methods;

/// <summary>Concrete's sheet, scaled down: the shipped vision transformer is fine-tuned on four versions of 1,000 digits (as they are, turned by 90 degrees,
/// upside down, negative), each with an output layer of its own, and the four are merged. The other 797 digits measure, and are the unlabelled batches.
/// Steps are a twentieth of the paper's and the rates of the mask and of λ 50 and 10 times its own.</summary>
public static class ConcreteExperiment
{
    private const int Trained = 1000, Side = 28, Epochs = 6, FineTuneBatch = 50, Batch = 16, Steps = 100;
    private const string Head = "classifier.";

    private static readonly (string Name, Func<float[], float[]> Change)[] Tasks =
    [
        ("as they are", x => x),
        ("turned", x => [.. Enumerable.Range(0, x.Length).Select(i => x[(i % Side * Side) + Side - 1 - (i / Side)])]),
        ("upside down", x => [.. x.Reverse()]),
        ("negative", x => [.. x.Select(v => 1 - v)]),
    ];

    /// <summary>Runs it: accuracy of every merge on each task, and the entropy of its predictions, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        using Device device = Device.Cpu();
        (ImageSet train, ImageSet test) = Digits.Load(Side).Split(Trained, new Rng(1).Fork("split"));
        VisionTransformer[] models = [.. Tasks.Select((t, i) => FineTuned(device, Changed(train, t.Change), (ulong)i, stop))];
        ImageSet[] tests = [.. Tasks.Select(t => Changed(test, t.Change))];
        using VisionTransformer origin = VisionTransformer.LoadBase(device, new LoadOptions { Pack = false });
        TensorSource start = Backbone(origin, "base");
        TensorSource[] experts = [.. models.Select((m, i) => Backbone(m, Tasks[i].Name))];

        Tensor Logits(IReadOnlyDictionary<string, Tensor> weights, int task, ImageSet images)
        {
            foreach ((string name, Tensor value) in weights)
            {
                models[task].Parameters[name].Frozen = false;
                models[task].Parameters[name].Replace(value);
            }
            return models[task].Forward(images.ToTensor(device));
        }
        Tensor Unlabelled(IReadOnlyDictionary<string, Tensor> weights, int task, int batch)
        {
            int[] order = new Rng(2).Fork($"{task} {batch / (test.Count / Batch)}").Permutation(test.Count);
            return Logits(weights, task, tests[task].Select(order.AsSpan(batch % (test.Count / Batch) * Batch, Batch)));
        }
        MergedTensors Learned(ConcreteOptions options)
        {
            using var merge = new ConcreteMerge(device, start, experts, options);
            merge.Fit(Unlabelled, cancellation: stop);
            using var bytes = new MemoryStream();
            using MergedTensors merged = merge.Merged();
            SafeTensorsFile.Write(bytes, merged.Entries.Select(e => TensorData.Of(merged, e.Name)));
            TensorSource kept = SafeTensorsFile.Read(bytes.ToArray());
            return ModelMerge.Average(kept);
        }
        var masked = new ConcreteOptions { Steps = Steps, AdaptationSteps = Steps, MaskRate = 0.05, AdaptationRate = 0.01, Seed = 1 };
        (string Name, Func<MergedTensors> Merge)[] merges =
        [
            ("each model by itself", () => ModelMerge.Average(start)),
            ("average", () => ModelMerge.Average(experts)),
            ("task arithmetic, λ 0.3", () => ModelMerge.TaskArithmetic(start, experts)),
            ("TIES, 20 %, λ 0.3", () => ModelMerge.Ties(start, experts)),
            ("DARE, p 0.5, λ 0.3", () => ModelMerge.Dare(start, experts)),
            ("AdaMerging, a λ a tensor", () => Learned(masked with { Masked = false, Adaptive = true, LayerWise = true })),
            ("Concrete task arithmetic", () => Learned(masked)),
            ("Concrete AdaMerging, a λ a tensor", () => Learned(masked with { Adaptive = true, LayerWise = true, Clamp = true })),
        ];
        var table = new StringBuilder($"| merge | {string.Join(" | ", Tasks.Select(t => t.Name))} | mean | entropy |\n|---|{string.Concat(Tasks.Select(_ => "---|"))}---|---|\n");
        foreach ((string name, Func<MergedTensors> merge) in merges)
        {
            stop.ThrowIfCancellationRequested();
            using MergedTensors merged = merge();
            (double Accuracy, double Entropy)[] seen = [.. tests.Select((images, task) => Measured(device, name == merges[0].Name ? experts[task] : merged, images, (weights, part) => Logits(weights, task, part)))];
            table.Append(CultureInfo.InvariantCulture, $"| {name} | {string.Join(" | ", seen.Select(s => s.Accuracy.ToString("P1", CultureInfo.InvariantCulture)))} | {seen.Average(s => s.Accuracy):P1} | {seen.Average(s => s.Entropy):F3} |\n");
        }
        Array.ForEach(models, m => m.Dispose());
        return table.ToString();
    }

    private static (double Accuracy, double Entropy) Measured(Device device, TensorSource weights, ImageSet images, Func<IReadOnlyDictionary<string, Tensor>, ImageSet, Tensor> logits)
    {
        using Scope scope = device.BeginScope();
        Tensor predicted = logits(weights.Entries.ToDictionary(e => e.Name, e => weights.Load(e.Name, scope)), images);
        float[] values = predicted.ToArray();
        int classes = predicted.Shape[1], right = Enumerable.Range(0, images.Count).Count(i => values.AsSpan(i * classes, classes).IndexOf(values.AsSpan(i * classes, classes).ToArray().Max()) == images.Labels[i]);
        return ((double)right / images.Count, new MeanEntropy().Apply(predicted).Item());
    }

    private static VisionTransformer FineTuned(Device device, ImageSet images, ulong seed, CancellationToken stop)
    {
        VisionTransformer model = VisionTransformer.LoadBase(device, new LoadOptions { Classes = images.Classes, Seed = seed, Pack = false });
        using var optimizer = new AdamW(model.TrainAll());
        int each = images.Count / FineTuneBatch, steps = Epochs * each;
        for (int step = 0; step < steps; step++)
        {
            stop.ThrowIfCancellationRequested();
            int[] order = new Rng(seed).Fork($"{step / each}").Permutation(images.Count);
            ImageSet batch = images.Select(order.AsSpan(step % each * FineTuneBatch, FineTuneBatch));
            optimizer.LearningRate = 5e-4 * (1 - ((double)step / steps));
            using Tape tape = device.BeginTape();
            tape.Backward(new CrossEntropy().Apply(model.Forward(batch.ToTensor(device)), tape.Of([FineTuneBatch], batch.Labels)));
            optimizer.Step();
        }
        foreach (Parameter parameter in model.Parameters.Values)
        {
            parameter.Frozen = true;
        }
        return model;
    }

    /// <summary>All weights but the output layer's.</summary>
    private static SafeTensorsFile Backbone(VisionTransformer model, string name)
    {
        using var bytes = new MemoryStream();
        SafeTensorsFile.Write(bytes, model.Parameters.Values.Where(p => !p.Name.StartsWith(Head, StringComparison.Ordinal)).Select(p => TensorData.Of(p.Name, p.Value)));
        return SafeTensorsFile.Read(bytes.ToArray(), name);
    }

    private static ImageSet Changed(ImageSet images, Func<float[], float[]> change)
    {
        float[] pixels = [.. Enumerable.Range(0, images.Count).SelectMany(i => change(images.Image(i).ToArray()))];
        return new ImageSet(pixels, images.Labels, images.Channels, images.Height, images.Width, images.Classes).Normalize([0.286f], [0.353f]);
    }
}
