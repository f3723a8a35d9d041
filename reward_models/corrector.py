"""The corrector inside a seq2seq reward model: its input, and how a response is compared with its correction.

Two comparisons (seq2seq reward modeling, arXiv 2409.00162).  Teacher-forced: one pass over [prompt; response; marker;
response].  Free-running: the greedy correction is generated from [prompt; response; marker] and compared position by
position.  Both agree up to the first divergence t* and differ after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair, Rollout

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

MAPPINGS = ("both", "correction", "identity")
NO_TOKEN = -1
"""Fills `Comparison.written` where the correction has no token."""


@dataclass(frozen=True)
class Layout:
    """The order of prompt, response, marker and correction as token ids, and their position ids.

    marker: the tokens between a response and its correction.  reuse: whether the correction has the position ids of
    the response, so that a token to be copied stands at its own position.
    """

    marker: tuple[int, ...]
    reuse: bool

    @classmethod
    def of(cls, tokenizer: Tokenizer, positions: str) -> Layout:
        """The layout of a corrector; `positions` is the setting "reuse" or "plain" of `Seq2Seq`.

        The marker is the text `templates.CORRECTION` in the tokenizer's own tokens.
        """
        from rlhf_bench.harness.text.templates import CORRECTION, encode

        return cls(tuple(encode(tokenizer, [CORRECTION])[0]), positions == "reuse")

    def positions(self, prompt: int, response: int, correction: int) -> list[int]:
        """Position ids of prompt + response + marker + correction; the arguments are numbers of tokens.

        Reused: the correction counts from where the response began, and the marker leads up to it.
        """
        count = len(self.marker)
        if not self.reuse:
            return list(range(prompt + response + count + correction))
        # The marker takes the positions just before the correction's; a prompt shorter than the marker has too few.
        lead = range(prompt - count, prompt) if prompt >= count else [0] * count
        return [*range(prompt + response), *lead, *range(prompt, prompt + correction)]


def mapping_rows(
    layout: Layout, tokenizer: Tokenizer, pair: Pair, mappings: str = "both"
) -> list[dict[str, list[int]]]:
    """Training rows of one pair: the correction (rejected -> chosen) and the identity example (chosen -> chosen).

    `mappings` is one of MAPPINGS.  A row has `input_ids`, `labels` and `position_ids`.
    """
    from rlhf_bench.harness.text.templates import encode, encode_prompts
    from rlhf_bench.harness.training.collate import IGNORED

    # the stage of pairs has filled a missing response with a sample of the SFT policy
    assert pair.rejected is not None
    assert tokenizer.eos_token_id is not None
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
                "labels": [IGNORED] * len(context) + target,  # the loss is on the corrected text and its end alone
                "position_ids": layout.positions(len(prompt), len(response), len(target)),
            }
        )
    return rows


def check_context(needed: int, context: int | None, what: str) -> None:
    """Raises BenchError when the longest of `what` needs more tokens than the model's context has.

    context: in tokens, None where the model's configuration names no limit.   what: plural, for the message.
    """
    if context is not None and needed > context:
        raise BenchError(
            f"The longest of the {what} needs {needed} tokens with its correction; the model's context is {context}.",
            "Drop long prompts with --set data.max_prompt_tokens=N.",
        )


class UnpaddedRow(NamedTuple):
    """Token ids of one prompt and response; `body` is the response as the corrector's input: without its end token."""

    prompt: tuple[int, ...]
    body: tuple[int, ...]
    response: tuple[int, ...]


class Comparison(NamedTuple):
    """A response against its correction, [B, T].

    matches: bool, True where the corrector would write y_t; False outside the mask.  margins: log p(y_t) -
    max_v log p(v) in nats, at most 0, -inf where a generated correction had already ended (undefined outside the mask).
    written [B, W]: tokens of the generated correction, NO_TOKEN after its end; None where nothing was generated.
    """

    matches: Tensor
    margins: Tensor
    written: Tensor | None = None


def unpadded_rows(rollout: Rollout, end: int) -> list[UnpaddedRow]:
    """The rows of a rollout without padding.

    `end` is the corrector's end-of-sequence id; the ends that the policy's tokenizer lists are removed from bodies too.
    """
    from rlhf_bench.harness.text.chat import end_token_ids

    ends = {end, *end_token_ids(rollout.tokenizer)}
    prompts = _unpadded(rollout.prompt_ids, rollout.prompt_mask)
    responses = _unpadded(rollout.response_ids, rollout.mask)
    # In training, too, no end-of-sequence stands between a response and the marker.
    bodies = [row[:-1] if row and row[-1] in ends else row for row in responses]
    return [UnpaddedRow(*row) for row in zip(prompts, bodies, responses, strict=True)]


