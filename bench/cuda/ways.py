"""The peers' ways of each family of work. Each makes, from one set of the data, a call that returns its results by the runner's names."""
from dataclasses import dataclass
from typing import Callable, Optional

import torch
import torch.nn.functional as F


COMPILED = 6  # sets of the ways that compile


@dataclass
class Way:
    name: str
    make: Callable  # (data, row) -> call; call() -> {result: tensor}
    captured: bool = True  # replayed as a CUDA graph; False: launched as a program does it
    equal: bool = True  # False: other work, a yardstick
    compare: Optional[Callable] = None  # (got, want) -> error, where results cannot be equal
    most: int = 64  # sets that it runs on: each is compiled anew where something is compiled


def of(family, attributes):
    """Ways to do a family's work; none where it is not known. What tunes for a minute does so in the rows that ask for it."""
    ways = FAMILIES.get(family, lambda: [])()
    return [way for way in ways if attributes.get("autotune") or "autotuned" not in way.name]


def half(data, *names):
    """Parameters as bf16: the runner draws them so that this changes no value."""
    return [data[name].to(torch.bfloat16) for name in names]


def quiet(call):
    """Without autograd."""
    def run():
        with torch.no_grad():
            return call()
    return run


def compiled(function, row, **options):
    """torch.compile with sizes fixed; on the CPU, where nothing is timed, the function itself."""
    if not row["cuda"]:
        return function
    import torch._dynamo.config
    import torch._functorch.config
    torch._functorch.config.donated_buffer = False  # a backward pass runs many times here
    torch._dynamo.config.cache_size_limit = 64  # one for each set and way: past it torch would quietly launch op by op
    return torch.compile(function, dynamic=False, **options)


# LoRA: y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ

def peft_layer(data, row, wide=False, dora=False):
    """A PEFT LoRA layer over a frozen nn.Linear: adapters in bf16, or in PEFT's default float32."""
    from peft import LoraConfig, get_peft_model
    w, rank = data["w"], data["a"].shape[0]
    base = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device=w.device, dtype=w.dtype)
    base.weight.data.copy_(w)
    config = LoraConfig(r=rank, lora_alpha=row["attributes"]["scale"] * rank, target_modules=["layer"], lora_dropout=0.0, use_dora=dora)
    model = get_peft_model(torch.nn.ModuleDict({"layer": base}), config, autocast_adapter_dtype=wide)
    layer = model.base_model.model["layer"]
    layer.lora_A["default"].weight.data.copy_(data["a"])
    layer.lora_B["default"].weight.data.copy_(data["b"])
    if dora:
        layer.lora_magnitude_vector["default"].weight.data.copy_(data["m"])
    return layer


def peft_forward(wide=False, dora=False, **compile_options):
    def make(data, row):
        layer = peft_layer(data, row, wide, dora)
        function = compiled(layer, row, **compile_options) if compile_options else layer
        return quiet(lambda: {"y": function(data["x"])})
    return make


def wanted(row, **tensors):
    """Those of x, a, b whose gradient the row times."""
    return {name: t for name, t in tensors.items() if row["attributes"].get("d" + name)}


def peft_backward(wide=False, **compile_options):
    def make(data, row):
        layer = peft_layer(data, row, wide)
        function = compiled(layer, row, **compile_options) if compile_options else layer
        x = data["x"].detach().requires_grad_()
        leaves = wanted(row, x=x, a=layer.lora_A["default"].weight, b=layer.lora_B["default"].weight)
        y = function(x)

        def call():
            grads = torch.autograd.grad(y, list(leaves.values()), data["dy"], retain_graph=True)
            return {"d" + name: grad for name, grad in zip(leaves, grads)}
        return call
    return make


def scaled_product(x, w, scale):
    """scale·x·wᵀ in one product."""
    return torch.addmm(x.new_empty(()).expand(x.shape[0], w.shape[0]), x, w.t(), beta=0, alpha=scale)


