"""Best-of-n as a stage: against the SFT policy, what its pool holds, and that it goes on after an interruption."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from best_of_n_by_hand import over_subsets, refused
from tiny import Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Case, Example, Generation, Pair, Split, Utility, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.results.proxy_curves import read_pool
from rlhf_bench.harness.stages import best_of_n as stages_best_of_n
from rlhf_bench.harness.stages import policy
from rlhf_bench.harness.stages import pool as stages_pool
from rlhf_bench.harness.stages.evaluation import read_generations
from rlhf_bench.harness.statistics import best_of_n
from rlhf_bench.harness.statistics.best_of_n import (
    check_ns,
    expected,
    kl_bound,
)
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate

EXAMPLES = [Example(f"e{i}", f"Say {word}.", "yes", facts={"letter": word[0]}) for i, word in enumerate("abcdexyz")]


class Letters:
    """Gold: how often the response has the example's letter, less a bit per character."""

    max_response_tokens = 12

    def examples(self, split: Split) -> list[Example]:  # noqa: ARG002
        return EXAMPLES

    def pairs(self, split: Split) -> list[Pair]:  # noqa: ARG002
        return []

    def utility(self, example: Example, response: str) -> Utility:
        return Utility(response.count(example.facts["letter"]) - len(response) / 100)


class NoGold:
    max_response_tokens = 12
    examples = Letters.examples
    pairs = Letters.pairs


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    for split in ("train", "test"):
        store.write_rows(folder / f"examples.{split}.jsonl", map(to_row, EXAMPLES))
    return folder


