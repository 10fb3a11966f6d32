using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Formats;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank embed</c>: a vector a line of text.</summary>
internal static class EmbedCommand
{
    public static Command Create()
    {
        Option<string> model = CommonOptions.TextModel();
        Option<string?> adapter = CommonOptions.Adapter();
        Option<string> input = new("--input") { Description = "A text a line.", Required = true };
        Option<string> output = new("--output") { Description = "Where the vectors go: .npy (f32, a row a line) or .jsonl.", Required = true };
        Option<int> batch = new("--batch-size") { Description = "Texts at once.", DefaultValueFactory = _ => 32 };
        Option<int?> most = new("--max-tokens") { Description = "Tokens a text may have; longer ones are cut. Default: what the model takes." };
        Option<bool> raw = new("--no-normalize") { Description = "Keep the vectors' lengths; they are scaled to 1 otherwise." };
        Option<string> type = CommonOptions.TypeName(), device = CommonOptions.DeviceName();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("embed", "Turn texts into vectors: the mean of the last hidden state over their tokens.") { model, adapter, input, output, batch, most, raw, type, device, json };
        command.SetAction((parsed, cancellation) =>
        {
            string from = parsed.GetValue(input)!, to = parsed.GetValue(output)!, ending = Path.GetExtension(to);
            int size = parsed.GetValue(batch);
            if (ending is not (".npy" or ".jsonl") || size < 1)
            {
                throw new UsageException($"embed: output is {to} and batch-size {size}, want a name that ends with .npy or .jsonl and at least 1");
            }
            string folder = LoadedModel.Locate(parsed.GetValue(model), null).Folder;
            string[] lines = TextFile.Lines(from);
            Tokenizer tokenizer = Tokenizer.Load(folder);
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            using LoadedModel loaded = LoadedModel.Open(folder, parsed.GetValue(adapter), on, CommonOptions.TypeOf(parsed.GetValue(type)!), LoadedModel.ClassesOf(parsed.GetValue(adapter), folder));
            TextModel text = CommonOptions.AsText(loaded.Model);
            var cut = new Truncation(Math.Min(parsed.GetValue(most) ?? text.MostTokens, text.MostTokens));
            IReadOnlyList<TokenEncoding> tokens = tokenizer.EncodeAll(lines, truncation: cut);
            var rows = new float[lines.Length][];
            int[] order = [.. Enumerable.Range(0, lines.Length).OrderBy(i => tokens[i].Ids.Length)];      // less padding
            foreach (int[] chosen in order.Chunk(size))
            {
                cancellation.ThrowIfCancellationRequested();
                float[][] made = SentenceEmbedding.Of(text, TextBatch.Pad([.. chosen.Select(i => tokens[i].Ids)], text.PadId, types: [.. chosen.Select(i => tokens[i].TypeIds)]), !parsed.GetValue(raw));
                for (int i = 0; i < chosen.Length; i++)
                {
                    rows[chosen[i]] = made[i];
                }
            }
            Write(to, rows, on);
            Output.Facts(new JsonObject { ["texts"] = rows.Length, ["width"] = rows[0].Length, ["cut"] = tokens.Count(t => t.Overflow.Count > 0), ["output"] = to }, parsed.GetValue(json));
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    private static void Write(string to, float[][] rows, Device device)
    {
        if (Path.GetExtension(to) == ".npy")
        {
            using Scope scope = device.NewStore();
            NpyFile.Save(to, TensorData.Of("embeddings", scope.Of([rows.Length, rows[0].Length], (float[])[.. rows.SelectMany(r => r)])));
            return;
        }
        AtomicFile.WriteText(to, string.Concat(rows.Select(r => "[" + string.Join(',', r.Select(v => v.ToString("R", CultureInfo.InvariantCulture))) + "]\n")));
    }
}