def addmm_forward(data, row):
    """The product, then the adapter added in place: y is read and written once more."""
    (a, b), scale = half(data, "a", "b"), row["attributes"]["scale"]

    def call():
        y = F.linear(data["x"], data["w"])
        return {"y": y.addmm_(F.linear(data["x"], a), b.t(), alpha=scale)}
    return quiet(call)


def concat_forward(data, row):
    """[x, t]·[W, s·B]ᵀ: one product over a longer K; x lies in the wide pitch already."""
    (a, b), scale = half(data, "a", "b"), row["attributes"]["scale"]
    x, w = data["x"], data["w"]
    k, rank = w.shape[1], a.shape[0]
    pad = (rank + 63) // 64 * 64
    wide_x, wide_w = x.new_zeros(x.shape[0], k + pad), w.new_zeros(w.shape[0], k + pad)
    wide_x[:, :k].copy_(x)
    wide_w[:, :k].copy_(w)
    wide_w[:, k:k + rank].copy_(b * scale)
    at = a.t().contiguous()

    def call():
        wide_x[:, k:k + rank].copy_(wide_x[:, :k] @ at)
        return {"y": F.linear(wide_x, wide_w)}
    return quiet(call)


def triton_forward(data, row):
    """t by cuBLAS, then one Triton kernel whose last K step is t·Bᵀ."""
    import fused
    (a, b), scale = half(data, "a", "b"), row["attributes"]["scale"]
    rank = max(16, 1 << (a.shape[0] - 1).bit_length())
    a = F.pad(a, (0, 0, 0, rank - a.shape[0]))
    b = F.pad(b, (0, rank - b.shape[1])).contiguous()

    def call():
        return {"y": fused.lora(data["x"], data["w"], scaled_product(data["x"], a, scale), b)}
    return quiet(call)


def base_forward(data, row):
    return quiet(lambda: {"y": F.linear(data["x"], data["w"])})


def addmm_backward(data, row):
    """u = s·dY·B; dX = dY·W, then u·A added in place; dA = uᵀ·X; dB = dYᵀ·t with t kept from the forward pass."""
    (a, b), scale = half(data, "a", "b"), row["attributes"]["scale"]
    x, w, dy = data["x"], data["w"], data["dy"]
    t = scaled_product(x, a, scale)
    leaves = wanted(row, x=x, a=a, b=b)
    bt = b.t().contiguous()

    def call():
        grads = {}
        if "x" in leaves or "a" in leaves:
            u = scaled_product(dy, bt, scale)
        if "x" in leaves:
            grads["dx"] = (dy @ w).addmm_(u, a)
        if "a" in leaves:
            grads["da"] = u.t() @ x
        if "b" in leaves:
            grads["db"] = dy.t() @ t
        return grads
    return quiet(call)


def gram_dora(data, row):
    """DoRA with row norms from W·Aᵀ and A·Aᵀ: B·A is never formed."""
    (a, b), scale = half(data, "a", "b"), row["attributes"]["scale"]
    plain, w2, m = addmm_forward(data, row), data["w2"], data["m"]

    def call():
        cross = (data["w"] @ a.t()).float() * (2 * scale)
        square = b.float() @ (a.float() @ a.float().t()) * scale ** 2
        norm = torch.sqrt(w2 + ((cross + square) * b.float()).sum(1))
        return {"y": plain()["y"] * (m / norm).to(torch.bfloat16)}
    return quiet(call)


def loras():
    return [
        Way("cuBLAS, base product alone", base_forward, equal=False),
        Way("PEFT eager", peft_forward(), captured=False),
        Way("PEFT eager, captured", peft_forward()),
        Way("PEFT eager, float32 adapters", peft_forward(wide=True), captured=False),
        Way("PEFT compiled", peft_forward(mode="default"), most=COMPILED),
        Way("PEFT compiled, autotuned", peft_forward(mode="max-autotune-no-cudagraphs"), most=COMPILED),
        Way("addmm order", addmm_forward),
        Way("concat-K, cuBLAS", concat_forward),
        Way("Triton, fused", triton_forward),
    ]


