using System.Diagnostics;
using System.Globalization;
using System.Runtime.Versioning;
using Xunit;

namespace LowRank.Formats.Tests;

/// <summary>Whatever happens while a file is saved, the one before it is there and whole.</summary>
[SupportedOSPlatform("linux")]
public sealed class DurabilityTests : FolderTest
{
    private const int Kills = 8, MostDelay = 120;       // ms
    private const UnixFileMode Everybody = (UnixFileMode)0b111_111_111, Readers = (UnixFileMode)0b101_101_101, ReadOnly = (UnixFileMode)0b100_100_100;

    [Theory, InlineData(Writer.Loop), InlineData(Writer.Shards)]
    public void A_killed_save_leaves_the_one_before(string mode)
    {
        var random = new Random(3);
        string path = mode == Writer.Shards ? Folder : At("a.safetensors");
        for (int kill = 0; kill < Kills; kill++)
        {
            using Process writer = Writer.Start(mode, path);
            string? line = writer.StandardOutput.ReadLine();
            Thread.Sleep(random.Next(MostDelay));
            writer.Kill();
            line = writer.StandardOutput.ReadToEnd().Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault() ?? line;
            writer.WaitForExit();
            float reported = float.Parse(line!, CultureInfo.InvariantCulture);
            Assert.InRange(Value(path), reported, reported + 1);     // the next may be in place and not yet reported
        }
        if (mode == Writer.Shards)
        {
            SafeTensorsIndex.Save(Folder, Writer.Tensors(0, 4), shardBytes: 16);
            Assert.Equal(4, Files().Count(f => !f.EndsWith(AtomicFile.TemporaryEnding, StringComparison.Ordinal)));      // the shards of broken saves are gone
            Assert.Equal(0, Value(Folder));
        }
    }

    [Theory, InlineData(false), InlineData(true)]
    public void A_full_disk_changes_nothing(bool shards)
    {
        string path = shards ? Folder : At("a.safetensors");
        SafeTensorsFile.Save(shards ? At(TensorSource.ModelFile) : path, Writer.Tensors(1));
        string[] before = Files();
        string message = Writer.Output(Writer.Limited, path);
        Assert.StartsWith("AtomicFile: cannot write", message, StringComparison.Ordinal);
        Assert.Contains(path, message, StringComparison.Ordinal);
        Assert.Contains("free space", message, StringComparison.Ordinal);
        Assert.Equal(before, Files());
        Assert.Equal(1, Value(path));
    }

    [Fact]
    public void A_folder_without_rights_changes_nothing()
    {
        SafeTensorsFile.Save(At("a.safetensors"), Writer.Tensors(1));
        File.SetUnixFileMode(Folder, Readers);
        try
        {
            string message = Writer.Output(Writer.Powerless, At("a.safetensors"));
            Assert.StartsWith($"AtomicFile: cannot write {At("a.safetensors")}: ", message, StringComparison.Ordinal);
            Assert.Contains("writable folder", message, StringComparison.Ordinal);
        }
        finally
        {
            File.SetUnixFileMode(Folder, Everybody);
        }
        Assert.Equal(["a.safetensors"], Files());
        Assert.Equal(1, Value(At("a.safetensors")));
    }

    [Fact]
    public void A_read_only_file_is_not_replaced()
    {
        SafeTensorsFile.Save(At("a.safetensors"), Writer.Tensors(1));
        File.SetUnixFileMode(At("a.safetensors"), ReadOnly);
        File.SetUnixFileMode(Folder, Everybody);        // a rename would be allowed
        string message = Writer.Output(Writer.Powerless, At("a.safetensors"));
        Assert.Contains("it is read-only", message, StringComparison.Ordinal);
        Assert.Equal(["a.safetensors"], Files());
        Assert.Equal(1, Value(At("a.safetensors")));
    }

    [Fact]
    public void A_link_stays_a_link()
    {
        Directory.CreateDirectory(At("real"));
        File.CreateSymbolicLink(At("link"), Path.Combine("real", "a.safetensors"));
        SafeTensorsFile.Save(At("link"), Writer.Tensors(1, 4));       // leads nowhere yet
        SafeTensorsFile.Save(At("link"), Writer.Tensors(2, 4));
        Assert.NotNull(new FileInfo(At("link")).LinkTarget);
        Assert.Equal(2, Value(Path.Combine(At("real"), "a.safetensors")));
        Assert.Equal(["link", "real"], Files());
    }

    [Fact]
    public void A_ring_of_links_is_refused()
    {
        File.CreateSymbolicLink(At("a"), At("b"));
        File.CreateSymbolicLink(At("b"), At("a"));
        var error = Assert.Throws<IOException>(() => SafeTensorsFile.Save(At("a"), Writer.Tensors(1, 4)));
        Assert.StartsWith($"AtomicFile: cannot write {At("a")}: ", error.Message, StringComparison.Ordinal);
        Assert.Equal(["a", "b"], Files());
    }

    [Theory, InlineData(""), InlineData("missing/a.safetensors"), InlineData("file/a.safetensors")]
    public void A_path_that_is_no_file_is_named(string name)
    {
        File.WriteAllText(At("file"), "");
        string path = name.Length == 0 ? Folder : At(name);
        var error = Assert.ThrowsAny<IOException>(() => SafeTensorsFile.Save(path, Writer.Tensors(1, 4)));
        Assert.StartsWith($"AtomicFile: cannot write {path}: ", error.Message, StringComparison.Ordinal);
        Assert.Equal(["file"], Files());
    }

    [Fact]
    public async Task Two_writers_and_a_reader_see_whole_files_only()
    {
        string path = At("a.safetensors");
        SafeTensorsFile.Save(path, Writer.Tensors(0, 1000));
        bool done = false;
        var seen = new HashSet<float>();
        Task reader = Task.Run(() =>
        {
            while (!Volatile.Read(ref done))
            {
                seen.Add(Value(path));
            }
        }, TestContext.Current.CancellationToken);
        Parallel.For(1, 3, w =>
        {
            for (int i = 0; i < 50; i++)
            {
                SafeTensorsFile.Save(path, Writer.Tensors(w, 1000));
            }
        });
        Volatile.Write(ref done, true);
        await reader;
        Assert.Subset(new HashSet<float> { 0, 1, 2 }, seen);
        Assert.Contains(Value(path), new float[] { 1, 2 });
        Assert.Equal(["a.safetensors"], Files());
    }

    [Fact]
    public void A_save_that_fails_half_way_leaves_no_trace()
    {
        SafeTensorsFile.Save(At("a.safetensors"), Writer.Tensors(1, 4));
        var error = Assert.Throws<InvalidDataException>(() => AtomicFile.Write(At("a.safetensors"), stream =>
        {
            stream.Write(new byte[1 << 20]);
            throw new InvalidDataException("half way");
        }));
        Assert.Equal("half way", error.Message);
        Assert.Equal(["a.safetensors"], Files());
        Assert.Equal(1, Value(At("a.safetensors")));
    }
}
