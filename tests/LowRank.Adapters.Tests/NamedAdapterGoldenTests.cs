using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using LowRank.Formats;
using LowRank.Testing;
using Xunit;

namespace LowRank.Adapters.Tests;

/// <summary>golden/peft, folders op_*: what PEFT does with several adapters on one model.</summary>
public class NamedAdapterGoldenTests
{
    public const string Prefix = "op_";

    public static TheoryData<string> Cases => Golden.Cases("peft", name => name.StartsWith(Prefix, StringComparison.Ordinal));

    [Theory, MemberData(nameof(Cases))]
    public void Golden_peft_sets(string name) => Golden.Run("peft", name, golden =>
    {
        foreach (DType type in (ReadOnlySpan<DType>)[DType.F32, DType.F64])
        {
            using Device device = Devices.Open("cpu");
            using var model = new Toy(device, type, golden.Open("base.safetensors"));
            Dictionary<string, byte[]> before = model.Parameters.ToDictionary(p => p.Key, p => p.Value.Value.ToBytes());
            using (var adapters = new NamedAdapters(model))
            {
                new Case(golden, model, adapters, type).Run();
            }
            Assert.All(model.Parameters, p => Assert.Equal(before[p.Key], p.Value.Value.ToBytes()));
        }
    });

    private sealed record Case(GoldenCase Golden, Toy Model, NamedAdapters Adapters, DType Type)
    {
        public void Run()
        {
            if (Golden.Has("out.y_base"))
            {
                Check("out.y_base");
            }
            if (Golden.Has("out.y_ab"))
            {
                TwoActive();
            }
            else if (Golden.Has("out.y_scale_layer"))
            {
                Scaled();
            }
            else if (Golden.Config.TryGetProperty("adapter_names", out JsonElement names))
            {
                MixedBatch([.. names.EnumerateArray().Select(n => n.GetString())]);
            }
            else if (Golden.Has("out.y_second"))
            {
                Hotswap();
            }
            else
            {
                Weighted();
            }
        }

        private void TwoActive()
        {
            Load("a", "b");
            foreach ((string output, string[] active) in ((string, string[])[])[("out.y_a", ["a"]), ("out.y_b", ["b"]), ("out.y_ab", ["a", "b"]), ("out.y_ab", ["b", "a"]), ("out.y_disabled", [])])
            {
                Adapters.Activate(active);
                Check(output);
            }
            foreach ((string output, string[] active) in ((string, string[])[])[("out.y_merged_ab", ["a", "b"]), ("out.y_merged_b", ["b"])])
            {
                Adapters.Activate(active);
                Adapters.Merge();
                Check(output);
            }
            Adapters.Unmerge();
            Check("out.y_b");
        }

        private void Scaled()
        {
            AdaptedModel adapted = Adapters.Load("default", Golden.Path);
            Adapters.Activate("default");
            string note = Golden.Config.GetProperty("note").GetString()!;
            double layer = Factor(adapted, "out.y_scale_layer", Regex.Match(note, @"\(([\d.]+) public / ([\d.]+) held, then").Groups), again = Number(Regex.Match(note, @"then ([\d.]+) again").Groups[1].Value);
            adapted.Strength = layer;
            Check("out.y_scale_layer");
            adapted.Strength *= again;
            Check("out.y_scale_layer_twice");
            adapted.Strength = 1;
            Check("out.y_unscaled");
            string set = Golden.Names("out.y_set_scale_").Single();
            adapted.Strength = Number(set["out.y_set_scale_".Length..]);
            Check(set);
            adapted.Strength = Factor(adapted, "out.y_rescale_adapter_scale", Regex.Match(note, @"rescale_adapter_scale \(([\d.]+) / ([\d.]+)\)").Groups);
            Check("out.y_rescale_adapter_scale");
        }

        /// <summary>The note names two factors; one of them is the case's.</summary>
        private double Factor(AdaptedModel adapted, string output, GroupCollection choices)
        {
            double[] factors = [.. choices.Values.Skip(1).Select(g => Number(g.Value))];
            return factors.MinBy(f =>
            {
                adapted.Strength = f;
                return Close.Error(Forward(), Golden.Doubles(output));
            });
        }

        private void MixedBatch(string?[] names)
        {
            string[] real = [.. names.OfType<string>().Where(n => n != NamedAdapters.None).Distinct()];
            double[] plain = Forward();
            Load(real);
            using (Adapters.Mix(names))
            {
                double[] mixed = Forward();
                Check("out.y");
                int each = mixed.Length / names.Length;
                Assert.All(names.Index().Where(n => n.Item == NamedAdapters.None), n => Assert.Equal(plain[(n.Index * each)..((n.Index + 1) * each)], mixed[(n.Index * each)..((n.Index + 1) * each)]));
            }
            foreach (string name in real)
            {
                Adapters.Activate(name);
                Check($"out.y_all_{name}");
                using (Adapters.Mix([.. names.Select(_ => name)]))
                {
                    Check($"out.y_all_{name}");
                }
                Check($"out.y_all_{name}");
            }
        }

