using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Bench.Methods;

/// <summary>The sheets of GaLore and SLTrain, scaled down: a decoder of two layers, 128 wide, learns the bytes of the King James text from nothing in 1,000
/// steps of 16 windows of 64 bytes. The text lies in kjv.txt, made as the help of <c>lowrank pretrain</c> says.</summary>
public static class PretrainExperiment
{
    private const string File = "kjv.txt";
    private const int Tokens = 64, Batch = 16, Steps = 1000;

    private const string ConfigText = """
        {
          "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 256, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 4, "head_dim": 32, "intermediate_size": 344, "hidden_act": "silu", "max_position_embeddings": 64, "rope_theta": 10000.0,
          "rms_norm_eps": 1e-05, "initializer_range": 0.02, "tie_word_embeddings": true, "attention_bias": false, "mlp_bias": false, "bos_token_id": null, "eos_token_id": null
        }
        """;

    private static readonly Recipe Full = new("every weight, AdamW", 3e-3, null, (all, _) => new AdamW(all) { WeightDecay = 0 });

    /// <summary>What r = 32 of 128 costs: factors alone against moments in a projection.</summary>
    public static string GaLore(CancellationToken stop) => Table(
        [
            Full,
            LowRank(32),
            new("GaLore r 32, T 100, scale 0.25", 1e-2, null, (all, layers) => new GaLore(all, layers) { Rank = 32, Gap = 100 }),
            new("GaLore r 32, moments in 8 bits", 1e-2, null, (all, layers) => new GaLore8Bit(all, layers) { Rank = 32, Gap = 100, WeightDecay = 0, LeastSize = 4096 }),
        ],
        stop);

    /// <summary>What r = 16 of 128 costs, and what five values of a hundred give back.</summary>
    public static string SlTrain(CancellationToken stop) => Table(
        [
            Full,
            LowRank(16),
            new("SLTrain r 16, density 0.05", 3e-3, model => model.Attach(Config(16, 0.05), seed: 1), (all, _) => new AdamW(all) { WeightDecay = 0 }),
        ],
        stop);

    /// <summary>W = B·A and nothing else: SLTrain with one sparse value a layer, and a B that is drawn, since from B = 0 and no S no gradient would come.</summary>
    private static Recipe LowRank(int rank) => new($"factors alone, r {rank}", 3e-3, model =>
    {
        AdaptedModel adapted = model.Attach(Config(rank, 1e-4), seed: 1);
        foreach (Parameter b in adapted.Parameters.Where(p => p.Name.EndsWith("sltrain_B", StringComparison.Ordinal)))
        {
            float[] values = new float[b.Value.Shape.Count];
            new Rng(2).Fork(b.Name).FillUniform(values, -1 / MathF.Sqrt(rank), 1 / MathF.Sqrt(rank));
            b.Value.Set(values);
        }
        return adapted;
    }, (all, _) => new AdamW(all) { WeightDecay = 0 });

    private static SlTrainConfig Config(int rank, double density) => new() { Targets = Names.AllLinear, Rank = rank, Alpha = rank, Density = density };

    private static string Table(IReadOnlyList<Recipe> recipes, CancellationToken stop)
    {
        if (!System.IO.File.Exists(File))
        {
            throw new FileNotFoundException($"PretrainExperiment: {File} is not here, want the King James text: bible -f gen1:1-rev22:21 | cut -d' ' -f2- > {File} (Debian package bible-kjv)");
        }
        var text = ByteText.Read(File, Tokens);
        var table = new StringBuilder("| trained | trained values | weights, KB | optimiser state, KB | bits a held-out byte |\n|---|---|---|---|---|\n");
        foreach (Recipe recipe in recipes)
        {
            table.Append(Row(recipe, text, stop));
        }
        return table.ToString();
    }

    private static string Row(Recipe recipe, ByteText text, CancellationToken stop)
    {
        using Device device = Device.Best();
        using var model = TextModel.Create(ModelConfig.Parse(ConfigText), device, new LoadOptions { Seed = 1, Pack = false });
        using AdaptedModel? adapted = recipe.Attach?.Invoke(model);
        HashSet<Parameter> layers = [.. model.Sites.Where(s => s.Kind == SiteKind.Linear && !s.IsOutput).Select(s => s.Weight)];
        IReadOnlyList<Parameter> all = adapted is null ? model.TrainAll()
            : [.. adapted.Parameters, .. model.TrainHead([.. model.Parameters.Values.Where(p => !layers.Contains(p)).Select(p => model.ModulePath(p.Name))])];
        using Optimizer optimizer = recipe.Optimizer(all, [.. layers.Where(_ => adapted is null)]);
        var trainer = new Trainer(optimizer, Batch * Steps, batch => Loss(model, text, batch), new TrainerOptions
        {
            BatchSize = Batch,
            LearningRate = recipe.Rate,
            Schedule = new Schedule(Decay.Cosine, Warmup: Steps / 10, Least: 0.1),
            MaxGradientNorm = 1,
            Seed = 1,
        })
        {
            Adapted = adapted,
        };
        trainer.Run(cancellation: stop);
        int[] heldOut = [.. text.HeldOut.ToArray()];
        double bits = model.BitsPerToken(heldOut, cancellation: stop);
        long values = all.Sum(p => p.Value.Shape.Count), places = all.Where(p => p.Name.EndsWith("sltrain_v", StringComparison.Ordinal)).Sum(p => p.Value.Shape.Count);
        long state = optimizer.State().Sum(s => (long)s.Value.Bytes);
        return string.Create(CultureInfo.InvariantCulture, $"| {recipe.Name} | {values:N0} | {(values + places) * sizeof(float) / 1000:N0} | {state / 1000:N0} | {bits:F3} |\n");
    }

    private static Tensor Loss(TextModel model, ByteText text, TrainingBatch batch)
    {
        long windows = text.Windows(Tokens);
        int[] spread = [.. batch.Indices.ToArray().Select(i => (int)(i * windows / (Batch * Steps)))];      // over the whole text
        (TextBatch inputs, int[] next) = text.Batch(spread, Tokens, batch.Rng);
        return model.NextWordLoss(inputs, next);
    }

    /// <summary>A way to train: its name, learning rate, what is attached (null: nothing), and the optimiser of all that is trained, given the layers' weights.</summary>
    private sealed record Recipe(string Name, double Rate, Func<TextModel, AdaptedModel>? Attach, Func<IReadOnlyList<Parameter>, IReadOnlyList<Parameter>, Optimizer> Optimizer);
}
