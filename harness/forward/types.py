"""The types of a causal language model and of its parts, for signatures: torch is imported for type checking alone.

They are Protocols because models come from transformers, peft and tests: their classes have no common base to name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, Self, overload

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle


class HasParameters(Protocol):
    """Anything with parameters: a module, or a critic made of several."""

    def parameters(self) -> Iterator[Tensor]:
        """All trainable and frozen parameters, tied ones once."""


class Module(Protocol):
    """The part of `torch.nn.Module` that the package uses, for modules of unknown class.

    `forward` is an attribute, not a method, because forward/patch.py and models/placement.py assign to it.
    """

    training: bool
    forward: Callable[..., Any]

    def __call__(self, *args: object, **named: object) -> Any:
        """The module's forward pass, with its hooks.

        A model of transformers returns an output record (`logits`, `last_hidden_state`), a layer mostly a tensor.
        """

    def parameters(self) -> Iterator[Tensor]:
        """All trainable and frozen parameters, tied ones once."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters with their dotted names; a tied one has the first of its names."""

    def modules(self) -> Iterator[Any]:
        """The module itself, then everything inside it, from the top down.

        Not typed: callers choose modules by class or by attribute and then read what these have (`weight`, `mlp`).
        """

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """The same with dotted names; the module itself has the name ""."""

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name; "" is the module itself."""

    def register_forward_pre_hook(self, hook: Callable[..., object]) -> RemovableHandle:
        """Call `hook(module, positional arguments)` before every forward pass, until the handle is removed.

        What the hook returns takes the place of the arguments; None keeps them.
        """

    def buffers(self) -> Iterator[Tensor]:
        """Tensors that are no parameters."""

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, Tensor]:
        """Parameters and buffers by name, tied ones under each of their names; they are not copied.

        Detached from the graph, or with `keep_vars` the parameters themselves.
        """

    @overload
    def to(self, device: str | torch.device) -> Self: ...
    @overload
    def to(self, dtype: torch.dtype) -> Self: ...

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Its parameters with or without gradients, in place."""

    def eval(self) -> Self:
        """In evaluation mode (no dropout), in place."""

    def train(self, mode: bool = True) -> Self:
        """In training mode, in place."""


class Linear(Module, Protocol):
    """A linear layer: a language-model head, a classifier's head, or a layer that decoding packs.

    `weight` is [out, in]; in GPT-2's Conv1D (`transformers_private.is_conv1d`) it is [in, out].
    """

    weight: Tensor
    bias: Tensor | None


class Embeddings(Module, Protocol):
    """Token embeddings: `weight` [num_embeddings, width]."""

    weight: Tensor
    num_embeddings: int


class AttentionLayer(Module, Protocol):
    """What transformers passes to an attention implementation: the layer's own module, with its index from 0."""

    layer_idx: int


class Config(Protocol):
    """The part of `transformers.PretrainedConfig` that every architecture here has.

    Whether others are present depends on the architecture (`sliding_window`, `head_dim`): they are read by `getattr`
    with a default.  GPT-2 and T5 name the sizes in another way, and transformers maps them to these names.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    pad_token_id: int | None


class GenerationConfig(Protocol):
    """The part of `transformers.GenerationConfig` that is stored with a policy, for programs that sample from it."""

    pad_token_id: int | None
    eos_token_id: int | list[int] | None


class CausalLM(Module, Protocol):
    """The part of `transformers.PreTrainedModel` with a language-model head that the package uses.

    `base_model` is the trunk, the model without its head: the same class of transformers, but its pass returns hidden
    states [B, C, D] instead of logits [B, C, V], and it has no output embeddings.
    """

    config: Config
    generation_config: GenerationConfig
    base_model: CausalLM
    base_model_prefix: str
    """The attribute that holds the trunk: names of its tensors begin with it."""

    @property
    def device(self) -> torch.device:
        """Where its weights are; that of its first parameter."""

    def get_output_embeddings(self) -> Linear:
        """The language-model head, from hidden states [..., D] to logits [..., V]; its weight may be tied."""

    def get_input_embeddings(self) -> Embeddings:
        """The token embeddings [V, D]."""

    def resize_token_embeddings(self, size: int, *, mean_resizing: bool = True) -> object:
        """Embeddings, and a head, for another number of tokens, in place.

        New rows are random: drawn around the mean of the old ones if `mean_resizing`, else as at initialisation.
        """

    def save_pretrained(self, folder: object, **options: object) -> object:
        """Write config.json, generation_config.json and the weights as safetensors."""

    def num_parameters(self, *, exclude_embeddings: bool = False) -> int:
        """How many parameters it has, tied ones once."""

    def set_attn_implementation(self, attn_implementation: str) -> None:
        """Compute attention with the registered implementation of this name, in all layers, in place."""


class Classifier(CausalLM, Protocol):
    """A `transformers` sequence classifier that keeps its head in `score`, as those made from decoders do."""

    score: Linear


class EncoderDecoder(CausalLM, Protocol):
    """A `transformers` encoder-decoder with a language-model head."""

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """The decoder's input ids [B, T]: the labels [B, T] shifted right by one, the start token in front."""
