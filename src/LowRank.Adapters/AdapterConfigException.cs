namespace LowRank.Adapters;

/// <summary>An adapter's settings do not fit together, or do not fit the model: the message names the setting, what it is and what is wanted.</summary>
public sealed class AdapterConfigException(string message, Exception? inner = null) : ArgumentException(message, inner);
