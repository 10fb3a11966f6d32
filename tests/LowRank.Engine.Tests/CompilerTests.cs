using System.Text;
using Xunit;

namespace LowRank.Engine.Tests;

/// <summary>The compiler around NVRTC: its cache on disk, errors that point into the source, and kernels compiled beforehand where there is no NVRTC.</summary>
public sealed class CompilerTests : IDisposable
{
    private const string Tiny = "tiny.cu";
    private static readonly CudaSources Sources = CudaSources.Shipped.With(Tiny, "#include \"common.cuh\"\nLR_KERNEL(tiny, FillArgs, 32, 1) { lr_put(static_cast<scalar*>(p.y), 1.0f, true); }\n");
    private readonly string folder = Directory.CreateTempSubdirectory("lowrank-compiler").FullName;

    public void Dispose() => Directory.Delete(folder, recursive: true);

    [Fact]
    public void Cache_gives_back_what_was_written_and_nothing_else()
    {
        var cache = new CudaCache(folder);
        Assert.Null(cache.TryRead("a"));
        cache.Write("a", [1, 2, 3], "log of a");
        cache.Write("b", [], "");
        Assert.Equal("log of a 1,2,3", Shown(cache.TryRead("a")));
        Assert.Equal(" ", Shown(new CudaCache(folder).TryRead("b")));
        Assert.Null(cache.TryRead("c"));
        Assert.Null(cache.Trouble);
        Assert.Equal(["a.cubin", "b.cubin"], Names());
    }

    [Fact]
    public void Cache_deletes_an_entry_of_which_a_byte_changed_or_is_missing()
    {
        var cache = new CudaCache(folder);
        cache.Write("a", [1, 2, 3], "log");
        byte[] whole = File.ReadAllBytes(EntryPath("a"));
        for (int i = 0; i < whole.Length; i++)
        {
            byte[] bent = [.. whole];
            bent[i] ^= 0x10;
            foreach (byte[] bad in (byte[][])[bent, whole[..i]])
            {
                File.WriteAllBytes(EntryPath("a"), bad);
                Assert.Null(cache.TryRead("a"));
                Assert.False(File.Exists(EntryPath("a")), $"an entry bent at byte {i} stays");
            }
        }
    }

    [Fact]
    public void Cache_over_its_limit_drops_what_was_used_longest_ago()
    {
        var cache = new CudaCache(folder, limit: 3500);
        foreach ((string key, int age) in (ReadOnlySpan<(string, int)>)[("a", 4), ("b", 3), ("c", 2)])
        {
            cache.Write(key, new byte[1000], "");
            File.SetLastWriteTimeUtc(EntryPath(key), File.GetLastWriteTimeUtc(EntryPath(key)).AddHours(-age));
        }
        File.Copy(EntryPath("c"), EntryPath("c") + ".left", overwrite: true);    // what a killed process leaves
        Assert.NotNull(cache.TryRead("a"));
        cache.Write("d", new byte[1000], "");
        Assert.Equal(["a.cubin", "c.cubin", "d.cubin"], Names());
    }

    [Fact]
    public void Cache_that_cannot_be_written_is_said_once_and_fails_nothing()
    {
        File.WriteAllText(Path.Combine(folder, "file"), "");
        var cache = new CudaCache(Path.Combine(folder, "file", "cache"));
        Assert.Null(cache.TryRead("a"));
        cache.Write("a", [1], "");
        cache.Write("b", [1], "");
        Assert.StartsWith($"CudaCache: {Path.Combine(folder, "file", "cache")} cannot be written (", cache.Trouble, StringComparison.Ordinal);
        Assert.EndsWith("set LOWRANK_CACHE to a folder that can", cache.Trouble, StringComparison.Ordinal);
        Assert.Single(cache.Trouble!.Split('\n'));
    }

    [Fact]
    public async Task Cache_is_whole_whoever_writes_it_at_the_same_time()
    {
        byte[] content = [.. Enumerable.Range(0, 100_000).Select(i => (byte)i)];
        await Task.WhenAll(Enumerable.Range(0, 4).Select(_ => Task.Run(() =>
        {
            var cache = new CudaCache(folder);
            for (int i = 0; i < 10; i++)
            {
                cache.Write("a", content, "log");
                Assert.True(cache.TryRead("a") is { } found && found.Cubin.AsSpan().SequenceEqual(content));
            }
        })));
        Assert.Equal(["a.cubin"], Names());
    }

