"""The states of the fast paths that use private names of torch, transformers and TRL, for `bench doctor`."""

from __future__ import annotations


def fast_path_states() -> dict[str, str]:
    """By the fast path's name: "on", or "off: " and why.  Runs the self-tests that have not run in this process.

    Without a fast path the same numbers are computed, more slowly.  The self-tests import torch, transformers and trl.
    """
    from rlhf_bench.harness.forward.torch_private import PACKED_LINEAR
    from rlhf_bench.harness.forward.transformers_private import CACHE_LAYERS, CHECKPOINTING, PACKED_ATTENTION
    from rlhf_bench.harness.training.trl_private import LABELLED_ONLY

    paths = (PACKED_LINEAR, PACKED_ATTENTION, CACHE_LAYERS, CHECKPOINTING, LABELLED_ONLY)
    return {path.name: path.state() for path in paths}


def fast_path_line() -> str:
    """All states in one line: "all N on", or every fast path that is off, with its reason."""
    states = fast_path_states()
    off = [f"{name} {state}" for name, state in states.items() if state != "on"]
    return "; ".join(off) or f"all {len(states)} on"
