"""How much arithmetic training took: an estimate from parameters and tokens, never a measurement.

Kaplan et al. (2001.08361, section 2.1): 2 N operations a token forward and 4 N backward, N the parameters without
embeddings.  Attention over the context, the output head and the reward model are left out; so transformers counts too.
"""

from __future__ import annotations

from typing import Any


def parameters_of(model: Any) -> int:
    """Parameters of a transformers model without its embeddings."""
    return int(model.num_parameters(exclude_embeddings=True))


def ppo_flop(tokens: float, policy: int, critic: int, epochs: int) -> float:
    """Operations of PPO over `tokens` tokens of prompts and responses.

    Each is read by the policy as it samples, by the reference and by the critic, then in each epoch, forward and
    backward, by policy and critic.  `policy`, `critic`: parameters.
    """
    return tokens * (2 * (policy + policy + critic) + epochs * 6 * (policy + critic))
