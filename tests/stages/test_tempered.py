"""The SFT policy at lower temperatures: its laws on tiny models, its plan and keys, an interrupted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import SIZES
from tiny import SENTENCES, Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.plan.arms import CONTROLS, OPTIMIZERS
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages.evaluation import Evaluation, baseline_generations
from rlhf_bench.harness.stages.tempered import tempered, tempered_generations
from rlhf_bench.harness.statistics.entropy_matched import CONTROL

EXAMPLES = [Example(f"e{k}", SENTENCES[k % len(SENTENCES)] + str(k)) for k in range(96)]
SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)


def evaluation(temperature: float = 1.0, seed: int = 0, examples: Any = EXAMPLES) -> Evaluation:
    return Evaluation(examples, 8, EvalSettings(batch=48), temperature, seed)


@pytest.fixture(scope="module")
def sampled(tiny_gpt2: Tiny) -> dict[float, Any]:
    """The responses at every temperature."""
    given = tiny_gpt2.model, tiny_gpt2.tokenizer, evaluation()
    return {share: tempered_generations(*given, share, at) for at, share in enumerate(SHARES, 1)}


def entropy(rows: Any) -> float:
    return float(-sum(row.logprob for row in rows) / sum(row.drawn for row in rows))


# ---- laws -----------------------------------------------------------------------------------------------------------


def test_kl_grows_and_entropy_falls_with_the_temperature(sampled: dict[float, Any]) -> None:
    kls = [float(np.mean([row.kl for row in sampled[share]])) for share in SHARES]
    assert kls[0] == 0
    assert kls == sorted(kls)
    assert kls[-1] > 1
    found = [entropy(sampled[share]) for share in SHARES]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("share", [0.6, 0.2])
def test_kl_and_entropy_are_of_the_sampled_tokens(tiny_gpt2: Tiny, sampled: dict[float, Any], share: float) -> None:
    """Against a pass over the same tokens at both temperatures."""
    model, generator = tiny_gpt2.model, make_generator(CONTROL, 0, 0)
    prompts = [example.prompt for example in EXAMPLES[:48]]
    rollout = sample(model, tiny_gpt2.tokenizer, prompts, 8, generator=generator, temperature=share)
    rows = sampled[share][:48]
    assert [row.response for row in rows] == list(rollout.responses)
    cold, warm = (logprobs(model, rollout, t).sum(1).tolist() for t in (share, 1.0))
    assert [row.logprob for row in rows] == pytest.approx(cold, abs=1e-3)
    assert [row.kl for row in rows] == pytest.approx([c - w for c, w in zip(cold, warm, strict=True)], abs=1e-3)


def test_near_the_full_temperature_kl_is_near_0(tiny_gpt2: Tiny, sampled: dict[float, Any]) -> None:
    near = tempered_generations(tiny_gpt2.model, tiny_gpt2.tokenizer, evaluation(), 0.9999, 1)
    assert [abs(row.kl or 0.0) < 0.05 for row in near] == [True] * len(near)
    assert any(row.kl for row in near)
    same = [a.response == b.response for a, b in zip(near, sampled[1.0], strict=True)]
    assert np.mean(same) > 0.9  # the same random numbers at every temperature


def test_the_full_temperature_is_the_baselines_distribution(tiny_gpt2: Tiny) -> None:
    """Not its very samples, against which a win rate would be of equal responses."""
    means = []
    for seed in range(8):
        here = evaluation(seed=seed)
        before = baseline_generations(
            tiny_gpt2.model, tiny_gpt2.tokenizer, replace(here, settings=EvalSettings(greedy=False))
        )
        after = tempered_generations(tiny_gpt2.model, tiny_gpt2.tokenizer, here, 1.0, 1)
        assert [row.response for row in before] != [row.response for row in after]
        means.append(
            [entropy(rows) for rows in (before, after)] + [np.mean([r.tokens for r in x]) for x in (before, after)]
        )
    found = np.array(means)
    for one, other in ((0, 1), (2, 3)):
        gap = found[:, one] - found[:, other]
        assert abs(gap.mean()) < 4 * gap.std(ddof=1) / np.sqrt(len(gap)) + 1e-9


def test_a_part_of_another_temperature(tiny_gpt2: Tiny) -> None:
    """`ppo.temperature` is the SFT policy's own: the parts are of it, and KL is to the policy at it."""
    given = tiny_gpt2.model, tiny_gpt2.tokenizer
    half, whole = (
        tempered_generations(*given, evaluation(2.0), 0.25, 1),
        tempered_generations(*given, evaluation(), 0.5, 1),
    )
    assert [row.response for row in half] == [row.response for row in whole]
    assert np.mean([row.kl for row in half]) > np.mean([row.kl for row in whole])


