using System.Globalization;
using System.Text;
using LowRank.Adapters;
using LowRank.Models;

namespace LowRank.Bench.Methods;

/// <summary>LoCA's sheet, scaled down: the shipped decoder is adapted to a text of another kind by LoRA of rank 2 on query and value, by LoCA with as many
/// coefficients whose places are learned for a tenth or half of the run, and by as many cosines at random places that stay (what FourierFT does with waves).</summary>
public static class LocaExperiment
{
    private const int Coefficients = 512, Steps = 120, Windows = 6, Bytes = 64, Seeds = 2;
    private const double HeldOut = 0.25;

    private static readonly string[] Targets = ["q_proj", "v_proj"];

    /// <summary>Runs it: bits a byte of the held-out end of the text, as a Markdown table.</summary>
    public static string Run(CancellationToken stop)
    {
        (string Name, AdapterConfig Config, double[] Rates)[] methods =
        [
            ("LoRA r 2", new LoraConfig { Targets = Targets, Rank = 2, Alpha = 4 }, [1e-2, 3e-2]),
            ("LoCA, places learned for a tenth", Loca(Steps / 10), [3e-2, 1e-1]),
            ("LoCA, places learned for half", Loca(Steps / 2), [3e-2, 1e-1]),
            ("cosines at random places", Loca(0), [3e-2, 1e-1]),
        ];
        using Device device = Device.Cpu();
        using var model = (TextModel)PretrainedModel.Load(BaseModel.TextFolder, device);
        int[] text = [.. Tokenizer.Load(BaseModel.TextFolder).Encode(File.ReadAllText(Path.Combine(BaseModel.TextFolder, "ship-log.txt"))).Ids];
        int cut = (int)((1 - HeldOut) * text.Length);
        var table = new StringBuilder("| method | parameters | rate | bits a byte, mean | each seed |\n|---|---|---|---|---|\n");
        table.Append(CultureInfo.InvariantCulture, $"| none | 0 | | {model.BitsPerToken(text.AsSpan(cut), cancellation: stop):F3} | |\n");
        foreach ((string name, AdapterConfig config, double[] rates) in methods)
        {
            (double Rate, double[] Bits, long Count) best = rates.Select(rate => Fit(model, config, text, cut, rate, stop)).MinBy(r => r.Bits.Average());
            table.Append(CultureInfo.InvariantCulture, $"| {name} | {best.Count:N0} | {best.Rate:0.###} | {best.Bits.Average():F3} | {string.Join(", ", best.Bits.Select(b => b.ToString("F3", CultureInfo.InvariantCulture)))} |\n");
        }
        return table.ToString();
    }

    private static LocaConfig Loca(int learned) => new() { Targets = Targets, Coefficients = Coefficients, LocationIterations = learned };

    /// <summary>Bits a byte of what lies behind <paramref name="cut"/> after training on what lies before, for each seed.</summary>
    private static (double Rate, double[] Bits, long Count) Fit(TextModel model, AdapterConfig config, int[] text, int cut, double rate, CancellationToken stop)
    {
        long count = 0;
        double[] bits = [.. Enumerable.Range(0, Seeds).Select(seed =>
        {
            using AdaptedModel adapted = model.Attach(config, (ulong)seed);
            count = adapted.Adapters.Sum(a => config.ParameterCount(a.Site));
            using var optimizer = new AdamW(adapted.Parameters) { WeightDecay = 0 };
            var rng = new Rng((ulong)seed);
            for (int k = 0; k < Steps; k++)
            {
                stop.ThrowIfCancellationRequested();
                int[] starts = [.. Enumerable.Range(0, Windows).Select(_ => rng.Below(cut - Bytes))];
                optimizer.LearningRate = rate * (1 - ((double)k / Steps));
                using Tape tape = model.Device.BeginTape();
                var batch = new TextBatch(Windows, [.. starts.SelectMany(s => text[s..(s + Bytes)])]);
                tape.Backward(model.NextWordLoss(batch, [.. starts.SelectMany(s => text[(s + 1)..(s + Bytes + 1)])]));
                adapted.Step(optimizer);
            }
            return model.BitsPerToken(text.AsSpan(cut), cancellation: stop);
        })];
        return (rate, bits, count);
    }
}
