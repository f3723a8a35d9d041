"""Useful generated tokens a second: our sampling against Hugging Face's `generate`, in turns, with equal chances."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from peer_model import END, PAD, Sizes, make_policy, make_tokenizer, prompts

from rlhf_bench.harness.forward.packing import enable_packing
from rlhf_bench.harness.sampling.rollout import make_generator, pad_prompts, sample
from rlhf_bench.harness.text.templates import encode_prompts

Turn = Callable[[int], int]
"""Generates once, with a seed; returns how many tokens it wrote up to the ends of the responses."""


def turns(sizes: Sizes) -> dict[str, Turn]:
    tokenizer = make_tokenizer(sizes.vocabulary)
    plain, model = make_policy(sizes, "gelu_pytorch_tanh"), enable_packing(make_policy(sizes, "gelu_pytorch_tanh"))
    texts = [" ".join(f"w{i}" for i in row) for row in prompts(sizes, sizes.batch)]
    ids, mask = pad_prompts(encode_prompts(tokenizer, texts), PAD, "cpu")

    def own(seed: int) -> int:
        rollout = sample(model, tokenizer, texts, sizes.response, generator=make_generator("speed", seed))
        return int(rollout.mask.sum())

    def theirs(seed: int) -> int:
        torch.manual_seed(seed)
        options: dict[str, Any] = {"do_sample": True, "top_k": 0, "top_p": 1.0, "max_new_tokens": sizes.response}
        with torch.no_grad():
            written = plain.generate(input_ids=ids, attention_mask=mask, pad_token_id=PAD, eos_token_id=END, **options)
        response = written[:, ids.shape[1] :]
        ends = response == END
        return int(((ends.long().cumsum(1) - ends.long()) == 0).sum())

    return {"own": own, "generate": theirs}


def compare(sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Tokens a second of both, and the median over rounds of the ratio."""
    speeds: dict[str, list[float]] = {"own": [], "generate": []}
    both = turns(sizes)
    for number in range(rounds + 1):
        for name in list(both)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            tokens = both[name](number)
            if number:
                speeds[name].append(tokens / (time.perf_counter() - begun))
    ratios = [a / b for a, b in zip(speeds["own"], speeds["generate"], strict=True)]
    return {**{name: median(values) for name, values in speeds.items()}, "ratio": median(ratios)}
