using System.Security.Cryptography;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>What an adapter does to its layer and leaves on disk: every row, every device, every type; all of it bit for bit.</summary>
public class AdapterStateTests
{
    public static TheoryData<string, int, string> Rows => AdapterTests.Rows();

    [Theory, MemberData(nameof(Rows))]
    public void Saving_and_loading_keeps_every_bit(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types.Where(t => t != DType.F64))     // files hold F32
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer first = row.Model(device, type), second = row.Model(device, type);
            using AdaptedModel saved = first.Attach(row.Config, seed: 1);
            AdapterTests.Move(saved.Adapters[0]);
            using var folder = new TemporaryFolder();
            saved.SavePeft(folder.Path, keepInit: true);
            using AdaptedModel read = second.AttachPeft(folder.Path);
            Assert.Empty(read.Warnings);
            Assert.Equal(saved.Parameters.Select(p => p.Name), read.Parameters.Select(p => p.Name));
            Assert.All(saved.Parameters.Zip(read.Parameters), p => Assert.Equal(p.First.Value.ToBytes(), p.Second.Value.ToBytes()));
            Assert.Equal(Output(row, first, type), Output(row, second, type));
            Assert.Equal(AdapterCatalog.Write(saved.Config), AdapterCatalog.Write(read.Config));
            Assert.True(saved.ParameterCount == read.ParameterCount, name);
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void A_plain_folder_goes_with_the_original_base(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        using OneLayer first = row.Model(device, DType.F32), second = row.Model(device, DType.F32);
        using AdaptedModel saved = first.Attach(row.Config);
        AdapterTests.Move(saved.Adapters[0]);
        using var folder = new TemporaryFolder();
        saved.SavePeft(folder.Path);
        using AdaptedModel read = second.AttachPeft(folder.Path);
        Assert.Equal(row.Config is LoraConfig { Init: var init } && init == LoraInit.Loftq, read.Adapters[0].ChangesBase);     // LoftQ has no plain form: its start is made again
        Close.Check(Output(row, second, DType.F32), Output(row, first, DType.F32), Close.Layer, name);
    }

