"""The amount of arithmetic of PPO: an estimate from parameters and tokens, not a measurement.

Kaplan et al. (arXiv 2001.08361, section 2.1): 2 N operations for each token forward and 4 N backward, N being the
parameters without embeddings.  Attention over the context, the embeddings with a head that is tied to them, and the
reward model are left out, as in transformers' own count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM


def parameters_of(model: CausalLM) -> int:
    """Parameters of a transformers model without its embeddings: N of the module's formula.

    A head that is tied to the embeddings is left out with them; one of its own is counted.
    """
    return int(model.num_parameters(exclude_embeddings=True))


def ppo_flop(tokens: float, policy: int, critic: int, epochs: int) -> float:
    """Operations of PPO over `tokens` tokens of prompts and responses; `policy` and `critic` are parameters.

    The policy reads every token as it samples, the reference (of the policy's size) and the critic read it once, and in
    each epoch policy and critic read it forward and backward.
    """
    # 2: a forward pass; 6: forward and backward
    return tokens * (2 * (policy + policy + critic) + epochs * 6 * (policy + critic))
