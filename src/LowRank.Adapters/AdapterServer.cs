using System.Threading.Channels;

namespace LowRank.Adapters;

/// <summary>Bounds of an <see cref="AdapterServer{TRequest, TResult}"/>.</summary>
public sealed record ServerOptions
{
    /// <summary>Requests that may wait; whoever asks when so many do waits for room.</summary>
    public int MostWaiting { get; init; } = 256;

    /// <summary>Requests of one batch at most.</summary>
    public int MostTogether { get; init; } = 16;

    /// <summary>Batch only where a request's bits do not depend on it (<see cref="Device.RowsAreIndependent"/>); elsewhere requests run in turn. False
    /// batches everywhere: faster on a GPU, and equal but for rounding.</summary>
    public bool SameBits { get; init; } = true;
}

/// <summary>A queue in front of one model and its adapters. <see cref="RunAsync"/> and <see cref="InvokeAsync"/> may be called from any thread at any
/// time; one thread of the server's own does all that touches the device, so from the constructor to the end of <see cref="Dispose"/> nobody else may use
/// the device, the model or the adapters but through them. Requests run in the order they came, except that those which wait together, are alike and whose
/// adapters can share a batch (<see cref="NamedAdapters.WhyNotMixable"/>) run as one, each sample with its own adapter. A request alone goes the same way
/// as one of many, so with <see cref="ServerOptions.SameBits"/> its result has the same bits whoever else asks.
/// <code>
/// using var server = new AdapterServer&lt;int[], float[]&gt;(adapters, texts => ..., text => text.Length);
/// float[] y = await server.RunAsync("french", ids, cancellation);
/// await server.InvokeAsync(a => a.Load("legal", "out/legal"), cancellation);
/// </code></summary>
public sealed class AdapterServer<TRequest, TResult> : IDisposable
{
    private readonly NamedAdapters adapters;
    private readonly Func<IReadOnlyList<TRequest>, IReadOnlyList<TResult>> forward;
    private readonly Func<TRequest, object>? likeness;
    private readonly int mostTogether;
    private readonly Channel<Job> queue;
    private readonly Thread thread;
    private volatile bool stopping;

    /// <summary>Starts the thread.</summary>
    /// <param name="adapters">On the model that <paramref name="forward"/> computes with; which are active is the server's business from now on.</param>
    /// <param name="forward">A batch of requests → their results, in order, in host memory. It runs in an open scope on the server's thread; sample i is request i.</param>
    /// <param name="likeness">Requests with equal values may be one batch, for example texts of one length; null: all are alike.</param>
    /// <param name="options">Bounds.</param>
    /// <exception cref="AdapterConfigException">A bound is below 1.</exception>
    public AdapterServer(NamedAdapters adapters, Func<IReadOnlyList<TRequest>, IReadOnlyList<TResult>> forward, Func<TRequest, object>? likeness = null, ServerOptions? options = null)
    {
        options ??= new();
        if (options.MostWaiting < 1 || options.MostTogether < 1)
        {
            throw new AdapterConfigException($"AdapterServer: MostWaiting and MostTogether are {options.MostWaiting} and {options.MostTogether}, want 1 or more");
        }
        (this.adapters, this.forward, this.likeness) = (adapters, forward, likeness);
        mostTogether = options.SameBits && !adapters.Model.Device.RowsAreIndependent ? 1 : options.MostTogether;
        queue = Channel.CreateBounded<Job>(new BoundedChannelOptions(options.MostWaiting) { SingleReader = true });
        thread = new Thread(Serve) { IsBackground = true, Name = "AdapterServer" };
        thread.Start();
    }

    /// <summary>Queues a request for an adapter; null or <see cref="NamedAdapters.None"/>: for the plain model.</summary>
    /// <param name="adapter">Name of the adapter, looked up when the request's turn comes.</param>
    /// <param name="request">What the server's function takes.</param>
    /// <param name="cancellation">Ends the wait at once; a request that runs already runs to its end, and its result is dropped.</param>
    /// <exception cref="AdapterConfigException">No adapter has the name.</exception>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    /// <exception cref="ObjectDisposedException">The server ended before the request's turn came.</exception>
    public Task<TResult> RunAsync(string? adapter, TRequest request, CancellationToken cancellation = default) => Queue(new Job(adapter, request, likeness?.Invoke(request), null), cancellation);

    /// <summary>Queues work that has the adapters and the model to itself: loading, swapping, removing. Requests that came before it run before it.</summary>
    /// <exception cref="OperationCanceledException">It was cancelled before it began.</exception>
    /// <exception cref="ObjectDisposedException">The server ended before its turn came.</exception>
    public Task InvokeAsync(Action<NamedAdapters> work, CancellationToken cancellation = default) => Queue(new Job(null, default!, null, work), cancellation);

