"""The stage that measures what scoring a response costs, by response length and model size, on random weights.

Time and memory do not depend on the values of the weights.  It always runs on the CPU with one thread, also
where the run has an accelerator: the figures are for comparing passes with each other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.pipeline.context import Context, StageFigures
from rlhf_bench.harness.statistics.cost import KINDS, OverheadSettings, forward_flop, layer_parameters, pass_of

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import CausalLM, Classifier
    from rlhf_bench.harness.text.types import JsonObject, Tokenizer

Passes = Mapping[str, Callable[[], object]]
"""The passes to measure by kind (`statistics.cost.KINDS`)."""


class Models(NamedTuple):
    """A causal language model and a one-label classifier of one size."""

    causal: CausalLM
    classifier: Classifier


def overhead(context: Context) -> StageFigures:
    """Measure scalar scoring, seq2seq scoring and generation of one response.

    Reads: nothing.
    Writes: overhead.jsonl, a row per kind of pass, size and length: kind, width, layers, parameters (of the layers),
        prompt, response, tokens and flop (counted: statistics/cost.py), seconds (of processor time, one per repeat),
        peak_bytes (`peak_bytes` below; null for generation, whose profile is too large).
    Parameters: overhead (the fields of OverheadSettings; its defaults without).
    """
    from rlhf_bench.harness.models.tiny_policy import train_tokenizer

    settings = OverheadSettings(**context.params.get("overhead", {}))
    tokenizer = train_tokenizer(["An answer."], 300)
    rows: list[JsonObject] = []
    total = len(settings.widths) * len(settings.lengths)
    with one_thread():
        for width, layers in zip(settings.widths, settings.layers, strict=True):
            models = make_models(settings, width, layers, tokenizer)
            for length in settings.lengths:
                passes, marker = make_passes(models, tokenizer, make_rollout(settings, tokenizer, length))
                rows += measure(settings, passes, marker, (width, layers), length)
                context.progress(len(rows) // len(KINDS), total)
    store.write_rows(context.work / "overhead.jsonl", rows)
    return {"rows": len(rows), "seconds_timed": round(sum(sum(row["seconds"]) for row in rows), 3)}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: its pool costs more than it gives on passes this small, and differs between machines."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_models(settings: OverheadSettings, width: int, layers: int, tokenizer: Tokenizer) -> Models:
    """Models of one size with random weights, in evaluation mode on the CPU.

    `width` is a multiple of 32.  Both have the same layers; the first also computes logits over the vocabulary.
    """
    import torch
    from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=settings.vocabulary,
        n_positions=settings.prompt + 2 * max(settings.lengths) + 64,  # a response, its correction, and the marker
        n_embd=width,
        n_layer=layers,
        n_head=width // 32,  # heads of 32 dimensions at every size (OverheadSettings)
        activation_function="gelu_pytorch_tanh",  # as in the tiny policy: one fused operation
        num_labels=1,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(settings.seed)  # the global generator, because transformers draws weights from no other
    return Models(GPT2LMHeadModel(config).eval(), GPT2ForSequenceClassification(config).eval())


def make_rollout(settings: OverheadSettings, tokenizer: Tokenizer, length: int) -> Rollout:
    """One response of `length` random tokens, end-of-sequence last, to a prompt of `settings.prompt` random tokens.

    Its texts are empty: the passes read tokens alone.
    """
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    # Ids above the special ones, so that no token ends or pads the response by accident.
    ids = torch.randint(max(end, pad) + 1, settings.vocabulary, (1, settings.prompt + length), generator=generator)
    ids[0, -1] = end
    prompt, response = ids[:, : settings.prompt], ids[:, settings.prompt :]
    mask = torch.ones_like(response, dtype=torch.bool)
    return Rollout(("",), ("",), prompt, torch.ones_like(prompt), response, mask, torch.ones(1).bool(), tokenizer)


def make_passes(models: Models, tokenizer: Tokenizer, rollout: Rollout) -> tuple[Passes, int]:
    """The passes over one rollout by kind, and the number of tokens of the correction marker.

    The scalar and the seq2seq pass are those by which reward models score rollouts.
    """
    from rlhf_bench.reward_models.corrector import Layout
    from rlhf_bench.reward_models.scalar import ScalarScorer
    from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer

    scalar = ScalarScorer(models.classifier)
    seq2seq = Seq2SeqScorer(models.causal, tokenizer, Seq2Seq(positions="plain"))
    passes: Passes = {
        "scalar": partial(scalar.rewards, rollout),
        "seq2seq": partial(seq2seq.rewards, rollout),
        "generation": partial(write, models.causal, rollout.prompt_ids, rollout.response_ids.shape[1]),
    }
    return passes, len(Layout.of(tokenizer, "plain").marker)


def write(model: CausalLM, prompt: Tensor, length: int) -> int:
    """Greedy decoding of exactly `length` tokens with the KV cache; returns how many tokens the model read."""
    import torch

    ids, cache, read = prompt, None, 0
    with torch.no_grad():
        for _ in range(length):
            # Logits of the last position alone, as every generation loop computes them.
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            read += ids.shape[1]
            cache, ids = output.past_key_values, output.logits[:, -1].argmax(-1, keepdim=True)
    return read


def measure(
    settings: OverheadSettings, passes: Passes, marker: int, size: tuple[int, int], response: int
) -> Iterator[JsonObject]:
    """Rows of overhead.jsonl of one `size` (width, layers) and one length of `response`, in tokens."""
    width, layers = size
    seconds = time_passes(settings, passes)
    for kind in KINDS:
        tokens, logits = pass_of(kind, settings.prompt, response, marker)
        yield {
            "kind": kind,
            "width": width,
            "layers": layers,
            "parameters": layer_parameters(width, layers),
            "prompt": settings.prompt,
            "response": response,
            "tokens": tokens,
            "flop": forward_flop(width, layers, tokens, logits, settings.vocabulary),
            "seconds": seconds[kind],
            "peak_bytes": None if kind == "generation" else peak_bytes(passes[kind]),
        }


def time_passes(settings: OverheadSettings, passes: Passes) -> dict[str, list[float]]:
    """Processor seconds by kind and repeat, after a warm-up.

    On one thread they are the wall's on an idle machine, and on a busy one they leave out what other processes took.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    # The two passes that are compared; generation is for reference.
    for kind in ("scalar", "seq2seq"):
        passes[kind]()
    for repeat in range(settings.repeats):
        # Generation takes most of the time: it is repeated less often.
        kinds = KINDS if repeat < settings.generation_repeats else KINDS[:2]
        # In alternating order: what slows the machine for a while slows both sides of a ratio.
        for kind in kinds if repeat % 2 else kinds[::-1]:
            start = time.process_time()
            passes[kind]()
            found[kind].append(time.process_time() - start)
    return found


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator held at once for what `function` allocated, its result included.

    It repeats exactly on one machine and does not see what a kernel takes from elsewhere.
    """
    from torch.profiler import ProfilerActivity, profile

    with no_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        function()
    events = profiled.profiler.kineto_results.events()
    held, most = 0, 0  # an event is an allocation (positive) or a release (negative), in bytes
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return int(most)


@contextmanager
def no_stderr() -> Iterator[None]:
    """The process's error stream to the null device: torch's profiler writes lines there that no setting turns off."""
    sys.stderr.flush()
    # By descriptor: the lines come from C++, which does not use sys.stderr.
    before, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(null)
