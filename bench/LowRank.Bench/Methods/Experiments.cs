namespace LowRank.Bench.Methods;

/// <summary>A sheet's experiment, scaled down so that it runs in minutes on two cores: it prints a table, and bench/methods/NAME.md tells of it.</summary>
/// <param name="Name">As the command line calls it.</param>
/// <param name="Description">What it shows.</param>
/// <param name="Run">Runs it and gives the table as Markdown.</param>
public sealed record Experiment(string Name, string Description, Func<CancellationToken, string> Run);

/// <summary>The experiments by name: one file a method, one line here.</summary>
public static class Experiments
{
    /// <summary>Every experiment.</summary>
    public static IReadOnlyList<Experiment> All { get; } =
    [
        new("randlora", "What RandLoRA and LoRA of as many parameters leave of updates of full rank", RandLoraExperiment.Run),
        new("salt", "What LoRA, singular values alone and SALT leave of the error on a changed task", SaltExperiment.Run),
        new("snell", "What LoRA, kernel distances and SNELL leave of a sparse update", SnellExperiment.Run),
        new("galore", "A decoder trained from nothing on the King James text: every weight, factors alone, and GaLore", PretrainExperiment.GaLore),
        new("sltrain", "A decoder trained from nothing on the King James text: every weight, factors alone, and SLTrain", PretrainExperiment.SlTrain),
        new("concrete", "Four models of turned and negative digits merged: averages, TIES, DARE, and masks and weights learned by entropy", ConcreteExperiment.Run),
        new("wara", "What LoRA and WaRA of 1,024 parameters leave of smooth, rough and mixed updates", WaraExperiment.Run),
        new("completion", "Seconds until a matrix of rank k is completed, by Cholesky factors, conjugate gradients and the sketched preconditioner", CompletionExperiment.Run),
        new("loca", "LoRA, LoCA and cosines at places that stay, of equal size, on the shipped decoder", LocaExperiment.Run),
    ];

    /// <summary>The experiment of a name, or null.</summary>
    public static Experiment? Find(string name) => All.FirstOrDefault(e => e.Name == name);
}
