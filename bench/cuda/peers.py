"""The other side of the bench: PyTorch, PEFT and Triton on the same data as the runner.

Requests, which pipe.py reads, and answers:
  hello                                    -> versions, or why there is no peer here
  offer family, attributes, sets, inputs, results -> the ways this side knows to do that work
  prepare way, alone                       -> error of its results against the runner's (null: a yardstick, not equal work), or why it failed;
                                              alone: every other way of the row is forgotten first
  sample way, replays                      -> microseconds a call: events around that many replays of all sets
  free, peak                               -> bytes free on the GPU; most bytes that the allocator held since the last prepare
  end                                      -> forgets the row
Results of the runner come as raw files beside the inputs.
"""
import argparse
import gc
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import pipe

WARM = 3  # calls before anything is recorded or timed


def load(torch, entry, device):
    """A tensor from a raw little-endian file."""
    types = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "i32": torch.int32, "u8": torch.uint8}
    with open(entry["file"], "rb") as file:
        data = bytearray(file.read())
    return torch.frombuffer(data, dtype=types[entry["type"]]).reshape(entry["shape"]).to(device)


def difference(got, want):
    """Relative Frobenius error in float64; absolute where what is wanted is zero."""
    got, want = got.detach().double().reshape(-1), want.double().reshape(-1)
    if got.shape != want.shape:
        return float("nan")
    norm = want.norm().item()
    return (got - want).norm().item() / (norm if norm > 0 else 1)


class Recorded:
    """Calls, one per set of the data: captured as one graph where that is asked for, else launched one by one."""

    def __init__(self, torch, calls, captured, stream):
        self.torch, self.calls, self.stream, self.graph = torch, calls, stream, None
        for _ in range(WARM):
            for call in calls:
                call()
        if stream is None:
            return
        stream.synchronize()
        if captured:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=stream):
                for call in calls:
                    call()
            stream.synchronize()

    def run(self):
        if self.graph is not None:
            self.graph.replay()
        else:
            for call in self.calls:
                call()

    def sample(self, replays):
        """Microseconds a call."""
        if self.stream is None:
            began = time.perf_counter()
            for _ in range(replays):
                self.run()
            return 1e6 * (time.perf_counter() - began) / (replays * len(self.calls))
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(replays):
            self.run()
        end.record()
        end.synchronize()
        return 1e3 * begin.elapsed_time(end) / (replays * len(self.calls))


class Server:
    def __init__(self, device, work):
        import torch
        if device == "cuda" and not torch.cuda.is_available():
            raise ImportError("torch sees no GPU")
        self.torch, self.device, self.work = torch, torch.device(device), work
        self.stream = torch.cuda.Stream() if device == "cuda" else None
        self.row, self.ways, self.recorded = None, {}, {}

    def answer(self, request):
        if self.stream is None:
            return getattr(self, request["do"])(request)
        with self.torch.cuda.stream(self.stream):
            return getattr(self, request["do"])(request)

    def hello(self, _):
        torch = self.torch
        versions = {"python": sys.version.split()[0], "torch": torch.__version__}
        for name in ("peft", "triton", "transformers", "bitsandbytes"):
            try:
                versions[name] = getattr(__import__(name), "__version__", "?")
            except Exception:
                versions[name] = "none"
        if self.stream is not None:
            versions["GPU"], versions["CUDA of torch"] = torch.cuda.get_device_name(), torch.version.cuda
        return {"missing": None, "versions": versions}

    def offer(self, request):
        import ways
        self.end(None)
        inputs = {name: load(self.torch, entry, self.device) for name, entry in request["inputs"].items()}
        results = {name: load(self.torch, entry, self.device) for name, entry in request["results"].items()}
        sets = [inputs] + [{name: t.clone() for name, t in inputs.items()} for _ in range(request["sets"] - 1)]
        self.row = {**request, "sets": sets, "results": results, "work": self.work, "cuda": self.stream is not None}
        self.ways = {way.name: way for way in ways.of(request["family"], request["attributes"])}
        return {"ways": list(self.ways)}

    def prepare(self, request):
        if request.get("alone"):
            self.recorded = {}
        self.clean()
        way = self.ways[request["way"]]
        calls = [way.make(data, self.row) for data in self.row["sets"][:way.most]]
        error = None
        if way.equal:
            got = calls[0]()
            errors = [difference(got[name], want) for name, want in self.row["results"].items() if name in got]
            if way.compare is not None:
                errors = [way.compare(got, self.row["results"])]
            error = max(errors) if errors else float("nan")
            if error != error:
                return {"failed": "its results have other shapes, NaN, or none in common with ours"}
        self.recorded[way.name] = Recorded(self.torch, calls, way.captured, self.stream)
        return {"error": error}

    def sample(self, request):
        return {"us": self.recorded[request["way"]].sample(request["replays"])}

    def free(self, _):
        self.clean()
        return {"bytes": self.torch.cuda.mem_get_info()[0] if self.stream is not None else None}

    def peak(self, _):
        return {"bytes": self.torch.cuda.max_memory_allocated() if self.stream is not None else None}

    def end(self, _):
        self.row, self.ways, self.recorded = None, {}, {}
        if "torch._dynamo" in sys.modules:
            self.torch._dynamo.reset()
        self.clean()
        return {}

    def clean(self):
        gc.collect()
        if self.stream is not None:
            self.torch.cuda.synchronize()
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--work", required=True, help="folder for the log; the training step's model lies in it")
    arguments = parser.parse_args()
    pipe.serve(lambda: Server(arguments.device, arguments.work), os.path.join(arguments.work, "peer.log"))


if __name__ == "__main__":
    main()