    [Fact]
    public void A_key_changes_with_everything_that_the_machine_code_depends_on()
    {
        var variant = new CudaVariant(Tiny, DType.F32, 80);
        string Key(string nvrtc, CudaSources sources, CudaVariant v) => new CudaCompiler(null, nvrtc, "", sources).Key(v);
        string[] keys =
        [
            Key("12.4", Sources, variant), Key("12.5", Sources, variant), Key("12.4", Sources, variant with { Architecture = 86 }), Key("12.4", Sources, variant with { Type = DType.F16 }),
            Key("12.4", Sources, variant with { Portable = true }), Key("12.4", Sources.With(Tiny, "other"), variant), Key("12.4", Sources.With("common.cuh", "other"), variant),
            Key("12.4", Sources, variant with { File = "gemm.cu" }), Key("12.4", Sources, variant with { Kernel = "tiny" }), Key("12.4", Sources, variant with { Kernel = "other" }),
        ];
        Assert.Equal(keys.Length, keys.Distinct().Count());
        Assert.Equal(keys[0], Key("12.4", CudaSources.Shipped.With(Tiny, Encoding.UTF8.GetString(Sources.Read(Tiny))).With("another.cu", "of no concern"), variant));
    }

    [Fact]
    public void A_launch_needs_its_kernel_alone_or_a_file_compiled_beforehand()
    {
        var launch = new CudaLaunch("adam.cu", "adamw", DType.F32, (1, 1, 1), 256, 0);
        Assert.Equal("adamw of adam.cu F32 sm_90a", $"{new CudaCompiler(null, "12.4", "", Sources).Holding(in launch, 90)}");
        Assert.Equal("adam.cu F32 sm_90a", $"{new CudaCompiler(null, null, "", Sources).Holding(in launch, 90)}");
    }

    [Fact]
    public void Nvrtc_compiles_one_kernel_of_a_file_and_leaves_the_others_out()
    {
        SkipWithoutNvrtc();
        string two = Encoding.UTF8.GetString(Sources.Read(Tiny)) + "LR_KERNEL(other, FillArgs, 64, 1) { lr_put(static_cast<scalar*>(p.y), 2.0f, true); }\n";
        var compiler = new CudaCompiler(null, CudaCompiler.Version, "", Sources.With(Tiny, two));
        var file = new CudaVariant(Tiny, DType.BF16, 80);
        Assert.Equal(["other", "tiny"], compiler.Get(file).Kernels.Keys);
        Assert.All((string[])["other", "tiny"], kernel => Assert.Equal([kernel], compiler.Get(file with { Kernel = kernel }).Kernels.Keys));
    }

    [Fact]
    public void Nvrtc_compiles_again_what_the_cache_has_lost()
    {
        SkipWithoutNvrtc();
        var variant = new CudaVariant(Tiny, DType.BF16, 80);
        CudaCompiler first = WithCache();
        byte[] cubin = first.Get(variant).Cubin;
        first.Get(variant);
        Assert.Equal((1, 0), first.Counts);
        CudaCompiler second = WithCache();
        Assert.Equal(cubin, second.Get(variant).Cubin);
        Assert.Equal(first.Get(variant).Kernels["tiny"], second.Get(variant).Kernels["tiny"]);
        Assert.Equal((0, 1), second.Counts);
        string entry = Directory.GetFiles(folder, "*.cubin").Single();
        File.WriteAllBytes(entry, File.ReadAllBytes(entry)[..^1]);
        CudaCompiler third = WithCache();
        Assert.Equal(cubin, third.Get(variant).Cubin);
        Assert.Equal((1, 0), third.Counts);
        Assert.Equal((0, 1), (WithCache() is var fourth && fourth.Get(variant).Cubin.Length > 0 ? fourth : null)!.Counts);
    }

    /// <summary>Times go to the test's output. Run it alone: the CPU's time is that of the whole process.</summary>
    [Fact]
    public void Nvrtc_compiles_a_file_once_and_the_cache_has_it_then()
    {
        SkipWithoutNvrtc();
        CudaVariant[] variants = [new("norm.cu", DType.BF16, 80), new("loss.cu", DType.F32, 90)];
        CudaCompiler cold = new(new CudaCache(folder)), warm = new(new CudaCache(folder));
        Array.ForEach([cold, warm], compiler => Array.ForEach(variants, v => compiler.Get(v)));
        Assert.Equal((variants.Length, 0), cold.Counts);
        Assert.Equal((0, variants.Length), warm.Counts);
    }