def lora_backwards():
    return [
        Way("PEFT eager", peft_backward(), captured=False),
        Way("PEFT eager, captured", peft_backward()),
        Way("PEFT eager, float32 adapters", peft_backward(wide=True), captured=False),
        Way("PEFT compiled", peft_backward(mode="default"), most=COMPILED),
        Way("addmm order", addmm_backward),
    ]


# Other layers

def backward_of(function, names):
    """Gradients of function(*tensors of those names) by autograd, for the upstream gradient the row gives."""
    def make(data, row):
        leaves = [data[n].to(torch.bfloat16).detach().requires_grad_() if data[n].dtype == torch.float32 else data[n].detach().requires_grad_() for n in names]
        y = function(leaves, data, row)
        upstream = data["dy"] if "dy" in data else data["one"].reshape(()).to(y.dtype)

        def call():
            grads = torch.autograd.grad(y, leaves, upstream, retain_graph=True)
            return {"d" + name: grad for name, grad in zip(names, grads)}
        return call
    return make


def norm(leaves, data, row):
    x, weight, bias = leaves
    return F.layer_norm(x, x.shape[-1:], weight, bias, row["attributes"]["eps"])


def norm_compiled(leaves, data, row):
    eps = row["attributes"]["eps"]
    return compiled(lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, eps), row)(*leaves)


def norm_forward(compile_it):
    def make(data, row):
        leaves, eps = [data["x"], *half(data, "weight", "bias")], row["attributes"]["eps"]
        plain = lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
        function = compiled(plain, row) if compile_it else plain
        return quiet(lambda: {"y": function(*leaves)})
    return make


def entropy(leaves, data, row):
    return F.cross_entropy(leaves[0].reshape(-1, leaves[0].shape[-1]), data["labels"].long())


def entropy_forward(compile_it):
    def make(data, row):
        labels = data["labels"].long()
        function = compiled(F.cross_entropy, row) if compile_it else F.cross_entropy
        return quiet(lambda: {"loss": function(data["logits"], labels).reshape(1)})
    return make


def entropy_compiled(leaves, data, row):
    return compiled(F.cross_entropy, row)(leaves[0], data["labels"].long())


def attend(backend):
    """SDPA on [batch, tokens, heads·dim] as the runner's tensors lie."""
    def function(leaves, data, row):
        heads, causal = int(row["attributes"]["heads"]), bool(row["attributes"]["causal"])
        q, k, v = (t.view(t.shape[0], t.shape[1], heads, -1).transpose(1, 2) for t in leaves)
        if backend is None or not row["cuda"]:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        else:
            from torch.nn.attention import SDPBackend, sdpa_kernel
            with sdpa_kernel(getattr(SDPBackend, backend)):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return y.transpose(1, 2).reshape(leaves[0].shape)
    return function


def attend_forward(backend):
    function = attend(backend)
    return lambda data, row: quiet(lambda: {"y": function([data["q"], data["k"], data["v"]], data, row)})


def adamw(**options):
    def make(data, row):
        numbers = row["attributes"]
        count = int(numbers["tensors"])
        flat = data["p"].clone()
        parameters = [torch.nn.Parameter(p) for p in flat.chunk(count)]
        for parameter, grad in zip(parameters, data["g"].chunk(count)):
            parameter.grad = grad
        optimizer = torch.optim.AdamW(parameters, lr=numbers["lr"], weight_decay=numbers["weight_decay"], capturable=row["cuda"], **options)

        def call():
            optimizer.step()
            return {"p": flat}
        return call
    return make


