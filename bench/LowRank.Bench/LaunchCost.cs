using System.Diagnostics;
using System.Runtime.InteropServices;

namespace LowRank.Bench;

/// <summary>What a launch on a GPU costs the host beside the driver: the engine's whole way from the tensor to the driver, over a stand-in that counts
/// launches and runs none (tests/native/fake_cuda), less the same calls of that stand-in made directly.</summary>
internal static unsafe class LaunchCost
{
    private const int Launches = 20_000, Repeats = 15;

    /// <summary>Microseconds a launch.</summary>
    public static double Measure()
    {
        string folder = Path.Combine(AppContext.BaseDirectory, "fake_cuda");
        Environment.SetEnvironmentVariable("LOWRANK_CUDA", folder);
        Environment.SetEnvironmentVariable("LOWRANK_CACHE", Path.Combine(folder, "cache"));
        nint driver = NativeLibrary.Load(Path.Combine(folder, "libcuda.so.1"));
        fixed (byte* counted = "noop=1"u8)
        {
            ((delegate* unmanaged<byte*, void>)NativeLibrary.GetExport(driver, "lr_fake_set"))(counted);
        }
        using Device device = Device.Cuda();
        using Scope scope = device.BeginScope();
        Tensor x = scope.New([1000], DType.F32);
        var current = (delegate* unmanaged[SuppressGCTransition]<nint*, int>)NativeLibrary.GetExport(driver, "cuCtxGetCurrent");
        var launch = (delegate* unmanaged<nint, uint, uint, uint, uint, uint, uint, uint, nint, void**, void**, int>)NativeLibrary.GetExport(driver, "cuLaunchKernel");
        (nint function, nint stream) = Prepare(driver);
        byte* args = stackalloc byte[64];
        List<double> added = [];
        for (int repeat = 0; repeat < Repeats; repeat++)
        {
            long began = Stopwatch.GetTimestamp();
            for (int i = 0; i < Launches; i++)
            {
                x.Fill(1);
            }
            long between = Stopwatch.GetTimestamp();
            for (int i = 0; i < Launches; i++)
            {
                nint context;
                void* parameters = args;
                if (current(&context) != 0 || launch(function, 1, 1, 1, 256, 1, 1, 0, stream, &parameters, null) != 0)
                {
                    throw new InvalidDataException("the stand-in for the driver refuses a launch");
                }
            }
            added.Add((Stopwatch.GetElapsedTime(began, between) - Stopwatch.GetElapsedTime(between)).TotalMicroseconds / Launches);
        }
        return added.Order().ElementAt(Repeats / 2);
    }

    private static (nint Function, nint Stream) Prepare(nint driver)
    {
        nint module, function, stream;
        fixed (byte* image = "LowRank stand-in image 1"u8, name = "fill"u8)
        {
            int status = ((delegate* unmanaged<nint*, byte*, int>)NativeLibrary.GetExport(driver, "cuModuleLoadData"))(&module, image)
                | ((delegate* unmanaged<nint*, nint, byte*, int>)NativeLibrary.GetExport(driver, "cuModuleGetFunction"))(&function, module, name)
                | ((delegate* unmanaged<nint*, uint, int>)NativeLibrary.GetExport(driver, "cuStreamCreate"))(&stream, 0);
            return status == 0 ? (function, stream) : throw new InvalidDataException($"the stand-in for the driver answers {status}");
        }
    }
}
