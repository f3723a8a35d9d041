"""How a reward model of other people's reads a prompt and a response: with its own tokenizer, in its own form."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.align import encode_with_spans
from rlhf_bench.harness.nouns import Answer
from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.harness.text.tokens import Span, encode

FORMS = ("chat", "question", "pair")
"""How prompt and response are put together: the tokenizer's chat template; the form in which `bench run` trains its
reward models (harness.text), ended by end-of-sequence unless the response was cut off; or two texts joined by the
tokenizer, as encoders are trained."""

Row = dict[str, list[int]]
"""Token ids, and token types where the tokenizer has them."""


@dataclass(frozen=True)
class Reader:
    """Texts to rows of token ids in one of FORMS; `source` is who is blamed."""

    tokenizer: Any
    form: str
    source: str

    def row(self, answer: Answer) -> Row | str:
        """Tokens of one answer, or why it cannot be read."""
        row = {"chat": self._chat, "question": self._question, "pair": self._pair}[self.form](answer)
        return row if isinstance(row, str) or row["input_ids"] else "no tokens"

    def spans(self, answer: Answer) -> list[tuple[int, Span]]:
        """(place in the row, characters of the response) of the row's tokens that stand for the response.

        Of an answer that can be read.  End-of-sequence after a response stands for the empty span at its end.
        Raises BenchError where a chat template changes the response, so that no token can be told to be its.
        """
        prompt, response = texts_of(answer)
        if self.form == "question":
            before = len(encode_prompts(self.tokenizer, [prompt])[0])
            ((_, spans),) = encode_with_spans(self.tokenizer, [response])
            end = [(len(response), len(response))] if answer.finished else []
            return list(enumerate([*spans, *end], before))
        if self.form == "pair":
            made = self.tokenizer(prompt, response, split_special_tokens=True, return_offsets_mapping=True)
            sides = made.sequence_ids(0)
            return [(at, (a, b)) for at, (a, b) in enumerate(made["offset_mapping"]) if sides[at] == 1]
        text, said = self._rendered(prompt, response), response.strip()
        start, shift = text.rfind(said), len(response) - len(response.lstrip())
        if start < 0:
            raise BenchError(
                f"The chat template of {self.source} changes the response.", "Choose form question or pair."
            )
        made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        inside = [(at, max(a, start), min(b, start + len(said))) for at, (a, b) in enumerate(made["offset_mapping"])]
        return [(at, (a - start + shift, b - start + shift)) for at, a, b in inside if a < b]

    def _chat(self, answer: Answer) -> Row | str:
        prompt, response = texts_of(answer)
        if any(token in text for token in self.special for text in (prompt, response)):
            return "a special token of the reward model stands in the text"
        return {
            "input_ids": list(self.tokenizer(self._rendered(prompt, response), add_special_tokens=False)["input_ids"])
        }

    def _rendered(self, prompt: str, response: str) -> str:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # a template is a program
            seen = f"The chat template of {self.source} fails: {one_line(error)}."
            raise BenchError(seen, "Choose form question or pair.") from error

    @cached_property
    def special(self) -> frozenset[str]:
        """Strings that would become special tokens where they stand in a text."""
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return frozenset(filter(None, {*added, *self.tokenizer.all_special_tokens}))

    def _question(self, answer: Answer) -> Row:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise BenchError(f"The tokenizer of {self.source} has no end-of-sequence token.", "Choose form pair.")
        text, reply = texts_of(answer)
        (prompt,), (response,) = encode_prompts(self.tokenizer, [text]), encode(self.tokenizer, [reply])
        return {"input_ids": [*prompt, *response, *([end] if answer.finished else [])]}

    def _pair(self, answer: Answer) -> Row:
        found = self.tokenizer(*texts_of(answer), split_special_tokens=True)
        return {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}


def texts_of(answer: Answer) -> tuple[str, str]:
    """Prompt and response without lone surrogates, which no tokenizer reads."""
    return well_formed(answer.example.prompt), well_formed(answer.response)


def default_form(tokenizer: Any, decoder: bool) -> str:
    """The form that a tokenizer and a kind of model are made for."""
    return "chat" if tokenizer.chat_template else "question" if decoder else "pair"
