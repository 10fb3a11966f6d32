using System.Security.Cryptography;
using LowRank.Formats;

namespace LowRank.Adapters;

public sealed partial class AdaptedModel
{
    private const double SameDelta = 1e-6;      // what two weights may change of a delta that does not depend on them, relative to the merged weight
    private MergeMemory merges = MergeMemory.None;

    /// <summary>True while the layers' own weights hold W_eff.</summary>
    public bool Merged => !merges.IsEmpty;

    /// <summary>W ← W_eff in every adapted layer, rounded to the weight's type; the model then computes without its adapters. Nothing is changed unless
    /// every W_eff is finite. A weight that other layers share stays theirs: the merged layer gets one of its own. Needs room for a copy of the adapted
    /// weights where they are shared or the model cannot read them again (<see cref="Model.Original"/>).</summary>
    /// <exception cref="InvalidOperationException">An adapter cannot be merged, or gives NaN or infinity.</exception>
    public MergeReport Merge() => MergeActive(alone: true);

    /// <summary>As <see cref="Merge"/>; unless <paramref name="alone"/> together with what other active adapters add to the same layers.</summary>
    internal MergeReport MergeActive(bool alone)
    {
        if (Merged)
        {
            throw new InvalidOperationException("Merge: the adapters are merged already; call Unmerge first");
        }
        Enable();
        Adapter[] chosen = [.. adapters.Where(a => a.IsActive)];     // others are merged already, by a set on the same layer
        foreach (Adapter adapter in chosen)
        {
            if (alone && adapter.Site.Active.Count() > 1)
            {
                throw new InvalidOperationException($"Merge: {adapter.Site.Path} has other active adapters, want all merged together by NamedAdapters.Merge");
            }
            if (adapter.Site.Active.FirstOrDefault(a => !a.CanMerge) is { } stuck)
            {
                throw new InvalidOperationException($"Merge: {Config.Method} on {adapter.Site.Path} cannot be merged: {stuck.WhyNotMergeable}");
            }
            RequireFinite(adapter);
        }
        merges = new MergeMemory(Model);
        foreach (Site site in Model.Sites.Where(s => IsAlias(s) && adapters.Exists(a => a.Site.Weight == s.Weight) && Model.Sites.Any(o => o.Weight == s.Weight && !AreTied(o, s))).ToArray())
        {
            merges.Untie(site);
        }
        var losses = new List<MergeLoss>();
        foreach (Adapter adapter in chosen.Where(a => a.TiedTo is null))
        {
            using Scope scope = Model.Device.BeginScope();
            (Tensor effective, Tensor? bias) = Adapter.Sum([.. adapter.Site.Active]);
            Tensor w = adapter.Site.Weight.Value;
            Tensor rounded = effective.ConvertTo(w.DType, scope);
            losses.Add(Loss(adapter.Site, effective, rounded));
            Tensor? mergedBias = bias?.CopyTo(scope);
            Tensor merged = w.IsPacked ? Packing.Pack(rounded, scope) : rounded;
            if (released)
            {
                merges.Make(adapter.Site.Weight, merged);
            }
            else
            {
                merges.Keep(adapter.Site.Weight, fromFile: !adapter.ChangesBase, shared: Model.Sites.Any(s => s.Weight != adapter.Site.Weight && s.Weight.Value == w));
                adapter.Site.Weight.Value.CopyFrom(merged);
            }
            if (mergedBias is not null)
            {
                merges.Keep(adapter.Site.Bias!, fromFile: false, shared: false);
                adapter.Site.Bias!.Value.CopyFrom(mergedBias);
            }
            Array.ForEach([.. Model.Sites.Where(s => s.Weight == adapter.Site.Weight).SelectMany(s => s.Active)], a => a.Merged = true);
        }
        return new MergeReport(losses);
    }

    /// <summary>W as it was before <see cref="Merge"/>, bit for bit. Nothing to do where nothing is merged.</summary>
    /// <exception cref="InvalidOperationException">The file that the weights came from has changed since.</exception>
    /// <exception cref="IOException">It cannot be read; the weights are merged still.</exception>
    public void Unmerge()
    {
        merges.Restore();
        merges = MergeMemory.None;
        adapters.ForEach(a => a.Merged = false);
    }

    /// <summary>W ← W - W_eff(0) in every adapted layer of a model whose weights hold this adapter already, as a file that was merged and saved does: its base.
    /// Only for methods whose delta does not depend on W; that is checked. Exact to the rounding of the merged weights: use an F64 model.</summary>
    /// <exception cref="InvalidOperationException">The delta depends on W (DoRA, IA3, trainable tokens), the method changed W at its start, or biases were trained; the weights are as before.</exception>
    public void Subtract()
    {
        RequireBase("Subtract");
        Enable();
        List<(Tensor Weight, double[] Merged)> before = [];
        using Scope scope = Model.Device.BeginScope();
        try
        {
            foreach (Adapter adapter in adapters)
            {
                if (adapter.ChangesBase || adapter.EffectiveBias() is not null || Config.BiasRule != "none")
                {
                    throw NoSum(adapter, adapter.ChangesBase ? "it changes the base weight at its start; convert it to plain LoRA first" : "its biases took the place of the base's");
                }
                Tensor w = adapter.Site.Weight.Value;
                double[] merged = w.ToDoubles(), twice = adapter.EffectiveWeight().ToDoubles();
                before.Add((w, merged));
                w.Fill(0);
                double[] delta = adapter.EffectiveWeight().ToDoubles();
                w.CopyFrom(scope.Of(w.Shape, (double[])[.. merged.Zip(delta, (m, d) => m - d)], w.DType));
                double off = Math.Sqrt(twice.Select((t, i) => t - merged[i] - delta[i]).Sum(d => d * d));
                if (!(off <= SameDelta * Math.Sqrt(merged.Sum(m => m * m))))
                {
                    throw NoSum(adapter, "what it adds depends on the weight that it is added to; want the base model's own folder");
                }
            }
        }
        catch (InvalidOperationException)
        {
            before.ForEach(b => b.Weight.CopyFrom(scope.Of(b.Weight.Shape, b.Merged, b.Weight.DType)));
            throw;
        }
    }

