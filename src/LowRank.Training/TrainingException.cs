namespace LowRank.Training;

/// <summary>A run cannot go on: its loss is not finite, or its settings contradict each other. The message says what to change.</summary>
public sealed class TrainingException(string message) : InvalidOperationException(message);