        private void Hotswap()
        {
            Adapters.Load("one", Golden.PathOf("first"));
            Adapters.Activate("one");
            Check("out.y_first");
            Adapters.Swap("one", Golden.PathOf("second"));
            Check("out.y_second");
            Check("out.y");
        }

        private void Weighted()
        {
            JsonElement config = Golden.Config;
            double[] weights = [.. config.GetProperty("weights").EnumerateArray().Select(w => w.GetDouble())];
            string[] names = [.. Directory.GetDirectories(Golden.Path).Select(Path.GetFileName).OfType<string>().Where(n => n != "result").Order(StringComparer.Ordinal)];
            Load(names);
            var options = new CombineOptions
            {
                Kind = Enum.Parse<Combination>(config.GetProperty("combination_type").GetString()!.Replace("_", "", StringComparison.Ordinal), ignoreCase: true),
                Rank = config.GetProperty("svd_rank") is { ValueKind: JsonValueKind.Number } rank ? rank.GetInt32() : null,
                Density = config.TryGetProperty("density", out JsonElement density) ? density.GetDouble() : 1,
                MajoritySign = config.TryGetProperty("majority_sign_method", out JsonElement sign) ? Enum.Parse<MajoritySign>(sign.GetString()!, ignoreCase: true) : default,
                LikePeft = true,
                Masks = call => [.. Golden.Ints($"buffer.mask.{call:000}").Select(v => (byte)v)],
            };
            AdaptedModel result = Adapters.Combine("result", [.. names.Zip(weights)], options);
            Adapters.Activate("result");
            string[] deltas = [.. Golden.Names("out.delta.")];
            Assert.Equal(deltas.Length, result.Adapters.Count);
            foreach (Adapter adapter in result.Adapters)
            {
                AdapterFactors f = adapter.Factors!;
                Golden.Check($"out.delta.{adapter.Site.Path}", HostMatrix.Of(f.B).Times(HostMatrix.Of(f.A)).Scaled(f.Scale).Values);
            }
            Check("out.y");
            if (Type == DType.F32)
            {
                Written(result, exact: !options.IsSvd);
            }
        }

        private void Written(AdaptedModel result, bool exact)
        {
            using var folder = new TemporaryFolder();
            result.SavePeft(folder.Path, "result");
            using SafeTensorsFile got = SafeTensorsFile.Open(Path.Combine(folder.Path, "result", PeftFolder.ModelFile));
            TensorSource want = Golden.Open(Path.Combine("result", PeftFolder.ModelFile));
            Assert.Equal(want.Entries.Select(e => (e.Name, e.Shape)), got.Entries.Select(e => (e.Name, e.Shape)));
            if (exact)      // singular vectors have no sign of their own
            {
                Assert.All(want.Entries, e => Close.CheckMax(got.ReadDouble(e.Name), want.ReadDouble(e.Name), Golden.Tolerance.Rtol, Golden.Tolerance.Atol, $"{Golden}: {e.Name}"));
            }
            JsonObject ours = JsonNode.Parse(File.ReadAllText(Path.Combine(folder.Path, "result", PeftFolder.ConfigFile)))!.AsObject();
            JsonObject theirs = JsonNode.Parse(File.ReadAllText(Golden.PathOf(Path.Combine("result", PeftFolder.ConfigFile))))!.AsObject();
            foreach (string free in (ReadOnlySpan<string>)["peft_version", "auto_mapping"])
            {
                ours[free] = theirs[free]?.DeepClone();
            }
            Assert.True(JsonNode.DeepEquals(ours, theirs), $"{Golden}: wrote {ours}");
        }

        private void Load(params IEnumerable<string> names)
        {
            foreach (string name in names)
            {
                Adapters.Load(name, Golden.PathOf(name));
            }
        }

        private void Check(string output) => Golden.Check(output, Forward());

        private double[] Forward()
        {
            using Scope scope = Model.Device.BeginScope();
            return Model.Forward(Golden.Load("in.x", scope, Model.Sites.Any(s => s.Kind == SiteKind.Embedding) ? DType.I32 : Type)).ToDoubles();
        }

        private static double Number(string text) => double.Parse(text, CultureInfo.InvariantCulture);
    }
}
