using System.Diagnostics;
using System.Globalization;
using LowRank.Training;
using Spectre.Console;

namespace LowRank.Cli;

/// <summary>Progress of training runs on standard error: bars where that is a terminal, about twenty lines a run where it is not, nothing when it has to be quiet.</summary>
internal abstract class TrainingDisplay
{
    /// <summary>Runs some work with a display open.</summary>
    /// <param name="quiet">Show nothing.</param>
    /// <param name="work">Gets the display; a run is one <see cref="Add(string, string, Metric?)"/>.</param>
    public static T Show<T>(bool quiet, Func<TrainingDisplay, T> work) =>
        quiet ? work(new Silence()) : Console.IsErrorRedirected ? work(new Lines()) : Bars.Show(work);

    /// <summary>A line for one run; tell it each step.</summary>
    /// <param name="title">Method, seed: what tells this run from the others.</param>
    /// <param name="samples">What its samples are called.</param>
    /// <param name="metric">What is measured; null: accuracy.</param>
    public IProgress<TrainingProgress> Add(string title, string samples = "images", Metric? metric = null) => Add(new Run(title, samples, metric ?? Metric.Accuracy));

    /// <summary>A line for one run.</summary>
    protected abstract IProgress<TrainingProgress> Add(Run run);

    /// <summary>What is shown of a run.</summary>
    protected sealed record Run(string Title, string Samples, Metric Metric)
    {
        /// <summary>Figures of a step: loss, learning rate, samples/s, remaining time.</summary>
        public string Figures(TrainingProgress step, TimeSpan? remaining) => string.Create(
            CultureInfo.InvariantCulture,
            $"loss {step.Loss:F4}  rate {step.LearningRate:0.0E+0}  {step.SamplesPerSecond:F0} {Samples}/s{(remaining is { } r ? $"  ETA {Clock(r)}" : "")}");

        /// <summary>The value of a measurement, which is compared as a score.</summary>
        public string Measured(double score, int digits = 2) => Metric.Text(Metric.Score(score), digits);
    }

    private static string Clock(TimeSpan time) => time.TotalHours >= 1 ? time.ToString(@"h\:mm\:ss", CultureInfo.InvariantCulture) : time.ToString(@"m\:ss", CultureInfo.InvariantCulture);

    /// <summary>Time left at the mean pace since the first step seen; a resumed run counts its own steps only.</summary>
    private sealed class Pace
    {
        private long first = -1, started;

        public TimeSpan? Remaining(TrainingProgress step)
        {
            if (first < 0)
            {
                (first, started) = (step.Step, Stopwatch.GetTimestamp());
            }
            long done = step.Step - first;
            return done == 0 ? null : Stopwatch.GetElapsedTime(started) * ((double)(step.Steps - step.Step) / done);
        }
    }

    private sealed class Silence : TrainingDisplay, IProgress<TrainingProgress>
    {
        protected override IProgress<TrainingProgress> Add(Run run) => this;

        public void Report(TrainingProgress value)
        {
        }
    }

    private sealed class Lines : TrainingDisplay
    {
        private const int LinesOfRun = 20;

        protected override IProgress<TrainingProgress> Add(Run run) => new Line(run);

        private sealed class Line(Run run) : IProgress<TrainingProgress>
        {
            private readonly Pace pace = new();

            public void Report(TrainingProgress value)
            {
                TimeSpan? remaining = pace.Remaining(value);
                if (value.Step == 1 || value.Step == value.Steps || value.Step * LinesOfRun / value.Steps != (value.Step - 1) * LinesOfRun / value.Steps)
                {
                    string measured = value.Evaluation is { } e ? $"  {run.Metric.Name} {run.Measured(e)}" : "";
                    Console.Error.WriteLine($"{run.Title}: step {value.Step}/{value.Steps}  {run.Figures(value, remaining)}{measured}");
                }
            }
        }
    }

    /// <summary>Spectre's bars; nothing of that library is loaded without a terminal.</summary>
    private sealed class Bars(ProgressContext context) : TrainingDisplay
    {
        public static T Show<T>(Func<TrainingDisplay, T> work)
        {
            bool plain = !string.IsNullOrEmpty(Environment.GetEnvironmentVariable("NO_COLOR"));
            IAnsiConsole console = AnsiConsole.Create(new AnsiConsoleSettings
            {
                Out = new AnsiConsoleOutput(Console.Error),
                ColorSystem = plain ? ColorSystemSupport.NoColors : ColorSystemSupport.Detect,
            });
            return console.Progress().HideCompleted(false)
                .Columns(new TaskDescriptionColumn { Alignment = Justify.Left }, new ProgressBarColumn { Width = 12 })
                .Start(context => work(new Bars(context)));
        }

        protected override IProgress<TrainingProgress> Add(Run run) => new Bar(context.AddTask(Markup.Escape(run.Title)), run);

        private sealed class Bar(ProgressTask task, Run run) : IProgress<TrainingProgress>
        {
            private readonly Pace pace = new();
            private string measured = "";

            public void Report(TrainingProgress value)
            {
                measured = value.Evaluation is { } e ? $"  {run.Metric.Name} {run.Measured(e, digits: 1)}" : measured;
                task.MaxValue = value.Steps;
                task.Value = value.Step;
                task.Description = Markup.Escape($"{run.Title}  {run.Figures(value, pace.Remaining(value))}{measured}");
            }
        }
    }
}
