using System.CommandLine;
using System.Diagnostics;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary><c>lowrank kernels</c>: the CUDA kernels, and what the compiler says of them.</summary>
internal static class KernelsCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        Option<string[]> files = new("--file") { Description = "Only these kernel files, for example gemm.cu.", AllowMultipleArgumentsPerToken = true };
        Option<string?> prebuild = new("--prebuild") { Description = $"Compile for sm_80, sm_86, sm_89, sm_90a and newer into this archive; an application finds it beside itself as {CudaKernelList.PrebuiltName}." };
        Option<bool> markdown = new("--markdown") { Description = "Print the table of the README." };
        var command = new Command("kernels", "List the CUDA kernels, with registers and spills where NVRTC is found.") { files, prebuild, json, markdown };
        command.SetAction((parsed, cancellation) =>
        {
            string[] chosen = parsed.GetValue(files) ?? [];
            if (parsed.GetValue(prebuild) is { } path)
            {
                Prebuild(path, chosen, parsed.GetValue(json), cancellation);
                return Task.FromResult(ExitCode.Done);
            }
            if (CudaKernelList.NvrtcVersion is null)
            {
                Console.Error.WriteLine($"no registers or spills: {CudaKernelList.NvrtcDiagnosis}");
            }
            if (parsed.GetValue(markdown))
            {
                Output.Text(KernelTable.Markdown());
                return Task.FromResult(ExitCode.Done);
            }
            bool asJson = parsed.GetValue(json);
            Output.Rows([.. CudaKernelList.All(chosen).Select(k => Row(k, asJson))], asJson);
            return Task.FromResult(ExitCode.Done);
        });
        return command;
    }

    private static void Prebuild(string path, string[] files, bool json, CancellationToken cancellation)
    {
        long started = Stopwatch.GetTimestamp();
        int count = CudaKernelList.Prebuild(path, files, cancellation);
        Output.Facts(new JsonObject
        {
            ["archive"] = path,
            ["binaries"] = count,
            ["bytes"] = new FileInfo(path).Length,
            ["nvrtc"] = CudaKernelList.NvrtcVersion,
            ["seconds"] = Math.Round(Stopwatch.GetElapsedTime(started).TotalSeconds, 3),
        }, json);
    }

    private static JsonObject Row(CudaKernelInfo kernel, bool json)
    {
        var row = new JsonObject { ["name"] = kernel.Name, ["file"] = kernel.File, ["type"] = $"{kernel.Type}", ["threads"] = kernel.Threads, ["row"] = kernel.Row, ["gpu"] = "pending" };
        row["builds"] = json
            ? new JsonArray([.. kernel.Builds.Select(b => new JsonObject { ["architecture"] = b.Architecture, ["registers"] = b.Registers, ["spills"] = b.SpillBytes, ["stack"] = b.StackBytes })])
            : string.Join(", ", kernel.Builds.Select(b => $"{b.Architecture} {b.Registers} registers{(b.SpillBytes > 0 ? $" {b.SpillBytes} B spilled" : "")}"));
        row["notes"] = json ? new JsonArray([.. kernel.Notes.Select(n => (JsonNode)n)]) : string.Join("; ", kernel.Notes);
        return row;
    }
}
