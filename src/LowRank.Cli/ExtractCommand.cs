using System.CommandLine;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary><c>lowrank extract</c>: what fine-tuning did to a model, as an adapter.</summary>
internal static class ExtractCommand
{
    public static Command Create()
    {
        Option<string> model = new("--model") { Description = "Folder of the fine-tuned model.", Required = true };
        Option<string> start = new("--base") { Description = "Folder of the model that it was made of.", Required = true };
        Option<string> output = new("--output") { Description = "Folder for the adapter, in PEFT's format.", Required = true };
        Option<int> rank = new("--rank") { Description = "Singular values that are kept of each matrix.", DefaultValueFactory = _ => 16 };
        Option<bool> json = CommonOptions.Json();
        var command = new Command("extract", "Write the difference of two models as a LoRA; embeddings, norms and heads are kept whole in it.") { model, start, output, rank, json };
        command.SetAction(parsed =>
        {
            (string tuned, string from, string to) = (parsed.GetValue(model)!, parsed.GetValue(start)!, parsed.GetValue(output)!);
            LoadedModel.RequireOther("extract: output", to, tuned, from);
            using TensorSource before = TensorSource.Open(from), after = TensorSource.Open(tuned);
            double held = LoraExtraction.Extract(before, after, parsed.GetValue(rank), to, from);
            Output.Facts(new JsonObject { ["model"] = tuned, ["base"] = from, ["output"] = to, ["rank"] = parsed.GetValue(rank), ["held"] = Math.Round(held, 4) }, parsed.GetValue(json));
            return ExitCode.Done;
        });
        return command;
    }
}
