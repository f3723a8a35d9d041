"""The input of a classifier: prompt and response as its own tokens, in one of three forms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.models.align import encode_with_spans
from rlhf_bench.harness.nouns import Answer
from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.harness.text.tokens import Span, encode

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Tokenizer

FORMS = ("chat", "question", "pair")
"""How prompt and response are joined.

chat: by the tokenizer's chat template, which ends at the response where it was truncated.  question: in the form in
which `bench run` trains its reward models (harness/text/templates.py), ended by end-of-sequence unless the response was
truncated.  pair: as two texts joined by the tokenizer, as encoders are trained; an encoder's separators say where a
text ends, not that it is complete.
"""

InputRow = dict[str, list[int]]
"""`input_ids`, and `token_type_ids` where the tokenizer has them."""


@dataclass(frozen=True)
class InputEncoder:
    """Encodes answers in one of FORMS.  `source` names the model in errors; `decoder`: it is one, and no encoder."""

    tokenizer: Tokenizer
    form: str
    source: str
    decoder: bool = False

    def row(self, answer: Answer) -> InputRow | str:
        """The input of one answer, or the reason why it has none.

        Raises BenchError where the tokenizer does not suit the form.
        """
        prompt, response = _texts(answer)
        if self.form == "pair":
            found = self.tokenizer(prompt, response, split_special_tokens=True)
            # token_type_ids tell an encoder which of the two texts a token belongs to
            row = {name: list(found[name]) for name in ("input_ids", "token_type_ids") if name in found}
            ids = row["input_ids"]
            if self.decoder and not answer.finished and ids and ids[-1] == self.tokenizer.eos_token_id:
                row = {name: values[:-1] for name, values in row.items()}  # some tokenizers end every text
        elif self.form == "question":
            end = self.tokenizer.eos_token_id
            if end is None:
                raise BenchError(f"The tokenizer of {self.source} has no end-of-sequence token.", "Choose form pair.")
            (prompt_ids,), (ids,) = encode_prompts(self.tokenizer, [prompt]), encode(self.tokenizer, [response])
            row = {"input_ids": [*prompt_ids, *ids, *([end] if answer.finished else [])]}
        else:
            # The template's own special tokens must be recognised, so those of a text would be too.
            if any(token in text for token in self.special for text in (prompt, response)):
                return "a special token of the reward model stands in the text"
            # the template has written the special tokens as text already
            text = self._rendered(prompt, response, answer.finished)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            row = {"input_ids": list(ids)}
        return row if row["input_ids"] else "no tokens"

    def spans(self, answer: Answer) -> list[tuple[int, Span]]:
        """(position in the row, characters of the response) of each token of `row(answer)` that is of the response.

        An end-of-sequence after the response has the empty span at its end.  Only for an answer that has a row.
        Raises BenchError where the chat template changes the response, so that its tokens cannot be found.
        """
        prompt, response = _texts(answer)
        if self.form == "question":
            before = len(encode_prompts(self.tokenizer, [prompt])[0])
            ((_, spans),) = encode_with_spans(self.tokenizer, [response])
            end = [(len(response), len(response))] if answer.finished else []
            return list(enumerate([*spans, *end], before))
        if self.form == "pair":
            encoding = self.tokenizer(prompt, response, split_special_tokens=True, return_offsets_mapping=True)
            sides = encoding.sequence_ids(0)  # 0 prompt, 1 response, None special tokens
            return [(at, (a, b)) for at, (a, b) in enumerate(encoding["offset_mapping"]) if sides[at] == 1]
        # Templates strip the response: its text is searched without the outer white space, from the end because the
        # prompt may contain the same text.
        text, stripped = self._rendered(prompt, response, answer.finished), response.strip()
        # `shift` leads back from the stripped text to the response as it was given
        start, shift = text.rfind(stripped), len(response) - len(response.lstrip())
        if start < 0:
            raise BenchError(
                f"The chat template of {self.source} changes the response.", "Choose form question or pair."
            )
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        # A token may reach into the template's text at either side: only its characters of the response count.
        inside = [(at, max(a, start), min(b, start + len(stripped))) for at, (a, b) in enumerate(offsets)]
        return [(at, (a - start + shift, b - start + shift)) for at, a, b in inside if a < b]

    def _rendered(self, prompt: str, response: str, finished: bool) -> str:
        """The conversation in the chat template; without what the template writes after a response that is cut off."""
        text = self._template(prompt, response)
        if finished:
            return text
        # The end that two conversations have in common is the template's.  The response is not searched: it may be
        # empty, and a template may change it.
        one, other = (self._template(prompt, letter)[::-1] for letter in "xy")
        end = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))[::-1]
        if not text.endswith(end):
            fix = "Choose form question or pair."
            raise BenchError(f"The chat template of {self.source} ends some responses in another way.", fix)
        return text.removesuffix(end)

    def _template(self, prompt: str, response: str) -> str:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except Exception as error:  # a template is a program and may raise anything
            seen = f"The chat template of {self.source} fails: {one_line(error)}."
            raise BenchError(seen, "Choose form question or pair.") from error

    @cached_property
    def special(self) -> frozenset[str]:
        """Strings that the tokenizer turns into special tokens wherever they occur in a text.

        Added tokens that are not special are words like any other and are left out.
        """
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return frozenset(filter(None, {*added, *self.tokenizer.all_special_tokens}))


def _texts(answer: Answer) -> tuple[str, str]:
    # tokenizers raise on lone surrogates, which a policy's output may hold
    return well_formed(answer.example.prompt), well_formed(answer.response)
