"""All private and undocumented names of transformers that the package uses.

`config._attn_implementation`, `masking_utils.sdpa_mask`, `integrations.sdpa_attention.sdpa_attention_forward`
    For attention over packed rows (packing.py) and over a split KV cache (sampling/split_attention.py).  Both rely on
    two further properties: masks of four dimensions reach the attention unchanged, and position ids are used as given.
    Gain: padded rows of 130 to 302 tokens take 1.37 times as long, forward and backward.
    Public path: padded rows, transformers' own "sdpa" attention and its own cache.
`cache_utils.DynamicLayer` as a base class, `Cache.layers`
    For cache layers that do not copy all keys and values for every token (sampling/kv_cache.py).
    Gain: with transformers' own cache sampling takes 1.3 times as long (32 prompts of 100 to 200 tokens, 96 new ones).
    Public path: `transformers.DynamicCache`.
`modeling_layers.GradientCheckpointingLayer`
    For gradient checkpointing only while gradients are wanted: sampling needs the KV cache, which a checkpointed layer
    drops.  Gain: none in time; the layers of every architecture are known for certain.
    Public path: `torch.utils.checkpoint` around the elements of the model's first list of modules.
`config._commit_hash`
    The commit of a model from the hub, for the record.  Without it: None.

Gains: processor time of one thread, a GPT-2 of 4 layers and width 256.
Tested with transformers 5.23 (constraints.txt); pyproject.toml allows no later minor version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.forward.fast_paths import FastPath, require_close

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.cache_utils import DynamicLayer as DynamicLayer

    from rlhf_bench.harness.forward.types import AttentionLayer, CausalLM, Module

TINY = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "vocab_size": 16, "max_position_embeddings": 16, "sliding_window": None,
    "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
"""Sizes of the models of the self-tests, by the names that configurations of decoders share.

Two heads share one key, so that a self-test sees grouped queries.
"""


# --- attention


def attention_name(model: Module) -> str:
    """The name of the model's attention implementation ("sdpa", "eager", a registered one), "" where it has none.

    Never raises: without the name every fast path that depends on it stays off.
    """
    try:
        return str(model.config._attn_implementation or "")  # type: ignore[attr-defined]
    except Exception:  # no configuration, or none with this name
        return ""


def register_attention(name: str, attention: Callable[..., tuple[Tensor, None]]) -> None:
    """Let `model.set_attn_implementation(name)` use `attention`, which gets the masks that "sdpa" gets.

    For the whole process; a name that is registered already is replaced.  Raises where transformers has changed.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    # Both under one name: an attention without a mask function of its own gets no mask at all.
    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)


def sdpa_attention(
    module: AttentionLayer, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **named: object
) -> tuple[Tensor, None]:
    """transformers' "sdpa": query [B, H, N, D], key and value [B, K, M, D] to [B, N, H, D].

    Causal where `mask` is None; H is a multiple of K (grouped queries).  `named`: `scaling`, `dropout` and so on.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, mask, **named)  # type: ignore[no-any-return]


def self_test_model(model_type: str) -> CausalLM:
    """A tiny model of the architecture in evaluation mode; its matrices are so large that attention matters.

    Raises where transformers has no such architecture, or none of these sizes.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    model: CausalLM = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **TINY)).eval()
    generator = torch.Generator().manual_seed(0)  # torch.manual_seed would also set the generators of GPUs
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.copy_(0.16 * torch.randn(parameter.shape, generator=generator))
    return model


def _test_packed_attention(model_type: str) -> None:
    import torch

    from rlhf_bench.harness.forward.packing import ATTENTION, packed_attention, packed_mask, packed_positions

    model, rows = self_test_model(model_type), [torch.tensor([2, 3, 4]), torch.tensor([5]), torch.tensor([6, 7])]
    expected = torch.cat([model(input_ids=row[None], use_cache=False).logits[0] for row in rows])
    register_attention(ATTENTION, packed_attention)  # each of three rows by itself is what packing has to equal
    model.set_attn_implementation(ATTENTION)
    if attention_name(model) != ATTENTION:
        raise ValueError("the attention implementation cannot be set")
    lengths = torch.tensor([len(row) for row in rows])
    packed = {"attention_mask": packed_mask(lengths), "position_ids": packed_positions(lengths)}
    found = model(input_ids=torch.cat(rows)[None], use_cache=False, **packed).logits[0]
    require_close(found, expected)
    # and what the model builds from an ordinary mask: the same rows, padded on the left
    ids = torch.tensor([[2, 3, 4], [2, 2, 5], [2, 6, 7]])
    mask = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
    require_close(found[mask.bool()], expected)


PACKED_ATTENTION = FastPath("packed attention", _test_packed_attention, default_case="gpt2")
"""Its cases are architectures (`config.model_type`)."""


# --- KV cache


def cache_layer_base() -> type[object]:
    """transformers' growing cache layer, the base class of ours; `object` where there is none, and `CACHE_LAYERS` is
    then not usable."""
    try:
        from transformers.cache_utils import DynamicLayer
    except Exception:  # kv_cache.py defines its classes at import: without a base, importing it would fail
        return object
    found: type[object] = DynamicLayer
    return found


