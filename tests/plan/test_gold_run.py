"""A gold model through `bench run`: halves, seeds, labels, curves of every optimiser, resuming, and bad input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small import command, settings

from rlhf_bench.harness import store
from rlhf_bench.harness.cli.main import bench as commands
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.cells import Cell
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.presets import parse_assignments
from rlhf_bench.harness.results import proxy_curves
from rlhf_bench.harness.results.arms import arms_of
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.proxy_curves import curves_of, read_pool
from rlhf_bench.harness.statistics.best_of_n import expected

pytestmark = pytest.mark.training


def ran(*arguments: str) -> None:
    """`bench` in this process: one import of torch serves all runs of this file."""
    with pytest.raises(SystemExit) as ended:
        commands(list(arguments), standalone_mode=False)
    assert ended.value.code == 0


GOLD = ("--gold", "scalar@half", "--relabel")
BOTH = ("--optimizer", "best-of-n", "--optimizer", "ppo", "--n", "1,2,4")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished small run with a trained proxy and the arm of the gold model itself, under both optimisers."""
    out = tmp_path_factory.mktemp("gold") / "runs"
    ran(*command(out, *GOLD, *BOTH, rms=("scalar", "gold")))
    return out


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return store.read_rows(folder / name)


def only(out: Path, pattern: str) -> Path:
    (found,) = out.glob(pattern)
    return found


def report_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report" / "report.json").read_text())
    return found


# ---- what is trained on what ----------------------------------------------------------------------------------------


def test_proxies_learn_from_the_half_that_gold_does_not(done: Path) -> None:
    everything = rows(only(done, "pairs/*"), "pairs.train.jsonl")
    gold = rows(only(done, "half/*-gold-*"), "pairs.train.jsonl")
    proxies = rows(only(done, "half/*-proxies-*"), "pairs.train.jsonl")
    assert sorted(row["id"] for row in (*gold, *proxies)) == sorted(row["id"] for row in everything)
    assert {row["prompt"] for row in gold}.isdisjoint(row["prompt"] for row in proxies)
    used = store.read_json(only(done, "reward/*") / store.MARKER)["inputs"]["pairs"]
    assert used == only(done, "relabelled/*").name
    assert store.read_json(only(done, "gold/*") / store.MARKER)["inputs"]["pairs"] == only(done, "half/*-gold-*").name


def test_gold_and_proxy_share_no_seed(done: Path) -> None:
    seeds = {
        kind: store.read_json(only(done, f"{kind}/*") / store.MARKER)["params"]["seed"] for kind in ("gold", "reward")
    }
    assert seeds["gold"] != seeds["reward"]
    records = [store.read_json(only(done, f"{kind}/*") / "reward_model.json")["trained"] for kind in ("gold", "reward")]
    assert set(records[0]["pairs"]["sample"]).isdisjoint(records[1]["pairs"]["sample"])


def test_labels_are_gold_s(done: Path) -> None:
    folder = only(done, "relabelled/*")
    before = {row["id"]: row for row in rows(only(done, "half/*-proxies-*"), "pairs.train.jsonl")}
    labels = {row["id"]: row for row in rows(folder, "labels.jsonl")}
    swapped = 0
    for row in rows(folder, "pairs.train.jsonl"):
        was, score = before[row["id"]], labels[row["id"]]
        turned = score["chosen"] < score["rejected"]
        swapped += turned
        assert (row["chosen"] == was["rejected"]) == turned
    figures = store.read_json(folder / store.MARKER)["figures"]
    assert figures["swapped"] == swapped
    (arm,) = (a for a in report_of(done)["arms"] if a["label"] == "scalar")
    assert arm["gold"]["runs"][0]["labels"]["swapped_share"] == pytest.approx(swapped / len(labels))


# ---- what is measured -----------------------------------------------------------------------------------------------


def test_the_curve_of_best_of_n_is_that_of_the_rows(done: Path) -> None:
    cells, missing = find_cells([done])
    assert not missing
    (arm,) = [a for a in arms_of(cells) if a.reward_model == "scalar" and a.cells[0].record["optimizer"] == "best-of-n"]
    curves = curves_of(arm)
    assert curves is not None
    assert curves.gold is not None
    assert curves.worth == "gold"
    scores = {(r["example_id"], r["draw"]): r["gold"] for r in rows(only(done, "gold_pool/*"), "gold.jsonl")}
    pool = read_pool(arm.cells[0].folder("generations"))
    gold = np.array([[scores[example, draw] for draw in range(4)] for example in pool.examples])
    at = [pool.examples.index(example) for example in curves.ids]
    for c, n in enumerate(curves.points):
        assert curves.gold[0, c] == pytest.approx(expected(pool.rewards, gold, n)[at])
    # of the chosen responses the judge says the same as the pool
    judged = {
        (r["example_id"], r["iteration"]): r["values"] for r in rows(arm.cells[0].judged()["utility"], "verdicts.jsonl")
    }
    for n in (1, 2, 4):
        for p, example in enumerate(pool.examples):
            best = int(np.argmax(pool.rewards[p, :n]))
            assert judged[example, n]["gold"] == gold[p, best]
            assert judged[example, n]["gold_change"] == pytest.approx(gold[p, best] - gold[p, 0])


