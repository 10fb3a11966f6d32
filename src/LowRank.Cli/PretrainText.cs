using System.Text;
using System.Text.Json.Nodes;
using LowRank.Models;
using LowRank.Training;

namespace LowRank.Cli;

/// <summary>The recipe of the shipped text model: a decoder of about 1 M parameters over bytes, trained from nothing on the King James text.</summary>
internal sealed record PretrainText : PretrainRecipe
{
    /// <summary>Of every so many stretches of so many lines the last is held out.</summary>
    private const int Stretches = 20, Lines = 64;

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

    /// <summary>Highest learning rate of AdamW.</summary>
    public double LearningRate { get; init; } = 3e-3;

    /// <summary>Steps between checkpoints.</summary>
    public int CheckpointSteps { get; init; } = 200;

    /// <summary>Sizes of the network.</summary>
    public static ModelConfig Config { get; } = ModelConfig.Parse(ConfigText);

    /// <inheritdoc/>
    public override string Samples => "windows";

    /// <inheritdoc/>
    public override string Network => ConfigText;

    /// <inheritdoc/>
    public override (PretrainedModel Model, TrainingResult Result) Run(Device device, bool resume, IProgress<TrainingProgress>? progress, CancellationToken cancellation)
    {
        (byte[] text, byte[] heldOut) = Read();
        int tokens = Config.Count("max_position_embeddings"), windows = ((text.Length - 1) / tokens) - 1;
        if (windows < 1 || heldOut.Length < 2)
        {
            throw new UsageException($"pretrain: {Data} has {text.Length} bytes to train on and {heldOut.Length} held out, want at least {(2 * tokens) + 1} and 2 in {Stretches * Lines} lines");
        }
        var model = TextModel.Create(Config, device, new LoadOptions { Seed = Seed, Pack = false });
        using var optimizer = new AdamW(Trained(model)) { WeightDecay = 0.1, Beta2 = 0.95 };
        var trainer = new Trainer(optimizer, windows, batch => Loss(model, text, batch), new TrainerOptions
        {
            Epochs = Epochs,
            BatchSize = BatchSize,
            LearningRate = LearningRate,
            Schedule = new Schedule(Decay.Cosine, Warmup: 200),
            MaxGradientNorm = 1,
            Seed = Seed,
            CheckpointFolder = CheckpointFolder,
            CheckpointSteps = CheckpointSteps,
        });
        if (resume)
        {
            Resume(trainer);
        }
        return (model, trainer.Run(progress, cancellation));
    }

    /// <inheritdoc/>
    public override void Complete(string folder) => ByteTokenizer.Write(folder, Config.Count("max_position_embeddings"));

    /// <inheritdoc/>
    public override JsonObject Measure(string folder, Device device, CancellationToken cancellation)
    {
        using PretrainedModel saved = PretrainedModel.Load(folder, device);
        byte[] text = Read().HeldOut;
        return new JsonObject { ["held_out_bytes"] = text.Length, ["bits_per_byte"] = ((TextModel)saved).BitsPerToken([.. text], cancellation: cancellation) };
    }

    /// <summary>The bytes to train on and those to measure with.</summary>
    private (byte[] Train, byte[] HeldOut) Read()
    {
        string[] lines = File.ReadAllLines(Data, Encoding.Latin1);
        byte[] Part(bool heldOut) => Encoding.Latin1.GetBytes(string.Concat(lines.Where((_, i) => i / Lines % Stretches == Stretches - 1 == heldOut).Select(l => l + '\n')));
        return (Part(heldOut: false), Part(heldOut: true));
    }

    /// <summary>Mean cross-entropy of the bytes that follow those of the batch's windows. A window is moved by up to its length, so that each pass cuts elsewhere.</summary>
    private static Tensor Loss(TextModel model, byte[] text, TrainingBatch batch)
    {
        int tokens = model.MostTokens;
        int[] inputs = new int[batch.Indices.Length * tokens], labels = new int[inputs.Length];
        for (int row = 0; row < batch.Indices.Length; row++)
        {
            int start = (batch.Indices.Span[row] * tokens) + batch.Rng.Below(tokens);
            for (int t = 0; t < tokens; t++)
            {
                inputs[(row * tokens) + t] = text[start + t];
                labels[(row * tokens) + t] = text[start + t + 1];
            }
        }
        return Losses.CrossEntropy(model.Forward(new TextBatch(batch.Indices.Length, inputs)).Logits!, labels);
    }
}
