"""A scalar reward model as a scorer: any sequence classifier with one label, in a folder or on the hub.

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

from rlhf_bench.harness import policies, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.identity import folder_hash
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.plugins import one_line
from rlhf_bench.harness.text import encode, encode_prompts
from rlhf_bench.judges.llm_prompt import well_formed
from rlhf_bench.judges.scorers import Answer, Scored

if TYPE_CHECKING:
    from torch import Tensor

FORMS = ("chat", "question", "pair")
"""How prompt and response are put together: the tokenizer's chat template; the form in which `bench run` trains its
reward models (harness.text), ended by end-of-sequence unless the response was cut off; or two texts joined by the
tokenizer, as encoders are trained."""

ONE_LABEL = "A scalar reward model has num_labels=1."

Row = Mapping[str, list[int]]
"""Token ids, and token types where the tokenizer has them."""


def check_source(source: str) -> None:
    """Raises BenchError for what is no one-label reward model, as far as its files tell without loading it."""
    path = Path(source).expanduser()
    if not (source.strip() and path.exists()):
        if source.count("/") == 1 and not source.startswith((".", "/", "~")):
            return
        raise BenchError(f"There is no reward model {source!r}.", "Give a folder or a hub id.")
    if not path.is_dir() or not (path / "config.json").is_file():
        raise BenchError(f"{source} is no model folder.", "Give a folder made by save_pretrained.")
    if not list(path.glob("*.safetensors")):
        raise BenchError(f"{source} has no safetensors weights.", "Save the model again with safetensors.")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        made = [str(name) for name in config.get("architectures") or []]
        labels = len(config.get("id2label") or "ab")  # two are what transformers assumes
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BenchError(f"{source}: config.json cannot be read: {one_line(error)}.") from None
    if made and not any("SequenceClassification" in name for name in made):
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
    has a template, else "pair" for an encoder and "question" for a decoder.
    """

    def __init__(self, source: str, form: str = "", batch: int = 16, device: str = "") -> None:
        check_source(source)
        path = Path(source).expanduser()
        self.source = str(path) if path.is_dir() else source
        self.batch, self.device, self._form = batch, device, form

    def __call__(self, example: Example, response: str) -> float | None:
        return self.scores([Answer(example, response)])[0].value

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        found = self._load(AutoTokenizer, "tokenizer")
        if not found("a", add_special_tokens=False)["input_ids"]:  # made from nothing where the files are missing
            raise BenchError(f"The tokenizer of {self.source} reads nothing.", "Put its files beside the model.")
        return found

    @cached_property
    def model(self) -> Any:
        """In float32 evaluation mode; raises BenchError unless it has one label and all its weights."""
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification
        from transformers.utils import logging

        labels = self._load(AutoConfig, "configuration").num_labels
        if labels != 1:
            raise BenchError(f"{self.source} has {labels} labels.", ONE_LABEL)
        device = policies.pick_device(self.device)
        logging.disable_progress_bar()
        more = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        with policies.quiet_transformers():
            model, report = self._load(AutoModelForSequenceClassification, "model", **more)
        if report["missing_keys"]:
            lacking = sorted(map(str, report["missing_keys"]))[0]
            raise BenchError(f"The weights of {self.source} lack {lacking}.", "Give a reward model that was trained.")
        return model.to(device).eval()

    def _load(self, auto: Any, what: str, **more: Any) -> Any:
        try:
            return auto.from_pretrained(self.source, trust_remote_code=False, **more)
        except Exception as error:
            fix = "Give a complete model folder." if Path(self.source).is_dir() else policies.OFFLINE
            raise BenchError(f"No {what} can be loaded from {self.source}: {one_line(error)}.", fix) from error

    @cached_property
    def form(self) -> str:
        """The form in force."""
        if self._form == "chat" and not self.tokenizer.chat_template:
            raise BenchError(f"The tokenizer of {self.source} has no chat template.", "Choose form question or pair.")
        if self._form:
            return self._form
        if (Path(self.source) / store.MARKER).is_file():
            return "question"
        return "chat" if self.tokenizer.chat_template else "question" if self._decoder else "pair"

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

    def _row(self, answer: Answer) -> Row | str:
        """Tokens of one answer, or why it cannot be read."""
        row = {"chat": self._chat, "question": self._question, "pair": self._pair}[self.form](answer)
        if isinstance(row, str):
            return row
        limit = policies.context_length(self.model) or math.inf
        limit = min(limit, self.tokenizer.model_max_length)
        if len(row["input_ids"]) > limit:
            return f"longer than the reward model's {limit} tokens"
        return row if row["input_ids"] else "no tokens"

    def _chat(self, answer: Answer) -> Row | str:
        prompt, response = _texts(answer)
        if any(token in text for token in self._special for text in (prompt, response)):
            return "a special token of the reward model stands in the text"
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception as error:  # a template is a program
            seen = f"The chat template of {self.source} fails: {one_line(error)}."
            raise BenchError(seen, "Choose form question or pair.") from error
        return {"input_ids": list(self.tokenizer(text, add_special_tokens=False)["input_ids"])}

    @cached_property
    def _special(self) -> frozenset[str]:
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return frozenset(filter(None, {*added, *self.tokenizer.all_special_tokens}))

    def _question(self, answer: Answer) -> Row:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise BenchError(f"The tokenizer of {self.source} has no end-of-sequence token.", "Choose form pair.")
        text, reply = _texts(answer)
        (prompt,), (response,) = encode_prompts(self.tokenizer, [text]), encode(self.tokenizer, [reply])
        return {"input_ids": [*prompt, *response, *([end] if answer.finished else [])]}

    def _pair(self, answer: Answer) -> Row:
        found = self.tokenizer(*_texts(answer), split_special_tokens=True)
        return {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}

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


def _texts(answer: Answer) -> tuple[str, str]:
    """Prompt and response without lone surrogates, which no tokenizer reads."""
    return well_formed(answer.example.prompt), well_formed(answer.response)


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