    [Fact]
    public void Nvrtc_points_an_error_to_its_line()
    {
        SkipWithoutNvrtc();
        string source = "#include \"common.cuh\"\nLR_KERNEL(bad, FillArgs, 32, 1) {\n    lr_put(p.nothing, 1.0f, false);\n}\n";
        var compiler = new CudaCompiler(null, CudaCompiler.Version, "", CudaSources.Shipped.With("bad.cu", source));
        KernelException error = Assert.Throws<KernelException>(() => compiler.Get(new CudaVariant("bad.cu", DType.F32, 80)));
        Assert.StartsWith("CudaCompiler: bad.cu F32 sm_80 does not compile (NVRTC_ERROR_COMPILATION): bad.cu(3): error: ", error.Message, StringComparison.Ordinal);
        compiler = new CudaCompiler(null, CudaCompiler.Version, "", Sources.With("launch.h", "int wrong = ;"));
        error = Assert.Throws<KernelException>(() => compiler.WarmUp([new CudaVariant(Tiny, DType.F32, 80)], TestContext.Current.CancellationToken));
        Assert.Contains("launch.h(1): error: ", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Nvrtc_gives_a_gpu_newer_than_itself_ptx()
    {
        SkipWithoutNvrtc();
        string ptx = Text(new CudaCompiler(null, CudaCompiler.Version, "", Sources).Get(new CudaVariant(Tiny, DType.F32, 990)));
        Assert.Contains(".entry tiny(", ptx, StringComparison.Ordinal);
        Assert.EndsWith("\0", ptx, StringComparison.Ordinal);
        Assert.DoesNotContain(".target sm_990", ptx, StringComparison.Ordinal);
    }

    [Fact]
    public void Nvrtc_makes_an_archive_that_serves_without_it()
    {
        SkipWithoutNvrtc();
        string path = Path.Combine(folder, "kernels.zip");
        var compiler = new CudaCompiler(null, CudaCompiler.Version, "", Sources);
        Assert.Equal(3 * 5, CudaPrebuilt.Write(path, Sources, [Tiny], compiler, TestContext.Current.CancellationToken));
        CudaCompiler without = new(null, null, path, Sources);
        foreach ((int architecture, int served) in (ReadOnlySpan<(int, int)>)[(80, 80), (86, 86), (87, 86), (89, 89), (90, 90)])
        {
            CudaBinary want = compiler.Get(new CudaVariant(Tiny, DType.F16, served)), got = without.Get(new CudaVariant(Tiny, DType.F16, architecture));
            Assert.Equal(want.Cubin, got.Cubin);
            Assert.Equal(want.Kernels["tiny"], got.Kernels["tiny"]);
            Assert.Equal("\u007fELF", Text(got)[..4]);
        }
        foreach (int newer in (ReadOnlySpan<int>)[100, 120])
        {
            Assert.Contains(".target sm_80", Text(without.Get(new CudaVariant(Tiny, DType.BF16, newer))), StringComparison.Ordinal);
        }
        Refused("has no tiny.cu F32 sm_75, want an architecture of sm_80 or newer", path, Sources, new CudaVariant(Tiny, DType.F32, 75));
        Refused("has no gemm.cu F32 sm_80, want an architecture of sm_80 or newer and one of its files tiny.cu", path, Sources, new CudaVariant("gemm.cu", DType.F32, 80));
        Refused($"was made from sources {Sources.Hash}, want {CudaSources.Shipped.Hash}: install NVRTC, or the package LowRank.Cuda.Kernels", path, CudaSources.Shipped, new CudaVariant(Tiny, DType.F32, 80));
    }

    [Fact]
    public void Without_nvrtc_or_an_archive_one_line_says_where_they_were_looked_for()
    {
        string path = Path.Combine(folder, CudaPrebuilt.FileName);
        Refused("libnvrtc.so.13 was not found", path, Sources, new CudaVariant(Tiny, DType.F32, 80));
        Refused($"({path}): install NVRTC, or the package LowRank.Cuda.Kernels", path, Sources, new CudaVariant(Tiny, DType.F32, 80));
        File.WriteAllText(path, "no archive");
        Refused($"CudaPrebuilt: {path} cannot be read (", path, Sources, new CudaVariant(Tiny, DType.F32, 80));
    }

    // The files, each in its type, that a bf16 step of a transformer with LoRA and AdamW launches on the emulator
    private static void Refused(string part, string path, CudaSources sources, CudaVariant variant)
    {
        DeviceException error = Assert.Throws<DeviceException>(() => new CudaCompiler(null, null, path, sources).Get(variant));
        Assert.Contains(part, error.Message, StringComparison.Ordinal);
        Assert.Single(error.Message.Split('\n'));
    }

    private static void SkipWithoutNvrtc() => Assert.SkipWhen(CudaCompiler.Version is null, Interop.CudaLibraries.Diagnosis(Interop.CudaLibraries.Nvrtc));

    private static string Text(CudaBinary binary) => Encoding.Latin1.GetString(binary.Cubin);

    private static string? Shown((byte[] Cubin, string Log)? entry) => entry is { } e ? $"{e.Log} {string.Join(',', e.Cubin)}" : null;

    private CudaCompiler WithCache() => new(new CudaCache(folder), CudaCompiler.Version, "", Sources);

    private string EntryPath(string key) => Path.Combine(folder, key + ".cubin");

    private IEnumerable<string?> Names() => Directory.GetFiles(folder).Select(Path.GetFileName).Order(StringComparer.Ordinal);
}