def _unpadded(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    return [tuple(compress(row, keep)) for row, keep in zip(ids.tolist(), mask.tolist(), strict=True)]


class Corrector:
    """A frozen causal language model that shares the policy's tokenizer and writes corrections of responses."""

    def __init__(self, model: CausalLM, tokenizer: Tokenizer, layout: Layout) -> None:
        # `load_tokenizer` refuses a tokenizer without end-of-sequence and gives every other a pad token.
        assert tokenizer.eos_token_id is not None
        assert tokenizer.pad_token_id is not None
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id

    def teacher_forced(self, rollout: Rollout) -> Comparison:
        """Compare token t with what the corrector would write after y_<t: one pass, without generation.

        Without gradients, and without padding where the model's attention allows packed rows.  Raises BenchError as
        `inputs`.
        """
        import torch

        from rlhf_bench.harness.forward.packing import supports_packing
        from rlhf_bench.harness.forward.passes import Packed, logits_and_hidden, pack_rows, scatter_to_mask

        inputs, mask, positions = self.inputs(rollout, with_responses=True)
        before = torch.zeros_like(inputs, dtype=torch.bool)
        # Corrections fill the last T columns, and each token is predicted one position before it.
        before[:, -rollout.mask.shape[1] - 1 : -1] = rollout.mask
        if supports_packing(self.model) and not bool(mask.all()):
            packed = pack_rows(inputs, mask.bool(), before, positions)
        else:
            packed = Packed(inputs, before, mask.sum(1), {"attention_mask": mask, "position_ids": positions})
        with torch.no_grad():
            logits, _ = logits_and_hidden(self.model, packed)
        # logits [N, V] of the N tokens inside the mask, in the order in which the mask selects them
        top, chosen = logits.max(-1), rollout.response_ids[rollout.mask]
        matches = torch.zeros_like(rollout.mask).masked_scatter(rollout.mask, top.indices == chosen)
        margins = logits.gather(-1, chosen[:, None]).squeeze(-1) - top.values  # the normaliser cancels
        return Comparison(matches, scatter_to_mask(margins, rollout.mask))

    def free_running(self, rollout: Rollout, extra: int = 0) -> Comparison:
        """Compare token t with token t of the greedy correction, which is generated with a KV cache.

        A row's correction has at most as many tokens as its response and `extra` more, fewer where the model's context
        ends.  The limit is the row's own, so a row's result does not depend on the others in the batch.
        """
        import torch

        ids, mask, positions = self.inputs(rollout, with_responses=False)
        first, limits = self._correction_limits(rollout, extra)
        width, running, cache = rollout.response_ids.shape[1], limits > 0, None
        # at least T columns, to be compared with the responses
        written = torch.full((len(ids), max(width, int(limits.max()))), NO_TOKEN, device=ids.device)
        margins = torch.full(rollout.mask.shape, float("-inf"), device=ids.device)
        for step in range(written.shape[1]):
            if not running.any():
                break
            with torch.no_grad():
                output = self.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,  # contexts are right-aligned: every next token follows the last column
                )
            logits, cache = output.logits[:, -1].float(), output.past_key_values  # [B, V]
            top = logits.max(-1)
            written[:, step] = torch.where(running, top.indices, NO_TOKEN)
            if step < width:
                margin = logits.gather(-1, rollout.response_ids[:, step, None]).squeeze(-1) - top.values
                margins[:, step] = torch.where(running, margin, float("-inf"))
            ids = torch.where(running, top.indices, self.pad)[:, None]
            # Rows that have ended repeat their last position: counting on could leave the model's context.
            positions = (first + torch.clamp(limits - 1, min=0, max=step))[:, None]
            # Ended rows attend to their pad tokens too, but nothing of theirs is used any more.
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            running = running & (top.indices != self.end) & (step + 1 < limits)
        return Comparison((written[:, :width] == rollout.response_ids) & rollout.mask, margins, written)

    def corrections(self, rollout: Rollout, extra: int) -> list[str]:
        """The greedy correction of every response as text, at most `extra` tokens longer than the response.

        Generated token by token, which costs a pass for each.  Raises BenchError as `inputs`.
        """
        from rlhf_bench.harness.text.templates import decode

        written = self.free_running(rollout, extra).written
        assert written is not None
        # an end-of-sequence that the corrector wrote ends its text and is no part of it
        rows = [[token for token in row if token not in (NO_TOKEN, self.end)] for row in written.tolist()]
        return [decode(self.tokenizer, row) for row in rows]

    def _correction_limits(self, rollout: Rollout, extra: int) -> tuple[Tensor, Tensor]:
        """Position id of every correction's first token [B], and the most tokens it may have [B]."""
        import torch

        from rlhf_bench.harness.models.policies import context_length

        rows, context = unpadded_rows(rollout, self.end), context_length(self.model)
        # the last position of a layout with a correction of one token is that token's
        first = [self.layout.positions(len(row.prompt), len(row.body), 1)[-1] for row in rows]
        # as many as the response has, its end-of-sequence included: a correction of equal length can end too
        limits = [len(row.response) + extra for row in rows]
        if context is not None:  # only `extra` can exceed it: `inputs` has refused responses that do not fit
            limits = [min(limit, context - start) for limit, start in zip(limits, first, strict=True)]
        device = rollout.mask.device
        return torch.tensor(first, device=device), torch.tensor(limits, device=device)

    def inputs(self, rollout: Rollout, with_responses: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and position ids [B, C] of the contexts, or [B, C + T] followed by the responses as corrections.

        Contexts are right-aligned in C columns, so that all corrections start in one column.  Raises BenchError where a
        response and a correction of its length do not fit the model's context.
        """
        import torch

        from rlhf_bench.harness.models.policies import context_length

        rows = unpadded_rows(rollout, self.end)
        positions_of_rows = [self.layout.positions(*map(len, row)) for row in rows]
        check_context(max(map(max, positions_of_rows)) + 1, context_length(self.model), "responses")
        contexts = [[*row.prompt, *row.body, *self.layout.marker] for row in rows]
        left, right = max(map(len, contexts)), rollout.response_ids.shape[1] if with_responses else 0
        inputs, mask, positions = [], [], []
        for row, context, own_positions in zip(rows, contexts, positions_of_rows, strict=True):
            ids = [*context, *row.response] if with_responses else context
            before, after = left - len(context), right - (len(ids) - len(context))
            inputs.append([self.pad] * before + ids + [self.pad] * after)
            # padding has position 0: the mask hides it
            mask.append([0] * before + [1] * len(ids) + [0] * after)
            positions.append([0] * before + own_positions[: len(ids)] + [0] * after)
        device = rollout.response_ids.device
        return tuple(torch.tensor(x, device=device) for x in (inputs, mask, positions))  # type: ignore[return-value]
