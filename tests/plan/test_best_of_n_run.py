"""White-box rewards and best-of-n through `bench run`: both optimisers side by side, n = 1, keys, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small import bench, command, settings

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.cells import Cell
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.presets import parse_assignments

pytestmark = pytest.mark.training
BOTH = ("--optimizer", "best-of-n", "--optimizer", "ppo", "--n", "1,2,4")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run of a white-box reward model and a control under both optimisers."""
    out = tmp_path_factory.mktemp("run") / "runs"
    finished = bench(*command(out, *BOTH, rms=("whitebox", "length-only")))
    assert finished.returncode == 0, finished.stderr
    return out


def rows(out: Path, pattern: str, name: str) -> list[dict[str, Any]]:
    """The rows of one stage's file."""
    (folder,) = out.glob(pattern)
    return store.read_rows(folder / name)


def test_both_optimisers_stand_side_by_side(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    labels = {arm["label"]: arm["optimizer"] for arm in report["arms"]}
    assert labels == {
        "whitebox": "ppo",
        "whitebox (best-of-n)": "best-of-n",
        "length-only": "ppo",
        "length-only (best-of-n)": "best-of-n",
    }
    judges = {(e["arm"], e["judge"]) for e in report["estimates"]}
    assert len(judges) == 4 * 7  # the same judges, fluency, and what run and proxy say of themselves
    assert len(list((done / "pool").iterdir())) == 1  # one pool for all reward models


def test_one_sample_is_the_baseline_to_every_judge(done: Path) -> None:
    report = json.loads((done / "report" / "report.json").read_text())
    arms = {arm["arm"] for arm in report["arms"] if arm["optimizer"] == "best-of-n"}
    first = [e for e in report["estimates"] if e["arm"] in arms and e["iteration"] == 1 and e["slice"] == "all"]
    values = {(e["judge"], e["statistic"]): e["value"] for e in first}
    assert values["winrate", "win_rate"] == 0.5
    assert values["utility", "gold_change"] == values["length", "length_change"] == values["run", "kl"] == 0
    assert values["fluency", "log_perplexity_sft_change"] == values["fluency", "repetition_change"] == 0
    before = store.read_rows(next((done / "baseline").iterdir()) / "generations.jsonl")
    texts = {row["example_id"]: row.get("response", "") for row in before if row["decoding"] == "sample"}
    for folder in (done / "best_of_n").iterdir():
        found = [r for r in store.read_rows(folder / "generations.jsonl") if r["iteration"] == 1]
        assert {row["example_id"]: row.get("response", "") for row in found} == texts


def test_what_rewards_are_made_of_is_stored_before_and_after(done: Path) -> None:
    found = rows(done, "proxy/dialogsum-whitebox-*", "proxy.jsonl")
    assert {row["iteration"] for row in found} == {0, 6}
    assert all(("reward" in row) == (row["iteration"] == 0) for row in found)
    assert all({"li", "rp", "closed", "rar_closed"} <= set(row["figures"]) for row in found)
    plain = rows(done, "proxy/dialogsum-length-only-*", "proxy.jsonl")
    assert {row["iteration"] for row in plain} == {0}  # it has nothing to say of the other end
    pool = rows(done, "best_of_n/dialogsum-whitebox-*", "pool.jsonl")
    first = {row["example_id"]: row["rewards"][0] for row in pool}
    before = {row["example_id"]: row["reward"] for row in found if row["iteration"] == 0}
    assert before == first  # the pool's first sample is the baseline, and this reward model reads texts alone


def test_score_knows_the_references(done: Path) -> None:
    example = store.read_rows(next((done / "prompts").iterdir()) / "examples.test.jsonl")[0]
    prompt = ("score", "--rm", "whitebox-rar", "--runs", str(done), "--prompt", example["prompt"])
    scored = bench(*prompt, "--response", example["completion"])
    assert scored.returncode == 0, scored.stderr
    assert "sum +1\t" in scored.stdout  # the cosine of a text with itself
    unknown = bench("score", "--rm", "whitebox-rar", "--runs", str(done), "--prompt", "Who?", "--response", "x")
    assert unknown.returncode == 2
    assert "RAR has no reference answer" in unknown.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--optimizer", "best-of-n", "--n", "0,2"), "Best of n = 0 samples"),
        (("--optimizer", "best-of-n", "--n", "2,8", "--set", "best_of_n.pool=4"), "from a pool of 4 samples"),
        (("--optimizer", "best-of-n", "--n", "two"), "is no list of whole numbers"),
        (("--optimizer", "best-of-n", "--n", ""), "--n is empty"),
        (("--optimizer", "best-of", "--n", "2"), "Did you mean 'best-of-n'"),
        (("--n", "2"), "Add --optimizer best-of-n"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    ended = bench(*command(tmp_path / "runs", *more, rms=("length-only",)))
    assert ended.returncode == 2
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


# ---- plans ----------------------------------------------------------------------------------------------------------


def planned(rm: str, optimizers: tuple[str, ...] = ("ppo",), prompts: tuple[str, ...] = (), **sets: Any) -> list[Cell]:
    given = parse_assignments(tuple(settings((rm,), world=False, **sets)[1::2]))
    request = Request("tldr", (rm,), (0,), "tiny", (), given, prompts=prompts, optimizers=optimizers)
    return list(make_plan(request).cells)


def test_training_prompts_are_an_input_for_those_who_read_them_alone() -> None:
    for rm, reads in (("whitebox", True), ("length-only", False)):
        for cell in planned(rm, ("ppo", "best-of-n"), ("tldr", "xsum")):
            away = cell.task != "tldr"
            stage = cell.stages["generations"]
            assert ("train_prompts" in stage.inputs) == (reads and away)
            if away:
                assert stage.inputs["prompts"].label.startswith("xsum")


def test_best_of_n_neither_trains_nor_waits() -> None:
    (cell,) = planned("length-only", ("best-of-n",))
    assert set(cell.stages) == {"sft", "prompts", "pairs", "baseline", "scale", "pool", "generations"}
    assert "ppo" not in {stage.kind for stage in cell.stages.values()}
    others = planned("copier", ("best-of-n",)), planned("length-only", ("best-of-n",), **{"best_of_n.n": "1,64"})
    assert {c.stages["pool"].key for (c,) in others} == {cell.stages["pool"].key}
    assert others[1][0].key != cell.key


def test_an_embedding_folder_enters_keys_by_its_content(tmp_path: Path) -> None:
    def key() -> str:
        (cell,) = planned("whitebox-qr", **{"whitebox-qr.embedding": tmp_path})
        return cell.key

    (tmp_path / "config.json").write_text("{}")
    before = key()
    assert key() == before
    (tmp_path / "config.json").write_text("{ }")
    assert key() != before


def test_a_reward_model_that_cannot_say_what_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlhf_bench.reward_models.whitebox import Whitebox

    def broken(self: Whitebox) -> dict[str, str]:  # noqa: ARG001
        raise OSError("no such disk")

    monkeypatch.setattr(Whitebox, "content", property(broken))
    with pytest.raises(BenchError, match="cannot say what it reads: OSError: no such disk"):
        planned("whitebox")
