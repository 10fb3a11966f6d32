using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Models;
using LowRank.Models.Data;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>The recipe of the shipped text model: a decoder of about 1 M parameters over bytes, trained from nothing on the King James text.</summary>
internal sealed record PretrainText : PretrainRecipe
{
    private const string ConfigText = """
        {
          "architectures": ["LlamaForCausalLM"],
          "model_type": "llama",
          "vocab_size": 256,
          "hidden_size": 160,
          "num_hidden_layers": 4,
          "num_attention_heads": 5,
          "num_key_value_heads": 1,
          "head_dim": 32,
          "intermediate_size": 384,
          "hidden_act": "silu",
          "max_position_embeddings": 256,
          "rope_theta": 10000.0,
          "rms_norm_eps": 1e-05,
          "initializer_range": 0.02,
          "tie_word_embeddings": true,
          "attention_bias": false,
          "mlp_bias": false,
          "bos_token_id": null,
          "eos_token_id": null
        }
        """;

    /// <summary>Text file.</summary>
    public override string Data { get; init; } = "kjv.txt";

    /// <summary>Passes over the nineteen twentieths that are not held out, each time in other windows.</summary>
    public override int Epochs { get; init; } = 3;

    /// <summary>Windows of a step.</summary>
    public int BatchSize { get; init; } = 8;

    /// <summary>What is trained: <c>full</c>, every weight; <c>sltrain</c>, factors and a sparse part in the place of each layer's, and what is no layer.</summary>
    public string Method { get; init; } = "full";

    /// <summary>One of <see cref="Optimizers"/>.</summary>
    public string Optimizer { get; init; } = "adamw";

    /// <summary>Rank of SLTrain's factors and of GaLore's projections: a quarter of the width, as both papers have it.</summary>
    public int Rank { get; init; } = 40;

    /// <summary>Share of a layer's values that SLTrain's sparse part holds.</summary>
    public double Density { get; init; } = 0.05;

    /// <summary>Each parameter moves as soon as its gradient is complete; gradients are not clipped then.</summary>
    public bool PerLayer { get; init; }

    /// <summary>Highest learning rate; null: that of the optimiser.</summary>
    public double? LearningRate { get; init; }

    /// <summary>Steps between checkpoints.</summary>
    public int CheckpointSteps { get; init; } = 200;

    /// <summary>Optimisers by name: the learning rate, and what makes one of all that is trained, the layers' weights and the rank.</summary>
    public static IReadOnlyDictionary<string, (double Rate, Func<IReadOnlyList<Parameter>, IReadOnlyList<Parameter>, int, Optimizer> Make)> Optimizers { get; } =
        new Dictionary<string, (double, Func<IReadOnlyList<Parameter>, IReadOnlyList<Parameter>, int, Optimizer>)>
        {
            ["adamw"] = (3e-3, (all, _, _) => new AdamW(all) { WeightDecay = 0.1, Beta2 = 0.95 }),
            ["adamw-8bit"] = (3e-3, (all, _, _) => new AdamW8Bit(all) { WeightDecay = 0.1, Beta2 = 0.95 }),
            ["galore"] = (1e-2, (all, layers, rank) => new GaLore(all, layers) { Rank = rank }),
            ["galore-8bit"] = (1e-2, (all, layers, rank) => new GaLore8Bit(all, layers) { Rank = rank, WeightDecay = 0 }),
        };

    /// <summary>Sizes of the network.</summary>
    public static ModelConfig Config { get; } = ModelConfig.Parse(ConfigText);

    /// <inheritdoc/>
    public override string Samples => "windows";

    /// <inheritdoc/>
    public override string Network => ConfigText;

    /// <inheritdoc/>
    public override PretrainedResult Run(Device device, bool resume, IProgress<TrainingProgress>? progress, CancellationToken cancellation)
    {
        ByteText text = Read();
        var model = TextModel.Create(Config, device, new LoadOptions { Seed = Seed, Pack = false });
        Parameter[] layers = [.. model.Sites.Where(s => s.Kind == SiteKind.Linear && !s.IsOutput).Select(s => s.Weight)];
        AdaptedModel? adapted = Method == "full" ? null : Replace(model);
        IReadOnlyList<Parameter> parameters = adapted is null ? Trained(model) : [.. adapted.Parameters, .. Rest(model, layers)];
        (double rate, Func<IReadOnlyList<Parameter>, IReadOnlyList<Parameter>, int, Optimizer> make) = Optimizers[Optimizer];
        using Optimizer optimizer = make(parameters, adapted is null ? layers : [], Rank);
        var trainer = new Trainer(optimizer, text.Windows(Tokens), batch => Loss(model, text, batch), new TrainerOptions
        {
            Epochs = Epochs,
            BatchSize = BatchSize,
            LearningRate = LearningRate ?? rate,
            Schedule = new Schedule(Decay.Cosine, Warmup: 200),
            MaxGradientNorm = PerLayer ? 0 : 1,
            PerLayer = PerLayer,
            Seed = Seed,
            CheckpointFolder = CheckpointFolder,
            CheckpointSteps = CheckpointSteps,
        })
        {
            Adapted = adapted,
        };
        if (resume)
        {
            Resume(trainer);
        }
        TrainingResult result = trainer.Run(progress, cancellation);
        return new(model, adapted, result, parameters.Sum(p => p.Value.Shape.Count), optimizer.State().Sum(s => (long)s.Value.Bytes));
    }

    /// <summary>SLTrain in the place of all layers' weights, whose memory goes back.</summary>
    private AdaptedModel Replace(TextModel model)
    {
        AdaptedModel adapted = model.Attach(new SlTrainConfig { Targets = Names.AllLinear, Rank = Rank, Alpha = Rank, Density = Density, BaseModel = CheckpointFolder }, Seed);
        adapted.ReleaseBase();
        return adapted;
    }

    /// <summary>All weights but those of the layers.</summary>
    private static IReadOnlyList<Parameter> Rest(TextModel model, Parameter[] layers)
    {
        IReadOnlyList<Parameter> rest = model.TrainHead([.. model.Parameters.Values.Except(layers).Select(p => model.ModulePath(p.Name))]);
        foreach (Parameter p in rest.Where(p => p.Value.Shape.Rank == 1))
        {
            p.WeightDecay = 0;
        }
        return rest;
    }

    /// <inheritdoc/>
    public override void Complete(string folder) => ByteTokenizer.Write(folder, Tokens);

    /// <inheritdoc/>
    public override JsonObject Measure(string folder, Device device, CancellationToken cancellation)
    {
        using PretrainedModel saved = PretrainedModel.Load(folder, device);
        byte[] heldOut = Read().HeldOut.ToArray();
        return new JsonObject { ["held_out_bytes"] = heldOut.Length, ["bits_per_byte"] = ((TextModel)saved).BitsPerToken([.. heldOut], cancellation: cancellation) };
    }

    private static int Tokens => Config.Count("max_position_embeddings");

    private ByteText Read() => ByteText.Read(Data, Tokens);

    /// <summary>Mean cross-entropy of the bytes that follow those of the batch's windows.</summary>
    private static Tensor Loss(TextModel model, ByteText text, TrainingBatch batch)
    {
        (TextBatch inputs, int[] next) = text.Batch(batch.Indices.Span, model.MostTokens, batch.Rng);
        return Losses.CrossEntropy(model.Forward(inputs).Logits!, next);
    }
}