    /// <summary>Ends the server: what runs is finished, what waits fails with <see cref="ObjectDisposedException"/>. The adapters then belong to the caller again.</summary>
    public void Dispose()
    {
        stopping = true;
        queue.Writer.TryComplete();
        if (Thread.CurrentThread != thread)
        {
            thread.Join();
        }
    }

    private async Task<TResult> Queue(Job job, CancellationToken cancellation)
    {
        try
        {
            await queue.Writer.WriteAsync(job, cancellation).ConfigureAwait(false);
        }
        catch (ChannelClosedException)
        {
            throw Ended();
        }
        using CancellationTokenRegistration registered = cancellation.Register(() => job.Done.TrySetCanceled(cancellation));
        return await job.Done.Task.ConfigureAwait(false);
    }

    private void Serve()
    {
        List<Job> waiting = [];
        while (Take(waiting))
        {
            Job first = waiting[0];
            if (first.Work is not { } work)
            {
                Run(Batch(waiting));
                continue;
            }
            waiting.RemoveAt(0);
            Finish([first], () =>
            {
                work(adapters);
                return [default!];
            });
        }
        while (queue.Reader.TryRead(out Job? job))
        {
            waiting.Add(job);
        }
        waiting.ForEach(job => job.Done.TrySetException(Ended()));
    }

    /// <summary>Waits until something waits, and drops what was cancelled; false at the end.</summary>
    private bool Take(List<Job> waiting)
    {
        do
        {
            while (waiting.Count < mostTogether && queue.Reader.TryRead(out Job? job))
            {
                waiting.Add(job);
            }
            waiting.RemoveAll(job => job.Done.Task.IsCompleted);
        }
        while (!stopping && waiting.Count == 0 && queue.Reader.WaitToReadAsync().AsTask().GetAwaiter().GetResult());
        return !stopping && waiting.Count > 0;
    }

    /// <summary>Takes the first request and those behind it that can go with it, up to the next piece of work.</summary>
    private List<Job> Batch(List<Job> waiting)
    {
        Job first = waiting[0];
        List<Job> batch = [first];
        for (int i = 1; i < waiting.Count && waiting[i].Work is null && IsShared(first) && batch.Count < mostTogether; i++)
        {
            if (IsShared(waiting[i]) && Equals(first.Like, waiting[i].Like))
            {
                batch.Add(waiting[i]);
            }
        }
        waiting.RemoveAll(batch.Contains);
        return batch;
    }

    private static bool IsPlain(Job job) => job.Adapter is null or NamedAdapters.None;

    private bool IsShared(Job job) => IsPlain(job) || (adapters.Contains(job.Adapter!) && adapters.WhyNotMixable(job.Adapter!) is null);

    private void Run(List<Job> batch) => Finish(batch, () =>
    {
        bool alone = !IsShared(batch[0]);
        adapters.Activate(alone ? [batch[0].Adapter!] : []);
        using IDisposable? mixed = alone ? null : adapters.Mix([.. batch.Select(job => job.Adapter)]);
        using Scope scope = adapters.Model.Device.BeginScope();
        IReadOnlyList<TResult> results = forward([.. batch.Select(job => job.Request)]);
        return results.Count == batch.Count ? results : throw new InvalidOperationException($"AdapterServer: {batch.Count} requests gave {results.Count} results, want one for each");
    });

    /// <summary>Hands out results; where a batch fails, its requests run one by one, so that one cannot fail another.</summary>
    private void Finish(List<Job> batch, Func<IReadOnlyList<TResult>> work)
    {
        try
        {
            IReadOnlyList<TResult> results = work();
            for (int i = 0; i < batch.Count; i++)
            {
                batch[i].Done.TrySetResult(results[i]);
            }
        }
        catch (Exception error) when (batch.Count == 1)
        {
            batch[0].Done.TrySetException(error);
        }
        catch (Exception)
        {
            batch.ForEach(job => Run([job]));
        }
    }

    private static ObjectDisposedException Ended() => new(nameof(AdapterServer<,>), "The server has ended; what waited was not run.");

    private sealed class Job(string? adapter, TRequest request, object? like, Action<NamedAdapters>? work)
    {
        public string? Adapter => adapter;

        public TRequest Request => request;

        public object? Like => like;

        public Action<NamedAdapters>? Work => work;

        public TaskCompletionSource<TResult> Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
    }
}
