"""A reward model of other people's as a scorer: a classifier with one label, of sequences or of tokens, in a folder or
on the hub (ID@REVISION).

It reads text with its own tokenizer, in its own chat template where it has one.  Nothing is cut off and nothing is
guessed: what it cannot read is undecided, with the reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import is_hub_id, split_revision, why_not
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.identity import folder_hash
from rlhf_bench.harness.nouns import Answer, Example, Scored
from rlhf_bench.harness.text.tokens import Span, check_reads
from rlhf_bench.reward_models.reading import FORMS, Reader, Row, default_form

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMS", "RewardModelScorer", "TokenScores", "check_source", "content_of", "read_config"]

ONE_LABEL = "A scalar reward model has num_labels=1."
LEVELS = {"sequence": "SequenceClassification", "token": "TokenClassification"}
"""What a classifier scores, and what its class is called."""

TokenScores = list[tuple[float, Span]]
"""A score for every token of a response, with the characters it stands for."""


def check_source(source: str, levels: Sequence[str] = ("sequence",)) -> None:
    """Raises BenchError for what is no one-label reward model, as far as its files tell without loading it."""
    path = Path(source).expanduser()
    if not (source.strip() and path.exists()):
        if is_hub_id(source):
            return
        raise BenchError(f"There is no reward model {source!r}.", "Give a folder or a hub id.")
    if not path.is_dir() or not (path / "config.json").is_file():
        raise BenchError(f"{source} is no model folder.", "Give a folder made by save_pretrained.")
    if not list(path.glob("*.safetensors")):
        pickled = (
            ", only pickle files, which can run code" if list(path.glob("*.bin")) + list(path.glob("*.pt")) else ""
        )
        raise BenchError(f"{source} has no safetensors weights{pickled}.", "Save the model again with safetensors.")
    check_config(source, read_config(path / "config.json", source), levels)


def read_config(file: Path, source: str) -> Mapping[str, Any]:
    """A model's config.json."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    if not isinstance(config, dict):
        raise BenchError(f"{source}: config.json cannot be read: it is no object.")
    return config