def adapters_by_parts(data, row):
    """The mixed batch of PEFT: the base product, then each adapter on its rows, gathered and added back."""
    (a, b), scale, count = half(data, "a", "b"), row["attributes"]["scale"], int(row["attributes"]["adapters"])
    each = data["x"].shape[0] // count
    rows = [torch.arange(i * each, (i + 1) * each, device=data["x"].device) for i in range(count)]

    def call():
        y = F.linear(data["x"], data["w"])
        for index, down, up in zip(rows, a.chunk(count), b.chunk(count)):
            y[index] += scale * ((data["x"][index] @ down.t()) @ up)
        return {"y": y}
    return quiet(call)


def adapters_batched(data, row):
    """Batched products: the adapters are of one rank and equally long runs."""
    (a, b), scale, count = half(data, "a", "b"), row["attributes"]["scale"], int(row["attributes"]["adapters"])
    down, up = a.view(count, -1, a.shape[1]), b.view(count, -1, b.shape[1])

    def call():
        y = F.linear(data["x"], data["w"])
        low = torch.bmm(data["x"].view(count, -1, data["x"].shape[1]), down.transpose(1, 2))
        return {"y": torch.baddbmm(y.view(count, -1, y.shape[1]), low, up, alpha=scale).view(y.shape)}
    return quiet(call)


def dropout(data, row):
    return quiet(lambda: {"y": F.dropout(data["x"], row["attributes"]["p"])})


def zeros(got, want):
    """Difference of the shares of zeros."""
    return abs((got["y"] == 0).double().mean().item() - (want["y"] == 0).double().mean().item())


FAMILIES = {
    "linear": lambda: [Way("cuBLAS", base_forward)],
    "lora forward": loras,
    "lora backward": lora_backwards,
    "lora backward, dx alone": lambda: [Way("addmm order", addmm_backward)],
    "lora backward, da alone": lambda: [Way("addmm order", addmm_backward)],
    "lora backward, db alone": lambda: [Way("addmm order", addmm_backward)],
    "dora forward": lambda: [
        Way("PEFT eager", peft_forward(dora=True), captured=False),
        Way("PEFT eager, captured", peft_forward(dora=True)),
        Way("PEFT compiled", peft_forward(dora=True, mode="default"), most=COMPILED),
        Way("addmm order, norms by Gram", gram_dora),
    ],
    "layer norm forward": lambda: [Way("torch", norm_forward(False)), Way("torch, compiled", norm_forward(True), most=COMPILED)],
    "layer norm backward": lambda: [Way("torch", backward_of(norm, ["x", "weight", "bias"])), Way("torch, compiled", backward_of(norm_compiled, ["x", "weight", "bias"]), most=COMPILED)],
    "cross-entropy forward": lambda: [Way("torch", entropy_forward(False)), Way("torch, compiled", entropy_forward(True), most=COMPILED)],
    "cross-entropy backward": lambda: [Way("torch", backward_of(entropy, ["logits"])), Way("torch, compiled", backward_of(entropy_compiled, ["logits"]), most=COMPILED)],
    "attention forward": lambda: [Way("SDPA, flash", attend_forward("FLASH_ATTENTION")), Way("SDPA, cuDNN", attend_forward("CUDNN_ATTENTION")), Way("SDPA, as torch chooses", attend_forward(None))],
    "attention backward": lambda: [Way("SDPA, flash", backward_of(attend("FLASH_ATTENTION"), ["q", "k", "v"])), Way("SDPA, cuDNN", backward_of(attend("CUDNN_ATTENTION"), ["q", "k", "v"]))],
    "adamw": lambda: [Way("torch, fused", adamw(fused=True)), Way("torch, foreach", adamw(foreach=True))],
    "dropout": lambda: [Way("torch", dropout, compare=zeros)],
    "multi-adapter forward": lambda: [Way("PEFT order", adapters_by_parts), Way("baddbmm", adapters_batched)],
    "quantised linear": lambda: [Way("cuBLAS, bf16 weight", base_forward)],
    "training step": lambda: __import__("step").ways(Way),
}
