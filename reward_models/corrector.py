"""The corrector behind a seq2seq reward model: what it reads, and how a response is compared with what it writes.

Two comparisons (method.md A, arXiv 2409.00162).  Teacher-forced: one pass over [prompt; response; marker; response].
Free-running: the greedy correction is generated from [prompt; response; marker] and compared position by position.
Both agree up to the first divergence t*, and differ after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair, Rollout

if TYPE_CHECKING:
    from torch import Tensor

MAPPINGS = ("both", "correction", "identity")
NOTHING = -1
"""Stands in `written` where the correction has no token."""


@dataclass(frozen=True)
class Layout:
    """How prompt, response and correction follow each other, as token ids and positions."""

    marker: tuple[int, ...]
    reuse: bool

    @classmethod
    def of(cls, tokenizer: Any, positions: str) -> Layout:
        from rlhf_bench.harness.text.templates import CORRECTION, encode

        return cls(tuple(encode(tokenizer, [CORRECTION])[0]), positions == "reuse")

    def positions(self, prompt: int, response: int, correction: int) -> list[int]:
        """Position ids of prompt + response + marker + correction tokens.

        Reused: the correction counts from where the response began, and the marker leads up to it.
        """
        count = len(self.marker)
        if not self.reuse:
            return list(range(prompt + response + count + correction))
        lead = range(max(0, prompt - count), prompt) if prompt >= count else [0] * count
        return [*range(prompt + response), *lead, *range(prompt, prompt + correction)]


def mapping_rows(layout: Layout, tokenizer: Any, pair: Pair, mappings: str = "both") -> list[dict[str, list[int]]]:
    """The correction and the identity example of one pair, or the one asked for; the loss is on the corrected text and
    its end alone."""
    from rlhf_bench.harness.text.templates import encode, encode_prompts
    from rlhf_bench.harness.training.collate import IGNORED

    assert pair.rejected is not None
    prompt = encode_prompts(tokenizer, [pair.prompt])[0]
    chosen, rejected = encode(tokenizer, [pair.chosen, pair.rejected])
    rows = []
    for mapping, response in (("correction", rejected), ("identity", chosen)):
        if mappings not in ("both", mapping):
            continue
        context = [*prompt, *response, *layout.marker]
        target = [*chosen, tokenizer.eos_token_id]
        rows.append(
            {
                "input_ids": context + target,
                "labels": [IGNORED] * len(context) + target,
                "position_ids": layout.positions(len(prompt), len(response), len(target)),
            }
        )
    return rows


def check_context(needed: int, context: int | None, what: str) -> None:
    """Raises BenchError when the longest of `what` does not fit the model."""
    if context is not None and needed > context:
        raise BenchError(
            f"The longest of the {what} needs {needed} tokens with its correction; the model's context is {context}.",
            "Drop long prompts with --set data.max_prompt_tokens=N.",
        )


class Row(NamedTuple):
    """One response without padding; `body` is what the corrector reads of it: no end inside, as in training."""

    prompt: tuple[int, ...]
    body: tuple[int, ...]
    response: tuple[int, ...]


class Comparison(NamedTuple):
    """A response against its correction, [B, T].

    matches: bool, the corrector would write y_t here; False outside the mask.  margins: log p(y_t) - max_v log p(v) in
    nats, at most 0, -inf where a correction that was generated had ended before (undefined outside the mask).
    written [B, W]: tokens of the generated correction, `NOTHING` after its end; None where nothing was generated.
    """

    matches: Tensor
    margins: Tensor
    written: Tensor | None = None


def rows_of_rollout(rollout: Rollout, end: int) -> list[Row]:
    """The unpadded rows of a rollout; `end` is the end-of-sequence id, beside others the policy's tokenizer keeps."""
    from rlhf_bench.harness.text.chat import ends_of

    ends = {end, *ends_of(rollout.tokenizer)}
    prompts = _unpadded(rollout.prompt_ids, rollout.prompt_mask)
    responses = _unpadded(rollout.response_ids, rollout.mask)
    bodies = [row[:-1] if row and row[-1] in ends else row for row in responses]
    return [Row(*row) for row in zip(prompts, bodies, responses, strict=True)]


def _unpadded(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    return [tuple(compress(row, keep)) for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)]


