"""The types of a causal language model and of its parts, for signatures: torch is imported for type checking alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class HasParameters(Protocol):
    """Anything with parameters: a module, or a critic made of several."""

    def parameters(self) -> Iterator[Any]:
        """All trainable and frozen parameters."""


class Module(Protocol):
    """The part of `torch.nn.Module` that the package uses, for modules of unknown class."""

    training: bool
    forward: Callable[..., Any]

    def __call__(self, *args: object, **named: object) -> Any:
        """The module's forward pass."""

    def parameters(self) -> Iterator[Tensor]:
        """All trainable and frozen parameters."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with their dotted names."""

    def modules(self) -> Iterator[Any]:
        """The module and everything inside it."""

    def named_modules(self) -> Iterator[tuple[str, Any]]:
        """The same with dotted names."""

    def get_submodule(self, target: str) -> Any:
        """The module of a dotted name."""

    def buffers(self) -> Iterator[Tensor]:
        """Tensors that are no parameters."""

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and buffers by name: detached, or the parameters themselves."""

    def to(self, *args: Any, **named: Any) -> Self:
        """Moved or cast in place."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Its parameters with or without gradients, in place."""

    def eval(self) -> Self:
        """In evaluation mode, in place."""

    def train(self, mode: bool = True) -> Self:
        """In training mode, in place."""


class CausalLM(Module, Protocol):
    """The part of `transformers.PreTrainedModel` with a language-model head that the package uses."""

    config: Any
    generation_config: Any
    base_model: Any

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    def get_output_embeddings(self) -> Any:
        """The language-model head."""

    def get_input_embeddings(self) -> Any:
        """The token embeddings."""

    def resize_token_embeddings(self, size: int, *, mean_resizing: bool = True) -> object:
        """Embeddings for another number of tokens."""

    def save_pretrained(self, folder: object, **options: object) -> object:
        """Write configuration and weights."""

    def num_parameters(self, *, exclude_embeddings: bool = False) -> int:
        """How many parameters it has."""

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Compute attention with the registered implementation of this name."""


class Classifier(CausalLM, Protocol):
    """A `transformers` sequence classifier that keeps its head in `score`, as those made from decoders do."""

    score: Any


class EncoderDecoder(CausalLM, Protocol):
    """A `transformers` encoder-decoder with a language-model head."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input ids: the labels shifted right by one."""
