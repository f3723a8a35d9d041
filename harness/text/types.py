"""Types for signatures: JSON objects, and the part of a tokenizer that the package uses.

A Protocol, not the class of transformers: importing that takes seconds, and tests use small tokenizers of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

JsonObject = dict[str, Any]
"""A JSON object that the caller may change."""

Row = Mapping[str, Any]
"""A JSON object that is only read: one line of a .jsonl file, a record, a section of a report."""


class AddedToken(Protocol):
    """A token outside the trained vocabulary, of the class `tokenizers.AddedToken`; `str` gives its text."""

    special: bool  # read as one token wherever its string occurs, and left out by `skip_special_tokens`


class Backend(Protocol):
    """The part of `tokenizers.Tokenizer`, which a fast tokenizer wraps, that the package uses."""

    def to_str(self) -> str:
        """The whole pipeline as JSON: normaliser, pre-tokeniser, model, post-processor, padding and truncation."""


class Tokenizer(Protocol):
    """The part of `transformers.PreTrainedTokenizerBase` that the package uses.

    Ids of tokens that a tokenizer does not have are None.  `padding_side` and `truncation_side` are "left" or "right".
    """

    pad_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token_id: int  # `policies.load_tokenizer` gives every tokenizer a pad token
    eos_token_id: int  # and refuses one without an end-of-sequence token
    bos_token_id: int | None
    unk_token_id: int | None
    padding_side: str
    truncation_side: str
    chat_template: str | None
    model_max_length: int
    init_kwargs: JsonObject
    all_special_ids: Sequence[int]
    all_special_tokens: Sequence[str]
    added_tokens_decoder: Mapping[int, AddedToken]
    backend_tokenizer: Backend  # of fast tokenizers alone (`is_fast`)
    apply_chat_template: Callable[..., object]  # a str with `tokenize=False`; raises anything that a template raises
    save_pretrained: Callable[..., object]
    add_special_tokens: Callable[..., int]

    def __call__(self, *texts: object, **options: object) -> Any:
        """Token ids and masks by name ("input_ids", "attention_mask"), of one text or of a list of texts.

        Lists of ids, of lists of ids, or tensors [B, C] with `return_tensors="pt"`: not typed.
        """

    def __len__(self) -> int:
        """The number of tokens in the vocabulary, added ones included."""

    def decode(self, ids: object, **options: object) -> str:
        """The text of token ids; bytes that are no complete UTF-8 character become U+FFFD."""

    def get_vocab(self) -> dict[str, int]:
        """Token id by the token's own spelling, which may differ from its text (byte-level BPE writes "Ġ")."""

    def convert_ids_to_tokens(self, ids: int) -> str:
        """The spelling of one id, as in `get_vocab`."""