class Corrector:
    """A frozen causal language model that shares the policy's tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, layout: Layout) -> None:
        self.model, self.tokenizer, self.layout = model, tokenizer, layout

    def teacher_forced(self, rollout: Rollout) -> Comparison:
        """Token t is compared with what the corrector would write after y_<t: one pass, nothing is generated."""
        import torch

        from rlhf_bench.harness.forward.packing import reads_rows
        from rlhf_bench.harness.forward.passes import Packed, end_to_end, logits_and_hidden, spread

        inputs, mask, positions = self.inputs(rollout, with_responses=True)
        before = torch.zeros_like(inputs, dtype=torch.bool)
        before[:, -rollout.mask.shape[1] - 1 : -1] = rollout.mask
        if reads_rows(self.model) and not bool(mask.all()):
            packed = end_to_end(inputs, mask.bool(), before, positions)
        else:
            packed = Packed(inputs, before, mask.sum(1), {"attention_mask": mask, "position_ids": positions})
        with torch.no_grad():
            logits, _ = logits_and_hidden(self.model, packed)
        top, chosen = logits.max(-1), rollout.response_ids[rollout.mask]
        matches = torch.zeros_like(rollout.mask).masked_scatter(rollout.mask, top.indices == chosen)
        margins = logits.gather(-1, chosen[:, None]).squeeze(-1) - top.values  # the normaliser cancels
        return Comparison(matches, spread(margins, rollout.mask))

    def free_running(self, rollout: Rollout, extra: int = 0) -> Comparison:
        """Token t is compared with token t of the greedy correction, written with the key-value cache.

        A row's correction has at most as many tokens as its response and `extra` more (fewer where the model's context
        ends): a limit of the row's own, so that its neighbours change nothing.
        """
        import torch

        ids, mask, positions = self.inputs(rollout, with_responses=False)
        first, limits = self._limits(rollout, extra)
        wide, running, cache = rollout.response_ids.shape[1], limits > 0, None
        written = torch.full((len(ids), max(wide, int(limits.max()))), NOTHING, device=ids.device)
        margins = torch.full(rollout.mask.shape, float("-inf"), device=ids.device)
        for step in range(written.shape[1]):
            if not running.any():
                break
            logits, cache = self._next(ids, mask, positions, cache)
            top = logits.max(-1)
            written[:, step] = torch.where(running, top.indices, NOTHING)
            if step < wide:
                margin = logits.gather(-1, rollout.response_ids[:, step, None]).squeeze(-1) - top.values
                margins[:, step] = torch.where(running, margin, float("-inf"))
            ids = torch.where(running, top.indices, self.tokenizer.pad_token_id)[:, None]
            # rows that have ended stay at their last position: going on could leave the model's context
            positions = (first + torch.clamp(limits - 1, min=0, max=step))[:, None]
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            running = running & (top.indices != self.tokenizer.eos_token_id) & (step + 1 < limits)
        return Comparison((written[:, :wide] == rollout.response_ids) & rollout.mask, margins, written)

    def corrections(self, rollout: Rollout, extra: int) -> list[str]:
        """The greedy correction of every response as text, at most `extra` tokens longer than it."""
        from rlhf_bench.harness.text.templates import decode

        found = self.free_running(rollout, extra).written
        assert found is not None
        end = self.tokenizer.eos_token_id
        rows = [[token for token in row if token not in (NOTHING, end)] for row in found.tolist()]
        return [decode(self.tokenizer, row) for row in rows]

    def _next(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] of the token after `ids`, and the cache that now holds them."""
        import torch

        with torch.no_grad():
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return output.logits[:, -1].float(), output.past_key_values

    def _limits(self, rollout: Rollout, extra: int) -> tuple[Tensor, Tensor]:
        """Position id of every correction's first token [B], and the most tokens it may have [B]."""
        import torch

        from rlhf_bench.harness.models.policies import context_length

        rows, context = rows_of_rollout(rollout, self.tokenizer.eos_token_id), context_length(self.model)
        first = [self.layout.positions(len(row.prompt), len(row.body), 1)[-1] for row in rows]
        limits = [len(row.response) + extra for row in rows]
        if context is not None:  # the responses themselves fit: see `inputs`
            limits = [min(limit, context - start) for limit, start in zip(limits, first, strict=True)]
        return tuple(torch.tensor(x, device=rollout.mask.device) for x in (first, limits))  # type: ignore[return-value]

    def inputs(self, rollout: Rollout, with_responses: bool) -> tuple[Tensor, Tensor, Tensor]:
        """ids, mask, position ids [B, C] of the contexts, or [B, C + T] with the responses as corrections after them.

        Contexts are right-aligned in C columns, so that all corrections start in one.  Raises BenchError where a
        response does not fit the model's context with a correction of its length.
        """
        import torch

        from rlhf_bench.harness.models.policies import context_length

        rows, pad = rows_of_rollout(rollout, self.tokenizer.eos_token_id), self.tokenizer.pad_token_id
        places = [self.layout.positions(*map(len, row)) for row in rows]
        check_context(max(map(max, places)) + 1, context_length(self.model), "responses")
        contexts = [[*row.prompt, *row.body, *self.layout.marker] for row in rows]
        left, right = max(map(len, contexts)), rollout.response_ids.shape[1] if with_responses else 0
        inputs, mask, positions = [], [], []
        for row, context, place in zip(rows, contexts, places, strict=True):
            ids = [*context, *row.response] if with_responses else context
            before, after = left - len(context), right - (len(ids) - len(context))
            inputs.append([pad] * before + ids + [pad] * after)
            mask.append([0] * before + [1] * len(ids) + [0] * after)
            positions.append([0] * before + place[: len(ids)] + [0] * after)
        device = rollout.response_ids.device
        return tuple(torch.tensor(x, device=device) for x in (inputs, mask, positions))  # type: ignore[return-value]