# ---- the stage ------------------------------------------------------------------------------------------------------


def context(sft: Path, root: Path) -> Context:
    for name in ("work", "scratch", "prompts"):
        (root / name).mkdir(parents=True, exist_ok=True)
    store.write_rows(root / "prompts" / "examples.test.jsonl", map(to_row, EXAMPLES[:6]))
    params = {
        "seed": 3, "max_response": 6, "temperature": 1.0, "temperatures": [1.0, 0.5, 0.1],
        "eval": {"prompts": 0, "batch": 4, "greedy": True, "corrections": 0},
    }  # fmt: skip
    return Context(params, {"sft": sft, "prompts": root / "prompts"}, root / "work", root / "scratch", "cpu")


def test_a_killed_run_samples_no_temperature_twice(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def kill(done: int, _total: int) -> None:
        if done == 2:
            raise KilledError

    whole, broken = context(tiny_gpt2.folder, tmp_path / "whole"), context(tiny_gpt2.folder, tmp_path / "broken")
    assert tempered(whole) == {"generations": 18}
    with pytest.raises(KilledError):
        tempered(replace(broken, progress=kill))
    counted: list[int] = []
    tempered(replace(broken, progress=lambda done, _total: counted.append(done)))
    assert counted == [3]
    stored = [(one.work / "generations.jsonl").read_bytes() for one in (whole, broken)]
    assert stored[0] == stored[1]
    rows = store.read_rows(whole.work / "generations.jsonl")
    assert {(row["iteration"], row["decoding"]) for row in rows} == {(1, "sample"), (2, "sample"), (3, "sample")}
    assert all({"kl", "logprob", "drawn"} <= row.keys() and "reward" not in row for row in rows)


# ---- plans ----------------------------------------------------------------------------------------------------------


def planned(
    *rms: str, optimizers: tuple[str, ...] = (CONTROL,), prompts: tuple[str, ...] = (), seeds: Any = (0,), **sets: str
) -> Any:
    sizes = {name.removeprefix("dialogsum."): str(n) for name, n in SIZES.items() if name.startswith("dialogsum.")}
    given = {task: dict(sizes) for task in ("dialogsum", *prompts)}
    for name, value in sets.items():
        group, _, key = name.partition("__")
        given.setdefault(group, {})[key] = value
    return make_plan(
        Request("dialogsum", rms, seeds, "tiny", ("length",), given, prompts=prompts, optimizers=optimizers)
    )


def test_one_arm_serves_all_reward_models() -> None:
    made = planned("length-only", "copier", optimizers=("ppo", CONTROL), seeds=(0, 1))
    assert [(c.reward_model, c.optimizer, c.seed) for c in made.cells] == [
        (rm, optimizer, seed)
        for seed in (0, 1)
        for rm, optimizer in (("length-only", "ppo"), (CONTROL, CONTROL), ("copier", "ppo"))
    ]
    (alone,) = planned().cells
    assert alone.key == planned("copier").cells[0].key == made.cells[1].key
    assert set(alone.stages) == {"sft", "prompts", "pairs", "baseline", "generations"}
    assert alone.record()["reward_model"] == CONTROL
    assert len(planned(prompts=("dialogsum", "xsum")).cells) == 2


def test_what_its_key_depends_on() -> None:
    def key(**sets: str) -> str:
        return str(planned(**sets).cells[0].key)

    before = key()
    for nothing in ({"ppo__kl": "0.2"}, {"ppo__iterations": "9"}, {"best_of_n__n": "1,2"},
                    {"sft_tempered__temperatures": "0.2,0.4,0.60,0.8,1"}):  # fmt: skip
        assert key(**nothing) == before
    for something in ({"ppo__temperature": "0.9"}, {"eval__prompts": "9"}, {"sft__steps": "9"},
                      {"sft_tempered__temperatures": "1,0.5"}):  # fmt: skip
        assert key(**something) != before


def test_what_cannot_be_is_said_before_anything_is_made() -> None:
    with pytest.raises(BenchError, match=r"sft_tempered\.temperatures is '1', a single one"):
        planned(sft_tempered__temperatures="1")
    with pytest.raises(BenchError, match=r"Unknown setting sft_tempered\.temperature\.? .*temperatures"):
        planned(sft_tempered__temperature="1,2")
    with pytest.raises(BenchError, match=r"No reward model was given\. Add --rm NAME; only sft-tempered does without"):
        planned(optimizers=("ppo", CONTROL))
    with pytest.raises(BenchError, match="Did you mean 'sft-tempered'"):
        planned("copier", optimizers=("sft-temper",))
    assert not set(OPTIMIZERS) & set(CONTROLS)
