"""The types of what is read from JSON and of a tokenizer, for signatures: nothing here is imported at run time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

JsonObject = dict[str, Any]
"""A JSON object that the caller may change."""

Row = Mapping[str, Any]
"""A JSON object that is only read: one line of a .jsonl file, a record, a section of a report."""


class Tokenizer(Protocol):
    """The part of `transformers.PreTrainedTokenizerBase` that the package uses."""

    pad_token: str | None
    eos_token: str | None
    unk_token: str | None
    pad_token_id: int | None
    eos_token_id: int | None
    bos_token_id: int | None
    unk_token_id: int | None
    padding_side: str
    truncation_side: str
    chat_template: str | None
    model_max_length: int
    init_kwargs: JsonObject
    all_special_ids: Sequence[int]
    all_special_tokens: Sequence[str]
    added_tokens_decoder: Mapping[int, Any]
    backend_tokenizer: Any
    apply_chat_template: Callable[..., Any]
    save_pretrained: Callable[..., Any]
    add_special_tokens: Callable[..., int]

    def __call__(self, *texts: Any, **options: Any) -> Any:
        """Token ids and masks by name; texts one by one or as lists."""

    def __len__(self) -> int:
        """Tokens in the vocabulary, added ones included."""

    def decode(self, ids: Any, **options: Any) -> str:
        """The text of token ids."""

    def get_vocab(self) -> dict[str, int]:
        """Token id by the token's own text."""

    def convert_ids_to_tokens(self, ids: Any) -> Any:
        """The tokens' own texts."""