    [Theory, MemberData(nameof(Rows))]
    public void Merging_computes_the_same_and_unmerging_restores_every_bit(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        bool[] files = deviceName == "cpu" ? [false, true] : [false];       // where the original is kept does not depend on the device
        foreach ((DType type, bool pack, bool file) in
            from type in row.Types from pack in (bool[])[false, true] from file in files where row.Kind == SiteKind.Linear || !pack select (type, pack, file))
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer model = row.Model(device, type, pack);
            int reads = 0;
            if (file)
            {
                byte[] original = model.Site.Weight.Value.ToBytes();
                model.Original = (p, scope) =>
                {
                    reads++;
                    return scope.OfRaw(p.Value.Shape, p.Value.DType, original);
                };
            }
            using AdaptedModel adapted = model.Attach(row.Config);
            Adapter adapter = adapted.Adapters[0];
            AdapterTests.Move(adapter);
            byte[] w = Hash(model);
            double[] want = Output(row, model, type);
            MergeReport report = adapted.Merge();
            bool again = file && !adapter.ChangesBase;
            long bias = BiasBytes(adapter);
            Assert.Equal(again ? bias : (long)model.Site.Weight.Value.Bytes + bias, adapted.KeptBytes);
            Close.Check(Output(row, model, type), want, type == DType.BF16 ? 2 * Close.Bound(type) : type == DType.F32 ? Close.Layer : Close.Bound(type), $"{name} merged in {type}");
            CheckReport(row, report, model, adapter, name);
            Assert.NotEqual(w, Hash(model));
            adapted.Unmerge();
            Assert.Equal(w, Hash(model));
            Assert.Equal(again ? 2 : 0, reads);
            Assert.Equal(0, adapted.KeptBytes);
            Assert.Equal(want, Output(row, model, type));
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Not_a_number_is_refused_before_anything_changes(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        using Device device = Devices.Open(deviceName);
        using OneLayer model = row.Model(device, DType.F32);
        using AdaptedModel adapted = model.Attach(row.Config);
        AdapterTests.Move(adapted.Adapters[0]);
        byte[] w = Hash(model);
        foreach ((Parameter p, double bad) in adapted.Parameters.Select(p => (p, double.NaN)).Append((adapted.Parameters[^1], double.PositiveInfinity)))
        {
            double[] good = p.Value.ToDoubles();
            p.Value.Set([bad, .. good.Skip(1)]);
            string message = Assert.Throws<InvalidOperationException>(adapted.Merge).Message;
            Assert.True(message.Contains("NaN", StringComparison.Ordinal) && message.Contains("layer", StringComparison.Ordinal), $"{name}: {p.Name}: {message}");
            Assert.Equal(w, Hash(model));
            Assert.False(adapted.Merged);
            p.Value.Set(good);
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Disabling_gives_the_base_layer_and_disposing_restores_it(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer model = row.Model(device, type);
            byte[] w = Hash(model);
            double[] plain = Output(row, model, type);
            using (AdaptedModel adapted = model.Attach(row.Config))
            {
                AdapterTests.Move(adapted.Adapters[0]);
                double[] moved = Output(row, model, type);
                Assert.NotEqual(plain, moved);
                adapted.Disable();
                Assert.Equal(plain, Output(row, model, type));
                Assert.Equal(w, Hash(model));
                adapted.Enable();
                Assert.Equal(moved, Output(row, model, type));
                adapted.Merge();
                byte[] merged = Hash(model);
                adapted.Disable();
                Assert.Equal(plain, Output(row, model, type));
                adapted.Enable();
                Assert.False(adapted.Merged);
                adapted.Merge();
                Assert.Equal(merged, Hash(model));
            }
            Assert.True(w.AsSpan().SequenceEqual(Hash(model)), name);
            Assert.Null(model.Site.Adapter);
            Assert.Equal(plain, Output(row, model, type));
        }
    }

    [Theory, MemberData(nameof(Rows))]
    public void Training_moves_the_adapter_and_nothing_else(string deviceName, int index, string name)
    {
        AdapterRow row = AdapterRows.All[index];
        foreach (DType type in row.Types)
        {
            using Device device = Devices.Open(deviceName, type);
            using OneLayer model = row.Model(device, type);
            using AdaptedModel adapted = model.Attach(row.Config, seed: 1);
            byte[] frozen = Hash(model);
            byte[][] start = [.. adapted.Parameters.Select(p => p.Value.ToBytes())];
            double first = double.NaN, last = double.NaN;
            using (var optimizer = new AdamW(adapted.Parameters) { LearningRate = 0.01 })
            {
                for (int step = 0; step < 8; step++)
                {
                    using Tape tape = device.BeginTape();
                    Tensor y = model.Site.Forward(row.Tensor(tape, type, row.Values()));
                    Tensor loss = new SquaredError().Apply(y, tape.NewZeros(y.Shape, y.DType));
                    tape.Backward(loss);
                    adapted.Step(optimizer);
                    last = loss.Item();
                    first = step == 0 ? last : first;
                }
            }
            Assert.True(last < first, $"{name} in {type}: loss {first} became {last}");
            Assert.Equal(frozen, Hash(model));
            Assert.All(adapted.Parameters.Zip(start), p => Assert.NotEqual(p.Second, p.First.Value.ToBytes()));
        }
    }

    private static long BiasBytes(Adapter adapter)
    {
        using Scope scope = adapter.Site.Weight.Value.Device.BeginScope();
        return (long?)adapter.EffectiveBias()?.Bytes ?? 0;
    }

    private static void CheckReport(AdapterRow row, MergeReport report, OneLayer model, Adapter adapter, string name)
    {
        MergeLoss loss = Assert.Single(report.Layers);
        Assert.Equal("layer", loss.Path);
        if (model.DType != DType.BF16)
        {
            Assert.Equal(new MergeLoss("layer", 0, 0, 0), loss);
            return;
        }
        double[] merged = model.Site.Weight.Value.ToDoubles();
        using OneLayer twin = row.Model(model.Device, DType.BF16, pack: false);
        using AdaptedModel again = twin.Attach(row.Config);
        foreach ((Parameter to, Parameter from) in again.Parameters.Zip(adapter.Parameters))
        {
            to.Value.CopyFrom(from.Value);
        }
        double[] before = twin.Site.Weight.Value.ToDoubles();
        using Scope scope = model.Device.BeginScope();
        double[] want = again.Adapters[0].EffectiveWeight().ToDoubles();
        double[] off = [.. merged.Zip(want, (a, b) => Math.Abs(a - b))];
        int[] moved = [.. Enumerable.Range(0, want.Length).Where(i => want[i] != before[i])];
        Assert.Equal(off.Max(), loss.MaxRounding, Close.Bound(DType.F64));
        Assert.Equal(Math.Sqrt(off.Average(v => v * v)), loss.RmsRounding, Close.Bound(DType.F64));
        Assert.Equal((double)moved.Count(i => merged[i] == before[i]) / moved.Length, loss.Vanished, Close.Bound(DType.F64));
        Assert.True(loss.MaxRounding > 0 && report.MaxRounding == loss.MaxRounding && report.Vanished == loss.Vanished, name);
    }

    private static double[] Output(AdapterRow row, OneLayer model, DType type)
    {
        using Scope scope = model.Device.BeginScope();
        return model.Site.Forward(row.Tensor(scope, type, row.Values())).ToDoubles();
    }

    private static byte[] Hash(OneLayer model) => SHA256.HashData((byte[])[.. model.Site.Weight.Value.ToBytes(), .. model.Site.Bias?.Value.ToBytes() ?? []]);
}