def test_the_pool_is_scored_once_for_all_arms(done: Path) -> None:
    assert len(list((done / "gold_pool").iterdir())) == 1
    assert len(list((done / "best_of_n").iterdir())) == 2


def test_every_optimiser_has_its_gold_curve(done: Path) -> None:
    report = report_of(done)
    for arm in report["arms"]:
        own = [
            e for e in report["estimates"] if e["arm"] == arm["arm"] and e["judge"] == "proxy" and e["slice"] == "all"
        ]
        points = {e["iteration"]: e["value"] for e in own if e["statistic"] == "gold"}
        assert set(points) == ({1, 2, 4} if arm["optimizer"] == "best-of-n" else {0, 3, 6})
        assert None not in points.values()
        assert {"gao a", "gao b", "gamma", "gold peak", "spearman"} <= {e["statistic"] for e in own}
        changes = [e for e in report["estimates"] if e["arm"] == arm["arm"] and e["statistic"] == "gold_change"]
        assert changes
        assert changes[0]["value"] is not None
    shares = {e["reward_model"] for e in report["estimates"] if e["statistic"] == "gold_share"}
    assert shares == {"scalar"}  # against the arm that is optimised for the gold model itself


def test_the_arm_gold_is_optimised_for_the_gold_model(done: Path) -> None:
    cells, _ = find_cells([done])
    own = [cell for cell in cells if cell.record["reward_model"] == "gold"]
    assert {cell.record["optimizer"] for cell in own} == {"ppo", "best-of-n"}
    for cell in own:
        assert cell.folder("reward") == cell.folder("gold") == only(done, "gold/*")
        assert "gold_agreement" not in cell.record["stages"]  # with itself


def test_the_report_names_gold_and_how_far_it_can_be_believed(done: Path) -> None:
    report, text = report_of(done), (done / "report" / "report.md").read_text()
    accuracy = store.read_json(only(done, "gold_pairs/*") / store.MARKER)["figures"]["pair_accuracy"]
    for arm in report["arms"]:
        (run,) = arm["gold"]["runs"]
        assert arm["gold"]["name"] == "scalar@half"
        assert run["pair_accuracy"] == accuracy
        assert run["pairs"] == len(rows(only(done, "half/*-gold-*"), "pairs.train.jsonl"))
    (arm,) = (a for a in report["arms"] if a["label"] == "scalar")
    agreed = arm["gold"]["runs"][0]["proxy"]
    assert 0 <= agreed["agreement"] <= 1
    assert agreed["gold_accuracy"] == accuracy
    assert arm["before"][0]["sft_samples"]["correlation_with_gold"] == agreed["correlation"]
    assert arm["before"][0]["pair_accuracy"] == pytest.approx(agreed["proxy_accuracy"])
    assert "Gold is the score of the gold model scalar@half" in text
    assert "by the task's own rules" not in text
    shared = [warning for warning in report["warnings"] if "no independent gold" in warning]
    # other pairs and another head; the arm `gold` is the gold model itself, which is no fault of it
    assert all("both start from the same SFT policy" in warning for warning in shared)
    assert not [warning for warning in shared if "the proxy's too" in warning or "drawn from seed" in warning]
    assert not [warning for warning in shared if warning.startswith("gold")]


