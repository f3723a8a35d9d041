"""The task `saferlhf`: answer helpfully and safely.  A controlled world by default, real comparisons with `data`."""

from __future__ import annotations

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.real import check_data, parted, refuse_knobs
from rlhf_bench.tasks.safety_real import RealSafeRLHF
from rlhf_bench.tasks.worlds.safety import SafetyWorld


def saferlhf(
    *,
    data: str = "",
    preference: str = RealSafeRLHF.preference,
    response_tokens: int = 0,
    seed: int = SafetyWorld.seed,
    demonstrations: int = SafetyWorld.demonstrations,
    train_pairs: int = SafetyWorld.train_pairs,
    test_pairs: int = SafetyWorld.test_pairs,
    train_prompts: int = SafetyWorld.train_prompts,
    test_prompts: int = SafetyWorld.test_prompts,
    harmful_rate: float = SafetyWorld.harmful_rate,
    sft_comply: float = SafetyWorld.sft_comply,
    sft_refuse: float = SafetyWorld.sft_refuse,
    sft_benign_refuse: float = SafetyWorld.sft_benign_refuse,
    sft_drop: float = SafetyWorld.sft_drop,
    sft_wrong: float = SafetyWorld.sft_wrong,
    pair_comply: float = SafetyWorld.pair_comply,
    pair_refuse: float = SafetyWorld.pair_refuse,
    benign_refusal_pairs: float = SafetyWorld.benign_refusal_pairs,
    good_drop: float = SafetyWorld.good_drop,
    good_wrong: float = SafetyWorld.good_wrong,
    bad_drop: float = SafetyWorld.bad_drop,
    bad_wrong: float = SafetyWorld.bad_wrong,
    carelessness: float = SafetyWorld.carelessness,
    preference_noise: float = SafetyWorld.preference_noise,
) -> SafetyWorld | RealSafeRLHF:
    """The controlled world, or with `data` (a folder, a file, "hub", a hub dataset) real prompts and responses.

    `preference` ("safer" or "better") says by which of the two labels real pairs are chosen.  `response_tokens` 0 means
    the default, 40 in the world and 160 with real data.  Every other setting is the world's alone (`SafetyWorld`
    explains them) and is refused together with `data`.
    """
    knobs, tokens = parted(locals(), "data", "preference")
    if data:
        refuse_knobs(data, knobs, SafetyWorld)
        check_data(data)
        return RealSafeRLHF(data, preference, **tokens)
    if preference != RealSafeRLHF.preference:
        seen = f"preference = {preference!r} in the controlled world."
        raise BenchError(seen, "Its pairs are preferred by utility: leave preference out, or give data.")
    return SafetyWorld(**knobs, **tokens)
