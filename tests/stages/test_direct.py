"""DPO and SFT on chosen responses: on our own tokens, from the SFT policy, stored and resumed like every stage."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SENTENCES, Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.sampling.rollout import logprobs, text_rollout
from rlhf_bench.harness.stages.direct import chosen_rows, direct, preference_rows
from rlhf_bench.harness.stages.pairs import pair_row
from rlhf_bench.harness.text.templates import encode, encode_prompts

pytestmark = pytest.mark.training
PAIRS = [Pair(str(i), f"Who, {i}?", text, SENTENCES[i - 1][:30]) for i, text in enumerate(SENTENCES)]
SETTINGS = {"epochs": 12, "batch": 4, "lr": 1e-3, "warmup": 0.0, "save_every": 3, "beta": 0.1}


def context(method: str, sft: Path, root: Path, **more: Any) -> Context:
    for name in ("work", "scratch", "pairs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    store.write_rows(root / "pairs" / "pairs.train.jsonl", map(pair_row, PAIRS))
    params = {"method": method, "settings": {**SETTINGS, **more}, "seed": 0}
    return Context(params, {"sft": sft, "pairs": root / "pairs"}, root / "work", root / "scratch", "cpu")


def margin(folder: Path, tokenizer: Any) -> float:
    """Mean of log p(chosen) - log p(rejected) over the pairs, by our own arithmetic."""
    from rlhf_bench.harness.models.policies import load_policy

    model, _ = load_policy(folder, "cpu")
    sums = []
    with torch.no_grad():
        for texts in ([p.chosen for p in PAIRS], [p.rejected or "" for p in PAIRS]):
            rollout = text_rollout(tokenizer, [p.prompt for p in PAIRS], texts, "cpu")
            sums.append(logprobs(model, rollout).sum(1))
    return float((sums[0] - sums[1]).mean())


def test_rows_are_what_every_other_stage_reads(tokenizer: Any) -> None:
    row, end = preference_rows(tokenizer, PAIRS)[1], tokenizer.eos_token_id
    assert row["prompt_ids"] == encode_prompts(tokenizer, [PAIRS[1].prompt])[0]
    assert row["chosen_ids"] == [*encode(tokenizer, [PAIRS[1].chosen])[0], end]
    assert row["rejected_ids"] == [*encode(tokenizer, [PAIRS[1].rejected or ""])[0], end]
    assert chosen_rows(tokenizer, PAIRS)[1]["input_ids"] == row["prompt_ids"] + row["chosen_ids"]


def test_dpo_starts_at_log_two_and_widens_the_margin_of_our_own_tokens(tiny: Tiny, tmp_path: Path) -> None:
    first = direct(context("dpo", tiny.folder, tmp_path / "one", epochs=1, lr=1e-9))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)  # policy and reference are one
    assert first["steps"] == 1
    trained = direct(context("dpo", tiny.folder, tmp_path / "many"))
    assert trained["loss"] < math.log(2)
    assert margin(tmp_path / "many" / "work" / "policy", tiny.tokenizer) > margin(tiny.folder, tiny.tokenizer)


def test_sft_on_chosen_makes_them_likelier(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    short = direct(context("sft-chosen", tiny_gpt2.folder, tmp_path / "one", epochs=1))
    assert direct(context("sft-chosen", tiny_gpt2.folder, tmp_path / "many"))["loss"] < short["loss"]


@pytest.mark.parametrize("method", ["dpo", "sft-chosen"])
def test_a_run_that_was_killed_ends_with_the_same_weights(method: str, tiny_gpt2: Tiny, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _total: int) -> None:
        if done == 5:
            raise KilledError

    whole = context(method, tiny_gpt2.folder, tmp_path / "whole")
    direct(whole)
    broken = context(method, tiny_gpt2.folder, tmp_path / "broken")
    with pytest.raises(KilledError):
        direct(replace(broken, progress=kill))
    direct(broken)
    stored = [(c.work / "policy" / "model.safetensors").read_bytes() for c in (whole, broken)]
    assert stored[0] == stored[1]


@pytest.mark.parametrize("method", ["dpo", "sft-chosen"])
def test_adapters_are_trained_where_sft_trained_adapters(method: str, tiny_llama: Tiny, tmp_path: Path) -> None:
    import shutil

    pytest.importorskip("peft")
    sft = Path(shutil.copytree(tiny_llama.folder, tmp_path / "sft"))
    save_placement(Placement(lora=2), sft)
    figures = direct(context(method, sft, tmp_path / "run"))
    assert math.isfinite(figures["loss"])
    before, after = (margin(folder, tiny_llama.tokenizer) for folder in (sft, tmp_path / "run" / "work" / "policy"))
    assert before != after


def test_arms_of_a_seed_share_one_training() -> None:
    request = Request("dialogsum", ("scalar", "length-only"), (0,), "tiny", ("length",), {}, optimizers=("dpo", "ppo"))
    cells = make_plan(request).cells
    trained = {cell.stages["direct"].key for cell in cells if cell.optimizer == "dpo"}
    assert len(trained) == 1
    assert len({cell.key for cell in cells}) == len(cells) == 4


def test_it_learns_from_pairs_and_not_from_other_prompts() -> None:
    request = Request("dialogsum", ("scalar",), (0,), "tiny", (), {}, train_prompts="xsum", optimizers=("dpo",))
    with pytest.raises(BenchError, match="Leave --train-prompts out"):
        make_plan(request)


def test_its_settings_are_checked() -> None:
    for assignments, said in (({"dpo": {"beta": "0"}}, "dpo.beta is 0"), ({"dpo": {"betta": "1"}}, "betta")):
        request = Request("dialogsum", ("scalar",), (0,), "tiny", (), assignments, optimizers=("dpo",))
        with pytest.raises(BenchError, match=said):
            make_plan(request)
    with pytest.raises(BenchError, match="Did you mean 'sft-chosen'"):
        make_plan(Request("dialogsum", ("scalar",), (0,), "tiny", (), {}, optimizers=("sft-chosn",)))