def test_a_run_that_was_killed_is_continued(done: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "runs"
    shutil.copytree(done, copy)
    before = (copy / "report" / "report.json").read_text()
    for kind in ("gold_pool", "relabelled", "gold_agreement"):
        for marker in copy.glob(f"{kind}/*"):
            shutil.rmtree(marker)
    ran(*command(copy, *GOLD, *BOTH, rms=("scalar", "gold")))
    found = json.loads((copy / "report" / "report.json").read_text())
    assert found["estimates"] == json.loads(before)["estimates"]


def test_judges_measure_by_gold_again(done: Path) -> None:
    ran("judge", str(done), "--judge", "utility", "--judge", "winrate")
    assert len(list((done / "verdicts").glob("utility-*"))) == 4  # those of the run, found under the same keys


def test_a_model_that_is_there_is_gold_by_one_option(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores as by utility.scorer=rm:, and a curve of best-of-n, whose pool that does not score."""
    out, folder = tmp_path / "runs", only(done, "gold/*")
    ran(*command(out, "--gold", f"rm:{folder}", *BOTH[:2], *BOTH[4:], rms=("length-only",)))
    report = report_of(out)
    (arm,) = report["arms"]
    assert arm["gold"]["name"] == f"rm:{folder.name}"
    # what a run trained is measured before anything is optimised, as a proxy is
    (before,) = arm["gold_before"]
    assert before["sanity"]["within_prompt_sd"] > 0
    assert before["sanity"]["trained"] == store.read_json(folder / "reward_model.json")["trained"]
    values = {
        e["iteration"]: e["value"] for e in report["estimates"] if (e["judge"], e["statistic"]) == ("proxy", "gold")
    }
    assert len(values) == 3
    (verdicts,) = out.glob("verdicts/utility-*")
    gold = [row["values"]["gold"] for row in rows(verdicts, "verdicts.jsonl")]
    ran(*command(out, "--set", f"utility.scorer=rm:{folder}", *BOTH[:2], *BOTH[4:], rms=("length-only",)))
    (other,) = set(out.glob("verdicts/utility-*")) - {verdicts}
    judged = rows(other, "verdicts.jsonl")
    assert [row["values"]["score"] for row in judged] == pytest.approx(gold, abs=1e-4)
    # where the task has no gold, the judge's scores of the chosen responses are the curve
    monkeypatch.setattr(proxy_curves, "pool_of", lambda cell: read_pool(cell.folder("generations"))._replace(gold=None))
    curves = curves_of(arms_of(find_cells([out])[0])[0])
    assert curves is not None
    assert curves.gold is not None
    assert (curves.worth, curves.points, curves.gold.shape[1]) == ("score", (1, 2, 4), 3)
    for c, n in enumerate(curves.points):
        own = {row["example_id"]: row["values"]["score"] for row in judged if row["iteration"] == n}
        assert curves.gold[0, c].tolist() == [own[example] for example in curves.ids]


def test_several_samples_and_responses_that_are_cut_off(done: Path, tmp_path: Path) -> None:
    """Of a cut-off response gold reads nothing under eval.cut_off=lose; every sample of a prompt has its own gold."""
    out, folder = tmp_path / "runs", only(done, "gold/*")
    more = {"eval.cut_off": "lose", "eval.samples": 2, "eval.prompts": 4, "ppo.iterations": 2, "ppo.save_every": 1}
    ran(*command(out, "--gold", f"rm:{folder}", *BOTH, rms=("length-only",), **more))
    pool = rows(only(out, "gold_pool/*"), "gold.jsonl")
    assert len(pool) == 4 * 2 * 4  # draws, samples, prompts
    scored = [*pool, *(row for path in out.glob("gold_scores/*") for row in rows(path, "gold.jsonl"))]
    cut = [row for row in scored if not row["finished"]]
    assert cut
    assert {row["response"] for row in cut} == {""}
    assert all(row["gold"] is not None for row in scored)
    report = report_of(out)
    assert all(e["value"] is not None for e in report["estimates"] if (e["judge"], e["statistic"]) == ("proxy", "gold"))


# ---- plans and bad input --------------------------------------------------------------------------------------------


def planned(
    gold: str, relabel: bool = False, rms: Sequence[str] = ("scalar",), seeds: Sequence[int] = (0,)
) -> list[Cell]:
    given = parse_assignments(tuple(settings(("scalar",))[1::2]))
    request = Request(
        "dialogsum",
        rms,
        seeds,
        "tiny",
        (),
        given,
        optimizers=("ppo", "dpo", "sft-tempered"),
        gold=gold,
        relabel=relabel,
    )
    return list(make_plan(request).cells)


def test_without_gold_nothing_of_it_is_planned() -> None:
    for cell in planned(""):
        assert not [role for role in cell.stages if "gold" in role]
        assert cell.stages["pairs"].kind == "pairs"
        assert "gold" not in cell.record()


def test_each_seed_has_a_gold_model_of_its_own_and_all_arms_one() -> None:
    cells = planned("scalar@half", rms=("scalar", "length-only"), seeds=(0, 1))
    models = {cell.seed: set[str]() for cell in cells}
    for cell in cells:
        models[cell.seed].add(cell.stages["gold"].key)
    assert all(len(keys) == 1 for keys in models.values())
    assert models[0] != models[1]
    assert len({cell.stages["gold"].seedless_key for cell in cells}) == 1
    # DPO learns from the proxies' half as well
    (dpo,) = {c.stages["direct"].inputs["pairs"].key for c in cells if c.seed == 0 and c.optimizer == "dpo"}
    assert dpo == next(c.stages["pairs"].key for c in cells if c.seed == 0 and c.optimizer == "ppo")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--gold", "scalr@half"), "Did you mean 'scalar'"),
        (("--gold", "length-only@half"), "learns from no pairs"),
        (("--gold", "scalar@third"), "'third' is no part of the pairs. Write scalar@half"),
        (("--gold", "scalar"), "Write scalar@half"),
        (("--gold", "rm:/nowhere"), "There is no reward model"),
        (("--gold", "rm:"), "carries nothing after the colon"),
        (("--relabel",), "Add --gold"),
        (("--gold", "scalar@half", "--set", "utility.scorer=rouge-l"), "both say what gold is"),
        (("--gold", "scalar@half", "--judge", "length"), "without the judge utility"),
        (("--gold", "scalar@half", "--limit", "1"), "cannot be halved"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(BenchError, match=said):
        commands(command(tmp_path / "runs", *more, rms=("length-only",)), standalone_mode=False)
    assert not (tmp_path / "runs").exists()