def check_config(source: str, config: Mapping[str, Any], levels: Sequence[str] = ("sequence",)) -> None:
    """Raises BenchError unless the configuration is of a classifier of `levels` with one label."""
    try:
        made = [str(name) for name in config.get("architectures") or []]
        labels = len(config.get("id2label") or ()) or int(config.get("num_labels", 2))  # transformers assumes two
    except (TypeError, ValueError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    if made and not any(LEVELS[level] in name for level in levels for name in made):
        raise BenchError(f"{source} is a {made[0]}, no reward model.", "Give a sequence classifier with one label.")
    if labels != 1:
        raise BenchError(f"{source} has {labels} labels.", ONE_LABEL)


def content_of(source: str) -> str:
    """Hash of a folder's files; "" for a hub id, whose newest revision is taken (the account names it)."""
    path = Path(source).expanduser()
    return folder_hash(path) if path.is_dir() else ""


class RewardModelScorer:
    """Scores by the model at `source`, loaded when it is first asked.

    `form` is one of FORMS; "" takes "question" for a reward model that a run trained, else "chat" where the tokenizer
    has a template, else "pair" for an encoder and "question" for a decoder.  `level` is what the model scores.
    """

    def __init__(self, source: str, form: str = "", batch: int = 16, device: str = "", level: str = "sequence") -> None:
        check_source(source, (level,))
        path = Path(source).expanduser()
        self.source = str(path) if path.is_dir() else source
        self.batch, self.device, self._form, self.level = batch, device, form, level

    def __call__(self, example: Example, response: str) -> float | None:
        return self.scores([Answer(example, response)])[0].value

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        found = self._load(AutoTokenizer, "tokenizer")
        check_reads(found, self.source)
        return found

    @cached_property
    def model(self) -> Any:
        """In float32 evaluation mode; raises BenchError unless it has one label and all its weights."""
        import torch
        import transformers
        from transformers.utils import logging

        labels = self._load(transformers.AutoConfig, "configuration").num_labels
        if labels != 1:
            raise BenchError(f"{self.source} has {labels} labels.", ONE_LABEL)
        device = policies.pick_device(self.device)
        logging.disable_progress_bar()
        auto = getattr(transformers, f"AutoModelFor{LEVELS[self.level]}")
        more = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        with policies.quiet_transformers():
            model, report = self._load(auto, "model", **more)
        if report["missing_keys"]:
            lacking = sorted(map(str, report["missing_keys"]))[0]
            raise BenchError(f"The weights of {self.source} lack {lacking}.", "Give a reward model that was trained.")
        return model.to(device).eval()

    def _load(self, auto: Any, what: str, **more: Any) -> Any:
        name, revision = split_revision(self.source)
        try:
            return auto.from_pretrained(name, revision=revision, trust_remote_code=False, **more)
        except Exception as error:
            if not Path(name).is_dir():
                raise why_not(error, self.source, what) from error
            seen = f"No {what} can be loaded from {self.source}: {one_line(error)}."
            raise BenchError(seen, "Give a complete model folder.") from error

    @cached_property
    def form(self) -> str:
        """The form in force."""
        if self._form == "chat" and not self.tokenizer.chat_template:
            raise BenchError(f"The tokenizer of {self.source} has no chat template.", "Choose form question or pair.")
        if self._form:
            return self._form
        if (Path(self.source) / store.MARKER).is_file():
            return "question"
        return default_form(self.tokenizer, self._decoder)

    @cached_property
    def reader(self) -> Reader:
        """What turns an answer into the model's tokens."""
        return Reader(self.tokenizer, self.form, self.source)

    @property
    def account(self) -> Mapping[str, Any]:
        """What scores, where and how: JSON.  `commit` is the hub's revision."""
        commit = getattr(self.model.config, "_commit_hash", None)
        return {"model": self.source, "commit": commit, "form": self.form, "device": str(self.model.device)}

    @property
    def _decoder(self) -> bool:
        """Whether the score is a linear head on the last token (transformers calls it `score` there)."""
        return hasattr(self.model, "score")

    def scores(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score per answer, in order; equal answers are scored once."""
        rows = {_key(answer): self._row(answer) for answer in answers}
        usable = {key: row for key, row in rows.items() if not isinstance(row, str)}
        # by length, so that little is computed on padding; by text, so that the order of cases changes nothing
        keys = sorted(usable, key=lambda key: (len(usable[key]["input_ids"]), key))
        found = {key: Scored(None, row) for key, row in rows.items() if isinstance(row, str)}
        for start in range(0, len(keys), self.batch):
            part = keys[start : start + self.batch]
            values = self._forward([usable[key] for key in part])
            found |= {key: _finite(value) for key, value in zip(part, values, strict=True)}
        return [found[_key(answer)] for answer in answers]

    def token_scores(self, answers: Sequence[Answer]) -> list[TokenScores | str]:
        """The scores of every response's tokens by a token classifier, or why it cannot be read."""
        found: list[TokenScores | str] = []
        for start in range(0, len(answers), self.batch):
            part = answers[start : start + self.batch]
            rows = [self._row(answer) for answer in part]
            values = iter(self._forward_tokens([row for row in rows if not isinstance(row, str)]))
            for answer, row in zip(part, rows, strict=True):
                scores = [] if isinstance(row, str) else next(values)
                spans = [] if isinstance(row, str) else self.reader.spans(answer)
                found.append(row if isinstance(row, str) else [(scores[at], span) for at, span in spans])
        return found

    def _row(self, answer: Answer) -> Row | str:
        """Tokens of one answer, or why it cannot be read."""
        row = self.reader.row(answer)
        limit = min(policies.context_length(self.model) or math.inf, self.tokenizer.model_max_length)
        if not isinstance(row, str) and len(row["input_ids"]) > limit:
            return f"longer than the reward model's {limit} tokens"
        known = self.model.get_input_embeddings().num_embeddings
        if not isinstance(row, str) and max(row["input_ids"]) >= known:  # only now: some tokenizers have spare tokens
            seen = f"The tokenizer of {self.source} writes token {max(row['input_ids'])}, its model knows {known}."
            raise BenchError(seen, "They do not belong together: give the model its own tokenizer.")
        return row

    def _forward(self, rows: Sequence[Row]) -> list[float]:
        import torch

        ids, mask, more = _padded(rows, self.tokenizer.pad_token_id or 0, self.model.device)
        try:
            with torch.no_grad():
                if not self._decoder:
                    logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **more).logits
                    return [float(value) for value in logits.squeeze(-1).float()]
                hidden = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
                # the last real token by mask: the class's own pooling looks for pad ids, which a text may hold
                last = hidden[torch.arange(len(rows), device=hidden.device), mask.sum(1) - 1]
                return [float(value) for value in self.model.score(last).squeeze(-1).float()]
        except torch.OutOfMemoryError as error:
            raise BenchError(f"{self.source}: out of memory.", "Lower the batch, or choose device cpu.") from error

    def _forward_tokens(self, rows: Sequence[Row]) -> list[list[float]]:
        import torch

        if not rows:
            return []
        ids, mask, more = _padded(rows, self.tokenizer.pad_token_id or 0, self.model.device)
        with torch.no_grad():
            logits: Tensor = self.model(input_ids=ids, attention_mask=mask, **more).logits
        return [[float(x) for x in row] for row in logits.squeeze(-1).float().tolist()]


def _key(answer: Answer) -> tuple[str, str, bool]:
    return answer.example.prompt, answer.response, answer.finished


def _finite(value: float) -> Scored:
    return Scored(value) if math.isfinite(value) else Scored(None, "the score is not finite")


def _padded(rows: Sequence[Row], pad: int, device: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """ids, mask [B, T] padded on the right, and what else the rows hold, padded with 0."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def table(name: str, fill: int) -> Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows], device=device)

    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows])
    more = {name: table(name, 0) for name in rows[0] if name != "input_ids"}
    return table("input_ids", pad), mask.to(device), more
