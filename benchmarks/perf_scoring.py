"""What a seq2seq reward costs: against a scalar reward model's pass, and against generating the correction."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import torch
from peer_model import END, PAD, Sizes, make_classifier, make_policy, make_tokenizer
from perf_flop import needed_flop

from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.reward_models.corrector import Layout
from rlhf_bench.reward_models.scalar import ScalarScorer
from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer


def make_rollout(sizes: Sizes, rows: int) -> Rollout:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, sizes.vocabulary, (rows, sizes.prompt + sizes.response), generator=generator)
    ids[:, -1] = END
    prompt, response = ids[:, : sizes.prompt], ids[:, sizes.prompt :]
    mask, done = torch.ones_like(response, dtype=torch.bool), torch.ones(rows, dtype=torch.bool)
    empty = ("",) * rows
    return Rollout(
        empty, empty, prompt, torch.ones_like(prompt), response, mask, done, make_tokenizer(sizes.vocabulary)
    )


def compare(sizes: Sizes, rows: int, rounds: int) -> dict[str, float]:
    """Medians over rounds: seconds of the three, and the ratios; the ratio of operations counted."""
    wide = Sizes(**{**vars(sizes), "response": 2 * sizes.response + 16})
    model, rollout = make_policy(wide, "gelu_pytorch_tanh"), make_rollout(sizes, rows)
    scalar = ScalarScorer(make_classifier(wide, "gelu_pytorch_tanh"))
    seq2seq = Seq2SeqScorer(model, rollout.tokenizer, Seq2Seq(positions="plain"))
    inputs, mask, _ = seq2seq.corrector.inputs(rollout, with_responses=False)

    def generate() -> None:
        with torch.no_grad():
            options: dict[str, Any] = {"do_sample": False, "max_new_tokens": sizes.response}
            model.generate(input_ids=inputs, attention_mask=mask, pad_token_id=PAD, eos_token_id=None, **options)

    seconds = take_turns(
        {"scalar": lambda: scalar.rewards(rollout), "seq2seq": lambda: seq2seq.rewards(rollout), "generate": generate},
        rounds,
    )
    marker = len(Layout.of(rollout.tokenizer, "plain").marker)
    p, t = sizes.prompt, sizes.response
    flop = needed_flop(sizes, p + 2 * t - 1 + marker, t + 1, t + 1) / needed_flop(sizes, p + t, 1, 0)
    return {
        **{name: median(values) for name, values in seconds.items()},
        "over scalar": median(a / b for a, b in zip(seconds["seq2seq"], seconds["scalar"], strict=True)),
        "flop over scalar": flop,
        "generate over seq2seq": median(a / b for a, b in zip(seconds["generate"], seconds["seq2seq"], strict=True)),
    }


def take_turns(passes: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name in list(passes)[:: 1 if number % 2 else -1]:
            begun = time.perf_counter()
            passes[name]()
            if number:
                seconds[name].append(time.perf_counter() - begun)
    return seconds
