"""A fused LoRA forward in Triton: one product whose last K step is t·Bᵀ, t = s·x·Aᵀ coming from a product before it."""
import torch
import triton
import triton.language as tl

TILES = [(128, 256, 64, 8, 3), (128, 128, 64, 4, 4), (256, 128, 64, 8, 3), (64, 256, 32, 4, 4), (64, 128, 64, 4, 4)]


@triton.autotune(
    configs=[triton.Config({"BM": bm, "BN": bn, "BK": bk}, num_warps=warps, num_stages=stages) for bm, bn, bk, warps, stages in TILES],
    key=["tokens", "n", "k"])
@triton.jit
def lora_kernel(x, w, t, b, y, tokens, n, k, R: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    # Eight row tiles to a column sweep, so that W stays in the cache.
    GROUP: tl.constexpr = 8
    tile = tl.program_id(0)
    row_tiles = tl.cdiv(tokens, BM)
    in_group = GROUP * tl.cdiv(n, BN)
    first = tile // in_group * GROUP
    height = min(row_tiles - first, GROUP)
    rows = (first + tile % in_group % height) * BM + tl.arange(0, BM)
    cols = tile % in_group // height * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, k, BK):
        depth = start + tl.arange(0, BK)
        left = tl.load(x + rows[:, None] * k + depth[None, :], mask=(rows[:, None] < tokens) & (depth[None, :] < k), other=0.0)
        right = tl.load(w + cols[None, :] * k + depth[:, None], mask=(cols[None, :] < n) & (depth[:, None] < k), other=0.0)
        acc = tl.dot(left, right, acc)
    rank = tl.arange(0, R)
    left = tl.load(t + rows[:, None] * R + rank[None, :], mask=rows[:, None] < tokens, other=0.0)
    right = tl.load(b + cols[None, :] * R + rank[:, None], mask=cols[None, :] < n, other=0.0)
    acc = tl.dot(left, right, acc)
    tl.store(y + rows[:, None] * n + cols[None, :], acc.to(y.dtype.element_ty), mask=(rows[:, None] < tokens) & (cols[None, :] < n))


def lora(x, w, t, b):
    """x [tokens, k], w [n, k], t [tokens, R], b [n, R], R a power of two of at least 16, all dense -> y [tokens, n]."""
    (tokens, k), n = x.shape, w.shape[0]
    y = torch.empty(tokens, n, device=x.device, dtype=x.dtype)
    grid = lambda meta: (triton.cdiv(tokens, meta["BM"]) * triton.cdiv(n, meta["BN"]),)
    lora_kernel[grid](x, w, t, b, y, tokens, n, k, R=t.shape[1])
    return y
