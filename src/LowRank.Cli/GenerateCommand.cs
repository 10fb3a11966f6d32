using System.CommandLine;
using System.Globalization;
using System.Text.Json.Nodes;
using LowRank.Models;

namespace LowRank.Cli;

/// <summary><c>lowrank generate</c>: a decoder continues a prompt.</summary>
internal static class GenerateCommand
{
    public static Command Create()
    {
        Option<string> model = CommonOptions.TextModel();
        Option<string?> adapter = CommonOptions.Adapter();
        Option<string?> prompt = new("--prompt") { Description = "Text to go on with." };
        Option<string?> promptIds = new("--prompt-ids") { Description = "Token ids to go on with, after commas; needs no tokenizer." };
        Option<int> most = new("--max-new-tokens") { Description = "Tokens to make at most.", DefaultValueFactory = _ => 50 };
        Option<bool> greedy = new("--greedy") { Description = "Take the best token each time, draw none." };
        Option<double> temperature = new("--temperature") { Description = "Divides the logits before a token is drawn.", DefaultValueFactory = _ => 1 };
        Option<int> topK = new("--top-k") { Description = "Draw among the K best tokens; 0: all.", DefaultValueFactory = _ => 0 };
        Option<double> topP = new("--top-p") { Description = "Draw among the best tokens that together have this probability.", DefaultValueFactory = _ => 1 };
        Option<ulong> seed = CommonOptions.Seed();
        Option<string> type = CommonOptions.TypeName(), device = CommonOptions.DeviceName();
        Option<bool> json = CommonOptions.Json();
        var command = new Command("generate", "Continue a text with a decoder.") { model, adapter, prompt, promptIds, most, greedy, temperature, topK, topP, seed, type, device, json };
        command.Validators.Add(result =>
        {
            if (result.GetValue(prompt) is null == result.GetValue(promptIds) is null)
            {
                result.AddError("Give one of --prompt and --prompt-ids.");
            }
        });
        command.SetAction((parsed, cancellation) =>
        {
            string folder = LoadedModel.Locate(parsed.GetValue(model), null).Folder;
            Tokenizer? tokenizer = parsed.GetValue(prompt) is null && !File.Exists(Path.Combine(folder, Tokenizer.FileName)) ? null : Tokenizer.Load(folder);
            int[] start = parsed.GetValue(promptIds) is { } ids ? Ids(ids) : tokenizer!.Encode(parsed.GetValue(prompt)!).Ids;
            using Device on = DeviceList.Open(parsed.GetValue(device)!);
            using LoadedModel loaded = LoadedModel.Open(folder, parsed.GetValue(adapter), on, CommonOptions.TypeOf(parsed.GetValue(type)!));
            int[] made = CommonOptions.AsText(loaded.Model).Generate([start], new GenerationOptions
            {
                MaxNewTokens = parsed.GetValue(most),
                Temperature = parsed.GetValue(greedy) ? 0 : parsed.GetValue(temperature),
                TopK = parsed.GetValue(topK),
                TopP = parsed.GetValue(topP),
                Seed = parsed.GetValue(seed),
            }, cancellation: cancellation)[0];
            string? text = tokenizer?.Decode(made);
            if (parsed.GetValue(json))
            {
                Output.Json(new JsonObject { ["prompt_ids"] = new JsonArray([.. start.Select(i => (JsonNode)i)]), ["ids"] = new JsonArray([.. made.Select(i => (JsonNode)i)]), ["text"] = text });
            }
            else
            {
                Output.Line(text ?? string.Join(',', made));
            }
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    private static int[] Ids(string text) =>
    [
        .. text.Split(',', StringSplitOptions.TrimEntries).Select(t => int.TryParse(t, NumberStyles.None, CultureInfo.InvariantCulture, out int id) ? id
            : throw new UsageException($"generate: prompt-ids holds '{t}', want whole numbers after commas, such as 5,17,3")),
    ];
}