def context(tmp_path: Path, tiny: Tiny, prompts: Path, rm: str = "controls:LengthOnly", **more: Any) -> Context:
    best = {"n": more.pop("n", [1, 2, 4]), "pool": 4}
    params: dict[str, Any] = {
        "rm": {"name": f"rlhf_bench.reward_models.{rm}", "settings": more.pop("settings", {})},
        "task": {"name": f"test_best_of_n:{more.pop('task', 'Letters')}", "settings": {}},
        "seed": 3,
        "max_response": 12,
        "temperature": 1.0,
        "eval": {"prompts": 0, "batch": 3, "greedy": False},
        "best_of_n": best,
        "pool": {"samples": 4, "independent": more.pop("independent", False)},
    }
    assert not more
    work, scratch = tmp_path / "work", tmp_path / "scratch"
    for folder in (work, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    return Context(params, {"sft": tiny.folder, "prompts": prompts}, work, scratch, "cpu")


def drawn(made: Context) -> Context:
    """The context of best-of-n over a pool that was drawn for it, in a folder of its own."""
    folders = [made.work.parent / "pool" / name for name in ("work", "scratch")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    stages_pool.pool(replace(made, work=folders[0], scratch=folders[1]))
    return replace(made, inputs={**made.inputs, "pool": folders[0]})


def run(tmp_path: Path, tiny: Tiny, prompts: Path, **more: Any) -> tuple[list[Generation], list[dict[str, Any]]]:
    """What was generated, and the pool with the samples' texts."""
    made = drawn(context(tmp_path, tiny, prompts, **more))
    stages_best_of_n.best_of_n(made)
    pool = store.read_rows(made.work / "pool.jsonl")
    draws = [store.read_rows(stages_pool.draw_file(made.inputs["pool"], number)) for number in range(4)]
    for at, row in enumerate(pool):
        row["response"] = [draw[at]["response"] for draw in draws]
    return read_generations(made.work / "generations.jsonl"), pool


def test_best_of_one_is_the_baseline_to_every_judge(tmp_path: Path, tiny: Tiny, prompts: Path) -> None:
    generations, _ = run(tmp_path / "best", tiny, prompts)
    made = context(tmp_path / "baseline", tiny, prompts)
    policy.baseline(made)
    baseline = read_generations(made.work / "generations.jsonl")
    first = [g for g in generations if g.iteration == 1]
    assert [g.example_id for g in first] == [e.id for e in EXAMPLES]
    for one, other in zip(first, baseline, strict=True):
        assert (one.response, one.tokens, one.finished, one.kl) == (other.response, other.tokens, other.finished, 0)
    cases = [Case(e, g, b) for e, g, b in zip(EXAMPLES, first, baseline, strict=True)]
    itself = [Case(e, b, b) for e, b in zip(EXAMPLES, baseline, strict=True)]
    for judge in (WinRate(), UtilityChange(), Length()):
        assert list(judge.measure(cases, Letters())) == list(judge.measure(itself, Letters()))


def test_an_independent_pool_has_another_first_sample(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    shared, _ = run(tmp_path / "shared", tiny_gpt2, prompts)
    alone, pool = run(tmp_path / "alone", tiny_gpt2, prompts, independent=True)
    texts = [[g.response for g in found if g.iteration == 1] for found in (shared, alone)]
    assert texts[0] != texts[1]
    assert all(len(set(row["response"])) > 1 for row in pool)  # the draws of one prompt differ


def test_the_pool_holds_what_was_picked(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    generations, pool = run(tmp_path, tiny_gpt2, prompts)
    assert [(g.iteration, g.example_id) for g in generations] == [(n, e.id) for n in (1, 2, 4) for e in EXAMPLES]
    by_prompt = {row["example_id"]: row for row in pool}
    task = Letters()
    for row, example in zip(pool, EXAMPLES, strict=True):
        assert row["example_id"] == example.id
        assert {len(row[name]) for name in ("response", "tokens", "finished", "rewards", "gold")} == {4}
        assert row["gold"] == [task.utility(example, text).value for text in row["response"]]
        assert row["rewards"] == row["tokens"] == row["figures"]["sum"]  # of the reward model length-only
    for one in generations:
        row = by_prompt[one.example_id]
        assert one.reward == max(row["rewards"][: one.iteration])
        assert one.response == row["response"][row["rewards"].index(one.reward)]
        assert one.kl == kl_bound(one.iteration)
        assert one.decoding == "sample"


@pytest.mark.parametrize("stage", ["pool", "best_of_n"])
def test_it_goes_on_where_it_was_interrupted(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path, stage: str) -> None:
    def made(name: str) -> Context:
        one = context(tmp_path / name, tiny_gpt2, prompts)
        return one if stage == "pool" else drawn(one)

    function = stages_pool.pool if stage == "pool" else stages_best_of_n.best_of_n
    whole, cut = made("whole"), made("cut")
    function(whole)
    for number in (0, 2):
        shutil.copy(stages_pool.draw_file(whole.scratch, number), cut.scratch)
    told: list[tuple[int, int]] = []
    function(replace(cut, progress=lambda done, total: told.append((done, total))))
    assert told == [(2, 4), (4, 4)]  # the second and the fourth
    found = {path.name: path.read_bytes() for path in cut.work.iterdir()}
    assert found == {path.name: path.read_bytes() for path in whole.work.iterdir()}
    assert set(found) == (
        {f"draw.{i}.jsonl" for i in range(4)} if stage == "pool" else {"pool.jsonl", "generations.jsonl"}
    )


def test_stored_samples_are_scored_as_they_were_drawn(tmp_path: Path, tiny: Tiny, prompts: Path) -> None:
    from rlhf_bench.harness.sampling.rollout import make_generator, sample

    made = drawn(context(tmp_path, tiny, prompts))
    rows = store.read_rows(stages_pool.draw_file(made.inputs["pool"], 1))[:3]
    texts = [example.prompt for example in EXAMPLES[:3]]
    generator = make_generator("best-of-n", 3, 1, 0)
    fresh = sample(tiny.model, tiny.tokenizer, texts, 12, generator=generator)
    again = stages_pool.stored_rollout(tiny.tokenizer, texts, rows, "cpu")
    assert again.responses == fresh.responses
    for name in ("prompt_ids", "prompt_mask", "response_ids", "mask", "finished"):
        assert getattr(again, name).tolist() == getattr(fresh, name).tolist()


def test_without_gold_none_is_made_up(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    _, pool = run(tmp_path, tiny_gpt2, prompts, task="NoGold")
    assert all("gold" not in row and len(row["rewards"]) == 4 for row in pool)
    assert read_pool(tmp_path / "work").gold is None


class Lost(Letters):
    """Gold that cannot say what an x is worth."""

    def utility(self, example: Example, response: str) -> Utility:
        return Utility(math.nan) if example.facts["letter"] == "x" else super().utility(example, response)


def test_a_stored_pool_gives_the_estimates(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    _, rows = run(tmp_path, tiny_gpt2, prompts, task="Lost")
    pool = read_pool(tmp_path / "work")
    assert pool.examples == tuple(e.id for e in EXAMPLES)
    assert pool.gold is not None
    found = expected(pool.rewards, pool.gold, 2)
    for row, value in zip(rows, found, strict=True):
        if row["example_id"] == "e5":  # undecided, and said so
            assert row["gold"] == [None] * 4
            assert math.isnan(value)
        else:
            assert value == pytest.approx(over_subsets(row["rewards"], row["gold"], 2))


def test_a_reward_model_that_reads_examples_is_shown_them(tmp_path: Path, tiny_gpt2: Tiny, prompts: Path) -> None:
    from rlhf_bench.reward_models.whitebox import Whitebox

    settings = {"formula": "rar", "types": "closed"}
    _, pool = run(tmp_path, tiny_gpt2, prompts, rm="whitebox:Whitebox", settings=settings)
    scorer = Whitebox(**settings).with_examples({"train": EXAMPLES, "test": EXAMPLES})
    for row, example in zip(pool, EXAMPLES, strict=True):
        again = scorer.scores([example.prompt] * 4, row["response"])
        assert row["rewards"] == pytest.approx(again.tolist(), abs=1e-6)
        assert row["figures"]["rar"] == pytest.approx(again.tolist(), abs=1e-6)


@pytest.mark.parametrize(("ns", "message"), [([0, 1], "Best of n = 0"), ([1, 5], "from a pool of 4")])
def test_impossible_ns_before_anything_is_drawn(
    tmp_path: Path, tiny_gpt2: Tiny, prompts: Path, ns: list[int], message: str
) -> None:
    made = context(tmp_path, tiny_gpt2, prompts, n=ns)
    refused(lambda: stages_best_of_n.best_of_n(made), message)
    assert not list(made.scratch.iterdir())


def test_the_default_ns_fit_their_own_pool() -> None:
    assert check_ns(best_of_n.DEFAULT_NS, max(best_of_n.DEFAULT_NS)) == best_of_n.DEFAULT_NS
