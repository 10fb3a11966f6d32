using System.CommandLine;
using System.Text.Json.Nodes;

namespace LowRank.Cli;

/// <summary><c>lowrank kernels</c>: the CUDA kernels, and what the compiler says of them.</summary>
internal static class KernelsCommand
{
    public static Command Create()
    {
        var json = CommonOptions.Json();
        var command = new Command("kernels", "List the CUDA kernels, with registers and spills where NVRTC is found.") { json };
        command.SetAction(parsed =>
        {
            if (CudaKernelList.NvrtcVersion is null)
            {
                Console.Error.WriteLine($"no registers or spills: {CudaKernelList.NvrtcDiagnosis}");
            }
            bool asJson = parsed.GetValue(json);
            Output.Rows([.. CudaKernelList.All().Select(k => Row(k, asJson))], asJson);
            return ExitCode.Done;
        });
        return command;
    }

    private static JsonObject Row(CudaKernelInfo kernel, bool json)
    {
        var row = new JsonObject { ["name"] = kernel.Name, ["file"] = kernel.File, ["type"] = $"{kernel.Type}", ["threads"] = kernel.Threads, ["emulated"] = kernel.Emulated, ["gpu"] = "pending" };
        row["builds"] = json
            ? new JsonArray([.. kernel.Builds.Select(b => new JsonObject { ["architecture"] = b.Architecture, ["registers"] = b.Registers, ["spills"] = b.SpillBytes, ["stack"] = b.StackBytes })])
            : string.Join(", ", kernel.Builds.Select(b => $"{b.Architecture} {b.Registers} registers{(b.SpillBytes > 0 ? $" {b.SpillBytes} B spilled" : "")}"));
        row["notes"] = json ? new JsonArray([.. kernel.Notes.Select(n => (JsonNode)n)]) : string.Join("; ", kernel.Notes);
        return row;
    }
}