    private InvalidOperationException NoSum(Adapter adapter, string why) => new($"Subtract: {Config.Method} on {adapter.Site.Path} cannot be taken out of a merged weight: {why}");

    /// <summary>Bytes of weights that a merge holds to bring them back; 0 where the model reads them again.</summary>
    internal long KeptBytes => merges.Bytes;

    /// <summary>True where the same adapters act on both layers, so that one weight serves both.</summary>
    private static bool AreTied(Site one, Site other) => one.Active.Select(a => a.TiedTo ?? a).ToHashSet().SetEquals(other.Active.Select(a => a.TiedTo ?? a));

    private void RequireFinite(Adapter adapter)
    {
        using Scope scope = Model.Device.BeginScope();
        (Tensor weight, Tensor? bias) = Adapter.Sum([.. adapter.Site.Active]);
        foreach (Tensor? t in (ReadOnlySpan<Tensor?>)[weight, bias])
        {
            if (t is not null && t.ToDoubles().Any(v => !double.IsFinite(v)))
            {
                throw new InvalidOperationException($"Merge: {Config.Method} on {adapter.Site.Path} gives NaN or infinity, want finite weights; nothing was merged");
            }
        }
    }

    private static MergeLoss Loss(Site site, Tensor effective, Tensor rounded)
    {
        if (effective.DType == rounded.DType)
        {
            return new MergeLoss(site.Path, 0, 0, 0);
        }
        double[] want = effective.ToDoubles(), got = rounded.ToDoubles(), before = site.Weight.Value.IsAlive ? site.WeightMatrix().ToDoubles() : new double[want.Length];
        double max = 0, squares = 0;
        long moved = 0, vanished = 0;
        for (int i = 0; i < want.Length; i++)
        {
            double off = Math.Abs(got[i] - want[i]);
            max = Math.Max(max, off);
            squares += off * off;
            moved += want[i] != before[i] ? 1 : 0;
            vanished += want[i] != before[i] && got[i] == before[i] ? 1 : 0;
        }
        return new MergeLoss(site.Path, max, Math.Sqrt(squares / Math.Max(1, want.Length)), moved == 0 ? 0 : (double)vanished / moved);
    }

    /// <summary>What brings overwritten weights back: a copy, or a hash beside a model that can read its file again.</summary>
    private sealed class MergeMemory(Model? model)
    {
        private readonly List<(Parameter Parameter, Tensor? Copy, byte[] Hash)> kept = [];
        private readonly List<(Parameter Parameter, Tensor Shared)> parted = [];
        private readonly List<(Parameter Parameter, Tensor Freed)> made = [];
        private readonly Stack<Action> untied = [];
        private readonly Scope? store = model?.Device.NewStore();

        public static MergeMemory None { get; } = new(null);

        public bool IsEmpty => model is null;

        public long Bytes => kept.Sum(k => (long)(k.Copy?.Bytes ?? 0)) + parted.Sum(p => (long)p.Parameter.Value.Bytes);

        public void Untie(Site site) => untied.Push(model!.Untie(site));

        public void Keep(Parameter parameter, bool fromFile, bool shared)
        {
            if (shared)
            {
                parted.Add((parameter, parameter.Value));
                parameter.Replace(parameter.Value.CopyTo(store!));
                return;
            }
            byte[] now = fromFile && model!.Original is not null ? parameter.Value.ToBytes() : [];
            bool again = now.Length > 0 && ReadsAs(parameter, now);
            kept.Add((parameter, again ? null : parameter.Value.CopyTo(store!), again ? SHA256.HashData(now) : []));
        }

        /// <summary>A weight in the place of one that was freed.</summary>
        public void Make(Parameter parameter, Tensor value)
        {
            made.Add((parameter, parameter.Value));
            parameter.Replace(value.CopyTo(store!));
        }

        public void Restore()
        {
            made.ForEach(m => m.Parameter.Replace(m.Freed));
            foreach ((Parameter parameter, Tensor? copy, byte[] hash) in kept.Where(k => k.Parameter.Value.IsAlive))
            {
                if (copy is not null)
                {
                    parameter.Value.CopyFrom(copy);
                    continue;
                }
                using Scope scope = model!.Device.BeginScope();
                Tensor? read = model.Original!(parameter, scope);
                if (read is null || !SHA256.HashData(read.ToBytes()).AsSpan().SequenceEqual(hash))
                {
                    throw new InvalidOperationException($"Unmerge: {parameter.Name} reads differently from its file than before the merge; load the model again");
                }
                parameter.Value.CopyFrom(parameter.Value.IsPacked ? Packing.Pack(read, scope) : read);
            }
            foreach ((Parameter parameter, Tensor shared) in parted.Where(p => p.Shared.IsAlive))
            {
                parameter.Replace(shared);
            }
            while (untied.TryPop(out Action? undo))
            {
                undo();
            }
            store?.Dispose();
        }

        /// <summary>A weight that was trained, or whose file is gone, does not: then a copy is kept.</summary>
        private bool ReadsAs(Parameter parameter, byte[] now)
        {
            try
            {
                using Scope scope = model!.Device.BeginScope();
                return model.Original!(parameter, scope)?.ToBytes().AsSpan().SequenceEqual(now) == true;
            }
            catch (Exception error) when (error is IOException or ModelFormatException)
            {
                return false;
            }
        }
    }
}
