"""A classifier with one label as a scorer of texts: of sequences or of tokens, from a folder or the hub (ID@REVISION).

A folder may also hold a decoder with a head that another tool saved (heads.py), or a LoRA adapter of such a model.

It encodes text with its own tokenizer (input_forms.py).  Nothing is truncated: an answer that does not fit, or that it
cannot read, gets no score but a reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.transformers_private import commit_hash
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit, Row
from rlhf_bench.harness.nouns import Answer, Example, Scored
from rlhf_bench.harness.text.tokens import Span
from rlhf_bench.reward_models.input_forms import InputEncoder, InputRow
from rlhf_bench.reward_models.loading import load_scoring_model, load_scoring_tokenizer
from rlhf_bench.reward_models.sources import check_classifier

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Classifier
    from rlhf_bench.harness.text.types import Tokenizer

T = TypeVar("T")
TokenScores = list[tuple[float, Span]]
"""The score of each token of a response, with the characters it covers."""


class ClassifierScorer:
    """Scores answers with the classifier at `source`, which is loaded at its first use.

    `form` is one of input_forms.FORMS; "" takes "question" for a reward model that a run trained, else "chat" where the
    tokenizer has a chat template, else "pair" for an encoder and "question" for a decoder.  `level` says what gets a
    score: "sequence" or "token".  `head` names the module of the head (heads.py), "" one of the usual names.  Raises
    BenchError for a source that is no such classifier.
    """

    def __init__(
        self, source: str, form: str = "", batch: int = 16, device: str = "", level: str = "sequence", head: str = ""
    ) -> None:
        check_classifier(source, (level,), head)
        path = Path(source).expanduser()
        self.source = str(path) if path.is_dir() else source
        self.batch, self.device, self._form, self.level, self._head = batch, device, form, level, head
        self._limit = MicroBatchLimit()

    def __call__(self, example: Example, response: str) -> float | None:
        """The score of one finished response, None where it cannot be scored."""
        return self.scores([Answer(example, response)])[0].value

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The classifier's own tokenizer.  Raises BenchError where there is none or it reads no text."""
        return load_scoring_tokenizer(self.source)

    @cached_property
    def model(self) -> Classifier:
        """The classifier in float32 evaluation mode.  Raises BenchError unless it has one label and all its weights."""
        return load_scoring_model(self.source, self.level, self._head, self.device)

    @cached_property
    def form(self) -> str:
        """The form in use.  Raises BenchError for "chat" without a chat template."""
        if self._form == "chat" and not self.tokenizer.chat_template:
            raise BenchError(f"The tokenizer of {self.source} has no chat template.", "Choose form question or pair.")
        if self._form:
            return self._form
        # A stage's record marks a reward model that a run trained, always on the question form; its tokenizer may have
        # a chat template all the same.
        if (Path(self.source) / store.MARKER).is_file():
            return "question"
        # encoders are trained on two texts joined by the tokenizer, decoders on running text
        return "chat" if self.tokenizer.chat_template else "question" if self._is_decoder else "pair"

    @cached_property
    def encoder(self) -> InputEncoder:
        """Encodes answers for this classifier."""
        return InputEncoder(self.tokenizer, self.form, self.source, self._is_decoder)

    @property
    def account(self) -> Mapping[str, str | None]:
        """What scored, where and how, as JSON.  `commit` is the hub's revision, None for a folder.

        Loads the model where it is not loaded yet: the form and the commit depend on it.
        """
        commit = commit_hash(self.model)
        return {"model": self.source, "commit": commit, "form": self.form, "device": str(self.model.device)}

    @property
    def _is_decoder(self) -> bool:
        """Whether the score is a linear head on the last token (transformers calls it `score` in these classes)."""
        return hasattr(self.model, "score")

    def scores(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score per answer, in order; equal answers are scored once.

        None with a reason where an answer cannot be read or its score is not finite.  Raises BenchError where a single
        answer does not fit the memory, and for a tokenizer that does not belong to the model.
        """
        # the key leaves out what the model does not read
        rows = {_key(answer): self._row(answer) for answer in answers}
        usable = {key: row for key, row in rows.items() if not isinstance(row, str)}
        # Sorted by length to keep padding small, then by text, so that scores do not depend on the order of answers.
        keys = sorted(usable, key=lambda key: (len(usable[key]["input_ids"]), key))
        found = {key: Scored(None, row) for key, row in rows.items() if isinstance(row, str)}
        for key, value in zip(keys, self._in_batches([usable[key] for key in keys], self._forward), strict=True):
            found[key] = Scored(value) if math.isfinite(value) else Scored(None, "the score is not finite")
        return [found[_key(answer)] for answer in answers]

    def token_scores(self, answers: Sequence[Answer]) -> list[TokenScores | str]:
        """Of each answer the scores of its response's tokens by a token classifier, or the reason why it has none.

        The tokens are the classifier's own, each with its characters [start, end) of the response.
        """
        rows = [self._row(answer) for answer in answers]
        usable = [row for row in rows if not isinstance(row, str)]
        scored = iter(self._in_batches(usable, self._forward_tokens))  # in the order of the usable rows
        found: list[TokenScores | str] = []
        for answer, row in zip(answers, rows, strict=True):
            if isinstance(row, str):
                found.append(row)
            else:
                token_values = next(scored)
                found.append([(token_values[at], span) for at, span in self.encoder.spans(answer)])
        return found

    def _in_batches(self, rows: Sequence[InputRow], forward: Callable[[Sequence[InputRow]], list[T]]) -> list[T]:
        """What `forward` gives for each of `rows`, in order, `batch` of them at a time: fewer where memory runs out."""
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        return self._limit.each(forward, rows, self.batch, Row(f"scoring with {self.source}", longest))

    def _forward_tokens(self, rows: Sequence[InputRow]) -> list[list[float]]:
        """The scores of all tokens of sequences, padding included."""
        import torch

        ids, mask, others = _padded(rows, self.tokenizer.pad_token_id or 0, self.model.device)
        with torch.no_grad():
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **others).logits
        values: list[list[float]] = logits.squeeze(-1).float().tolist()
        return values

    def _row(self, answer: Answer) -> InputRow | str:
        """The input of one answer, or the reason why it cannot be scored."""
        row = self.encoder.row(answer)
        if isinstance(row, str):
            return row
        # a tokenizer without a limit has a model_max_length of about 1e30
        limit = min(policies.context_length(self.model) or math.inf, self.tokenizer.model_max_length)
        if len(row["input_ids"]) > limit:
            return f"longer than the reward model's {limit} tokens"
        # Checked on the tokens of real texts, not on the vocabulary: some tokenizers have spare tokens.
        known, largest = self.model.get_input_embeddings().num_embeddings, max(row["input_ids"])
        if largest >= known:
            seen = f"The tokenizer of {self.source} writes token {largest}, its model knows {known}."
            raise BenchError(seen, "They do not belong together: give the model its own tokenizer.")
        return row

    def _forward(self, rows: Sequence[InputRow]) -> list[float]:
        """The scores of sequences."""
        import torch

        # A tokenizer without a pad token pads with 0: the mask hides it.
        ids, mask, others = _padded(rows, self.tokenizer.pad_token_id or 0, self.model.device)
        with torch.no_grad():
            if not self._is_decoder:
                logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **others).logits
                return [float(value) for value in logits.squeeze(-1).float()]
            hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            # the last real token by mask: the class's own pooling looks for pad ids, which a text may hold
            last = hidden[torch.arange(len(rows), device=hidden.device), mask.sum(1) - 1]
            return [float(value) for value in self.model.score(last).squeeze(-1).float()]


def _key(answer: Answer) -> tuple[str, str, bool]:
    return answer.example.prompt, answer.response, answer.finished


def _padded(rows: Sequence[InputRow], pad: int, device: torch.device | str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Ids and mask [B, T] padded on the right, and the other columns of the rows [B, T], padded with 0."""
    # on the right, so that every text starts at position 0: encoders number the columns themselves
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def table(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows], device=device)

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    others = {name: table(name, 0) for name in rows[0] if name != "input_ids"}
    return table("input_ids", pad), mask.to(device), others