def _test_cache_layers(_: str) -> None:
    """A layer of our own gets the keys and values of every pass, and what it returns is attended to."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):  # type: ignore[misc]
        keys: Tensor
        values: Tensor
        updates = 0

        def update(self, keys: Tensor, values: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
            self.updates += 1
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
            # as transformers' own layer, but the empty tensors of its initialisation are not used
            self.keys, self.values = (
                states if self.updates == 1 else torch.cat([old, states], -2)
                for old, states in ((self.keys, keys), (self.values, values))
            )
            return self.keys, self.values

    model, ids = self_test_model("gpt2"), torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])
    expected = model(input_ids=ids, use_cache=False).logits[1:, 3]
    cache = DynamicCache(config=model.config)
    if [type(layer) for layer in cache.layers] != [DynamicLayer]:
        raise ValueError("a cache of other layers")
    cache.layers = [Layer()]
    model(input_ids=ids[:, :3], past_key_values=cache, use_cache=True)
    # decoding drops rows that have ended: the second token of row 1 must be that row's own
    cache.batch_select_indices(torch.tensor([1]))
    found = model(input_ids=ids[1:, 3:], past_key_values=cache, use_cache=True).logits[:, 0]
    if cache.layers[0].updates != 2 or cache.layers[0].get_seq_length() != 4:
        raise ValueError("the cache layer was not used")
    require_close(found, expected)


CACHE_LAYERS = FastPath("cache layers", _test_cache_layers)


# --- gradient checkpointing


def enable_checkpointing(trunk: Module) -> Callable[[bool], None]:
    """Gradient checkpointing of a model's layers; returns the function that switches it on and off (it starts off).

    Switched on, a layer keeps only its input for the backward pass and drops its KV cache.
    """
    if CHECKPOINTING.usable() and (own := _checkpoint_by_transformers(trunk)):
        return own
    # without transformers' own way: torch's, wrapped around each layer
    from functools import partial

    from torch.nn import ModuleList
    from torch.utils.checkpoint import checkpoint

    active = [False]  # a list, so that `switch` changes what all layers read

    def forward(plain: Callable[..., object], *given: object, **named: Any) -> object:
        return checkpoint(plain, *given, use_reentrant=False, **named) if active[0] else plain(*given, **named)

    # in every decoder of transformers the layers are the first list of modules from the top
    layers: Iterable[Any] = next((module for module in trunk.modules() if isinstance(module, ModuleList)), ())
    for layer in layers:
        layer.gradient_checkpointing = True  # patch.last_mlp looks at it
        layer.forward = partial(forward, layer.forward)

    def switch(on: bool) -> None:
        active[0] = on

    return switch


def _checkpoint_by_transformers(trunk: Module) -> Callable[[bool], None] | None:
    """None where no layer of the model is made for it."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    # transformers is renaming the method: the new name where there is one, because the old one warns
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    turn_on: Callable[[dict[str, bool]], object] = getattr(trunk, new, None) or getattr(trunk, old)
    # not reentrant: the reentrant kind gives no gradients where no input of the first layer requires them (adapters)
    turn_on({"use_reentrant": False})
    layers = [module for module in trunk.modules() if isinstance(module, GradientCheckpointingLayer)]

    def switch(on: bool) -> None:
        for layer in layers:
            layer.training = on  # of the layer itself, not of its dropouts: the flag that checkpointing looks at

    return switch if layers else None


def _test_checkpointing(_: str) -> None:
    import torch

    # The checkpointed layer is computed twice, once again for the backward pass, and the gradients are equal.  Without
    # the count a switch that does nothing would pass.
    ids, gradients, passes = torch.tensor([[2, 3, 4]]), [], []
    for checkpointed in (False, True):
        model, calls = self_test_model("gpt2"), list[int]()
        if checkpointed and (switch := _checkpoint_by_transformers(model.base_model)):
            switch(True)
        layer = model.get_submodule("transformer.h.0.mlp")
        layer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        with torch.enable_grad():
            loss = model(input_ids=ids, use_cache=False).logits.square().mean()
            gradients.append(torch.autograd.grad(loss, model.get_input_embeddings().weight)[0])
        passes.append(len(calls))
    if passes != [1, 2]:
        raise ValueError(f"a layer was computed {passes[1]} times instead of twice")
    require_close(gradients[1], gradients[0])


CHECKPOINTING = FastPath("gradient checkpointing", _test_checkpointing)


# --- names without a self-test: nothing is computed by them


def commit_hash(model: CausalLM) -> str | None:
    """The commit (40 hex digits) of a model loaded from the hub, None where it is unknown or it came from a folder."""
    try:
        commit: str | None = getattr(model.config, "_commit_hash", None)
    except Exception:
        return None
    return commit


def is_conv1d(module: object) -> bool:
    """Whether a module is GPT-2's linear layer, which keeps its weight as [in, out]; told by the name of its class.

    So no private module of transformers is imported, and a class of that name from elsewhere does not count.
    """
    kind = type(module)
    return kind.__name__ == "Conv1D" and kind.__module__.partition(".")[0] == "transformers"
