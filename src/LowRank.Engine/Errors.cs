namespace LowRank;

/// <summary>An operand has the wrong shape, type or value: <c>Type: operand is X, want Y</c>.</summary>
public class ShapeException(string message) : ArgumentException(message);

/// <summary>A kernel refused or failed: the message names the kernel, its type and the status.</summary>
public sealed class KernelException(string message) : InvalidOperationException(message);

/// <summary>The native library or a device cannot be used: what was looked for, where, and how to get it.</summary>
public sealed class DeviceException(string message, Exception? inner = null) : InvalidOperationException(message, inner);

/// <summary>Values that a computation has no answer for: NaN or infinity in an operand, a singular or an indefinite matrix.</summary>
public sealed class NumericException(string message) : ArithmeticException(message);
