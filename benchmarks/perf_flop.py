"""Operations that a PPO step needs, by phase, and how fast this machine multiplies matrices."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peer_model import Sizes

from rlhf_bench.harness.statistics.cost import forward_flop


def needed_flop(sizes: Sizes, tokens: int, read: int, logits: int) -> int:
    """Of a pass over one row of which `read` positions are asked for: the last layer's feed-forward part is needed for
    those alone (16 width^2 a position)."""
    whole = forward_flop(sizes.width, sizes.layers, tokens, logits, sizes.vocabulary)
    return whole - 16 * sizes.width**2 * (tokens - read)


def step_flop(sizes: Sizes) -> dict[str, int]:
    """By phase of one PPO step with responses of equal length and a critic of its own; backward is twice forward."""
    whole = sizes.prompt + sizes.response
    generated = forward_flop(sizes.width, sizes.layers, whole - 1, sizes.response, sizes.vocabulary)
    policy = needed_flop(sizes, whole, sizes.response, sizes.response)
    critic = needed_flop(sizes, whole, sizes.response, 0)
    row = {
        "sample": generated,
        "update": 3 * (policy + critic),
        "rewards, reference, values and rest": policy + critic + needed_flop(sizes, whole, 1, 0),
    }
    return {phase: sizes.batch * count for phase, count in row.items()}


def gemm_speed(sizes: Sizes, threads: int) -> float:
    """Operations a second of float32 matrix products in the shapes of a layer in an update, forward and backward."""
    import torch

    torch.set_num_threads(threads)
    rows, width = sizes.batch // sizes.minibatches * (sizes.prompt + sizes.response), sizes.width
    pairs = []
    for inner, outer in ((width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)):
        x, w, y = torch.randn(rows, inner), torch.randn(inner, outer), torch.randn(rows, outer)
        pairs += [(x, w), (y, w.t()), (x.t(), y)]
    flop = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b in pairs)
    seconds = []
    for _ in range(12):
        begun = time.perf_counter()
        for a, b in pairs:
            a @ b
        seconds.append(time.perf_counter() - begun)
    return flop / median(seconds[2:])
