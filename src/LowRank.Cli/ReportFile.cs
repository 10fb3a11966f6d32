using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using LowRank.Adapters;
using LowRank.Formats;

namespace LowRank.Cli;

/// <summary>How the models of a merge agree, tensor by tensor, as JSON or Markdown.</summary>
internal static class ReportFile
{
    /// <summary>Refuses a name before anything is computed.</summary>
    /// <exception cref="UsageException">Its ending is neither .json nor .md.</exception>
    public static void Check(string? path)
    {
        if (path is not null && Path.GetExtension(path) is not (".json" or ".md"))
        {
            throw new UsageException($"--report is {path}, want a name that ends with .json or .md");
        }
    }

    /// <summary>Writes it where one is asked for.</summary>
    /// <exception cref="IOException">It cannot be written.</exception>
    public static void Write(string? path, string file, MergeRecipe recipe, IReadOnlyList<TensorInterference> rows)
    {
        if (path is not null)
        {
            AtomicFile.WriteText(path, Path.GetExtension(path) == ".json" ? Json(file, recipe, rows) : Markdown(file, recipe, rows));
        }
    }

    /// <summary>The mean over tensors, NaN left out; null where nothing is left.</summary>
    public static double? Mean(IReadOnlyList<TensorInterference> rows, Func<TensorInterference, double> figure) =>
        rows.Select(figure).Where(double.IsFinite).Select(v => (double?)v).Average();

    private static string Json(string file, MergeRecipe recipe, IReadOnlyList<TensorInterference> rows) => new JsonObject
    {
        ["recipe"] = file,
        ["method"] = recipe.Method.Name,
        ["models"] = new JsonArray([.. recipe.Models.Select(m => (JsonNode)m)]),
        ["tensors"] = new JsonArray([.. rows.Select(r => (JsonNode)new JsonObject
        {
            ["tensor"] = r.Tensor,
            ["inputs"] = r.Inputs,
            ["sign_conflicts"] = r.SignConflicts,
            ["mean_cosine"] = Output.Value(r.MeanCosine),
            ["least_cosine"] = Output.Value(r.LeastCosine),
            ["kept"] = Output.Value(r.Kept),
            ["max_rounding"] = r.MaxRounding,
            ["rms_rounding"] = r.RmsRounding,
        })]),
    }.ToJsonString(new JsonSerializerOptions { WriteIndented = true, NewLine = "\n" }) + "\n";

    private static string Markdown(string file, MergeRecipe recipe, IReadOnlyList<TensorInterference> rows)
    {
        var text = new StringBuilder();
        text.Append(CultureInfo.InvariantCulture, $"# {file}: {recipe.Method.Name} of {string.Join(", ", recipe.Models)}\n\n");
        text.Append("Differences are taken to the base, or without one to the models' mean. Kept: length of the merged change over the models' mean length of change.\n\n");
        text.Append("| tensor | models | sign conflicts | mean cosine | least cosine | kept | largest rounding | rounding, rms |\n|---|---|---|---|---|---|---|---|\n");
        foreach (TensorInterference r in rows)
        {
            text.Append(CultureInfo.InvariantCulture, $"| {r.Tensor} | {r.Inputs} | {r.SignConflicts:P1} | {Cell(r.MeanCosine)} | {Cell(r.LeastCosine)} | {Cell(r.Kept)} | {r.MaxRounding:G2} | {r.RmsRounding:G2} |\n");
        }
        return text.ToString();
    }

    private static string Cell(double value) => double.IsFinite(value) ? value.ToString("F3", CultureInfo.InvariantCulture) : "-";
}
