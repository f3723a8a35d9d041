"""Results without runs: what is kept of an experiment, and the ledger that is computed from it."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stored import Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.cli.claims import claims as bench_claims
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments, stamps
from rlhf_bench.harness.results import claims, result_files
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.statistics import comparisons
from rlhf_bench.reports import experiments as built_experiments
from rlhf_bench.reports import result_pages

RUN_OF = {"bias-replication": "main", "carelessness": "equally careless"}
NAMES = tuple(RUN_OF)
COMMAND = "bench experiment x --out /here/runs"


def run(root: Path, *names: str, seeds: tuple[int, ...] = (1, 2, 3)) -> Path:
    """A results folder with finished experiments on seeds of their own; the reward models need no training."""
    cells = [path.stem for path in make(root, Stored(seeds=seeds, prompts=6, undecided=False))]
    (root / "experiments").mkdir(exist_ok=True)
    for name in names:
        record: dict[str, Any] = {"name": name, "question": f"Is {name} so?", "seeds": list(seeds), "command": COMMAND}
        record |= {"runs": {RUN_OF[name]: cells}, "analyses": {}, "left_out": {}}
        store.write_json(experiments.record_path(root, name), record)
    return root


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("both"), *NAMES)


BUILT: dict[tuple[Any, ...], Any] = {}
build = built_experiments.build_experiment


def build_once(record: Any, root: Path, estimator: Estimator) -> Any:
    """The experiment of these cells: the same cells come to the same result, and building takes seconds."""
    key = (record["name"], tuple(sorted(path.parent.name for path in root.glob("ppo/*/stage.json"))), estimator.level)
    if key not in BUILT:
        BUILT[key] = build(record, root, estimator)
    return copy.deepcopy(BUILT[key])


@pytest.fixture(autouse=True)
def today(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Today's stages are those of the runs unless a test says so: planning takes seconds (test_results_pages.py)."""
    found: dict[str, list[str]] = {}
    monkeypatch.setattr(built_experiments, "build_experiment", build_once)
    monkeypatch.setattr(stamps, "stamped", lambda *_: {"seeds": [], "stages": {"ppo": "0" * 12}})
    monkeypatch.setattr(stamps, "stale", lambda stamp: {name: found[name] for name in stamp if name in found})
    return found


@pytest.fixture
def page(both: Path, tmp_path: Path) -> Path:
    """The page of both experiments."""
    out = tmp_path / "docs" / "results.md"
    assert bench_claims([both], out) == 3
    return out


def texts(page: Path) -> dict[str, str]:
    """Page and files by their path below the page's folder."""
    return {p.relative_to(page.parent).as_posix(): p.read_text() for p in sorted(page.parent.rglob("*")) if p.is_file()}


def ledger(page: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in result_files.whole_ledger(result_files.read_folder(page.with_suffix("")))}


def change(page: Path, experiment: str, **fields: Any) -> Path:
    path = page.with_suffix("") / f"{experiment}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


# ---- pages ----------------------------------------------------------------------------------------------------------


def test_an_experiment_has_a_page_and_a_file(page: Path) -> None:
    found = texts(page)
    assert set(found) == {"results.md", *(f"results/{name}.{end}" for name in NAMES for end in ("md", "json"))}
    own = found["results/carelessness.md"]
    assert own.startswith("# carelessness\n\n")
    assert "](../results.md)" in own
    assert "\n## Claims\n" in own
    assert "\n# " not in own
    assert "/here" not in "".join(found.values())
    assert "[carelessness](results/carelessness.md) | 1 2 3 | 6 |" in found["results.md"]
    assert "| refusal | not run |" in found["results.md"]


def test_the_ledger_of_two_folders_is_that_of_one_with_both(page: Path, tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, name) for name in NAMES)
    together, in_turn = (tmp_path / name / "results.md" for name in ("together", "turn"))
    bench_claims([one, other], together)
    assert texts(together) == texts(page)
    # on different days: the second call knows the first experiment from its file alone
    bench_claims([other], in_turn)
    shutil.rmtree(other)
    bench_claims([one], in_turn)
    assert texts(in_turn) == texts(page)


def test_writing_again_from_the_files_alone_changes_nothing(page: Path) -> None:
    before = texts(page)
    bench_claims([], page)
    assert texts(page) == before
    (page.parent / "results-intro.md").write_text("What a reader should know.\n")
    bench_claims([], page)
    assert "# Results\n\nWhat a reader should know.\n\n## The claims" in page.read_text()
    page.write_text("")
    (page.parent / "results-intro.md").unlink()
    bench_claims([], page)
    assert texts(page) == before


def test_files_are_written_as_they_are_read(page: Path) -> None:
    for path in page.with_suffix("").glob("*.json"):
        assert result_files.text(result_files.read(path)) == path.read_text()


def test_holm_is_over_the_claims_of_all_files(page: Path) -> None:
    rows = ledger(page)
    assert len(rows) == len(claims.load())
    by_hand = comparisons.holm([row["p"] for row in rows.values()])
    assert [row["p_holm"] for row in rows.values()] == by_hand
    tested = [row for row in rows.values() if row["p"] is not None]
    assert {row["experiment"] for row in tested} == set(NAMES)
    # a claim more in the family: the smallest p is multiplied by one more
    smallest = min(tested, key=lambda row: row["p"])
    (page.with_suffix("") / f"{next(n for n in NAMES if n != smallest['experiment'])}.json").unlink()
    assert ledger(page)[smallest["id"]]["p_holm"] < smallest["p_holm"]


def test_the_ledger_of_the_terminal_is_that_of_the_page(
    both: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_claims([both])
    shown = capsys.readouterr().out
    bench_claims([], page)
    assert capsys.readouterr().out == f"{shown}{page}\n"


def test_stale_experiments_are_named(page: Path, today: dict[str, list[str]]) -> None:
    assert "**Stale**" not in page.read_text()
    today |= {"carelessness": ["ppo", "reward"], "refusal": ["ppo"]}
    bench_claims([], page)
    text = page.read_text()
    assert re.findall(r"(?m)^- \*\*Stale\*\*: .*\.$", text) == [
        "- **Stale**: `carelessness` (of earlier code or settings)."
    ]
    assert re.search(r"(?m)^\| \[carelessness\].*\| ppo, reward \|$", text)
    assert re.search(r"(?m)^\| \[bias-replication\].*\| no \|$", text)


# ---- claims that changed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"threshold": 0.25}, {"side": "above"}, {"arm": "scalar"}, {"statistic": "gold"}, {"run": "other"}],
)
def test_a_verdict_on_a_changed_claim_does_not_count(
    page: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    before = ledger(page)["clean-chosen-matters"]
    assert before["verdict"] != "not run"
    now = [replace(c, **change) if c.id == "clean-chosen-matters" else c for c in claims.load()]
    monkeypatch.setattr(claims, "load", lambda: tuple(now))
    row = ledger(page)["clean-chosen-matters"]
    assert (row["verdict"], row["value"], row["p"]) == ("not run", None, None)
    assert before["measured"] in row["note"]
    assert before["rule"] in row["note"]
    assert "bench experiment carelessness" in row["note"]


def test_words_and_figures_are_those_of_today(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ledger(page)["seq2seq-beats-scalar-summaries"]
    assert before["size"] == "no figure"
    far = (before["high"] + 5.0,)
    now = [
        replace(c, text="In other words.", figure=far) if c.id == "seq2seq-beats-scalar-summaries" else c
        for c in claims.load()
    ]
    monkeypatch.setattr(claims, "load", lambda: tuple(now))
    row = ledger(page)["seq2seq-beats-scalar-summaries"]
    assert (row["text"], row["figure"], row["size"]) == ("In other words.", list(far), "outside")
    assert (row["verdict"], row["p"]) == (before["verdict"], before["p"])


# ---- parts of an experiment ------------------------------------------------------------------------------------------


def test_fewer_seeds_replace_nothing_unless_asked(page: Path, tmp_path: Path) -> None:
    part = run(tmp_path / "part", "carelessness", seeds=(4, 5))
    before = texts(page)
    with pytest.raises(BenchError, match=r"carelessness.json has 3 seeds and 6 .*RUNS have 2 seeds and 4"):
        bench_claims([part], page)
    assert texts(page) == before
    bench_claims([part], page, replace=True)
    assert result_files.read_folder(page.with_suffix(""))["carelessness"].seeds == [4, 5]


def test_fewer_cells_of_as_many_seeds_replace_nothing(page: Path, tmp_path: Path) -> None:
    part = run(tmp_path / "part", "carelessness")
    next(part.glob("ppo/*-scalar-s2-*/stage.json")).unlink()
    with pytest.raises(BenchError, match="RUNS have 3 seeds and 5"):
        bench_claims([part], page)


def test_more_seeds_replace_fewer(page: Path, tmp_path: Path) -> None:
    more = run(tmp_path / "more", "carelessness", seeds=(1, 2, 3, 4))
    bench_claims([more], page)
    assert result_files.read_folder(page.with_suffix(""))["carelessness"].seeds == [1, 2, 3, 4]


@pytest.mark.parametrize("swap", [False, True])
def test_of_several_folders_the_fullest_counts(
    both: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], swap: bool
) -> None:
    part = run(tmp_path / "part", "carelessness", seeds=(4, 5))
    bench_claims([part, both] if swap else [both, part], tmp_path / "results.md")
    assert result_files.read(tmp_path / "results" / "carelessness.json").seeds == [1, 2, 3]
    assert "carelessness is in several folders" in capsys.readouterr().err


def test_only_seeds_with_a_finished_cell_count(tmp_path: Path) -> None:
    root = run(tmp_path / "runs", "carelessness")
    for path in root.glob("ppo/*-s2-*/stage.json"):
        path.unlink()
    bench_claims([root], tmp_path / "results.md")
    found = result_files.read(tmp_path / "results" / "carelessness.json")
    assert (found.seeds, found.finished, found.missing) == (
        [1, 3],
        4,
        ["equally careless: 2 of 6 cells are unfinished"],
    )


# ---- files from elsewhere --------------------------------------------------------------------------------------------


def row_change(**fields: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda data: {**data, "claims": [{**row, **fields} for row in data["claims"]]}


@pytest.mark.parametrize(
    "broken",
    [
        {"name": "../../outside"}, {"name": "refusal"}, {"name": 3}, {"schema_version": 2}, {"unknown": 1},
        {"minutes": -1}, {"date": "yesterday"}, {"commit": "x"}, {"seeds": [1.5]}, {"seeds": [True]}, {"claims": {}},
        {"stamp": {"seeds": [-1], "stages": {}}}, {"stamp": {"seeds": [], "stages": {"ppo": "../x"}}},
        {"question": "two\nlines"}, {"note": "\x1b[31m"}, {"missing": ["\ud800"]},
        row_change(value=float("nan")), row_change(p=float("inf")), row_change(p=1.5), row_change(verdict="proved"),
        row_change(low=None), row_change(low=2.0, high=1.0, value=1.5, verdict="supported"), row_change(level=0),
        row_change(verdict="supported", low=0.1, high=0.2), row_change(verdict="not run"),
        row_change(verdict="inconclusive", low=-0.2, high=-0.1),
        row_change(verdict="supported", low=-0.2, high=-0.1, seeds=[1]),
        lambda data: {**data, "claims": data["claims"] * 2}, lambda _: [], lambda _: None,
    ],
    ids=range(30),
)  # fmt: skip
def test_damaged_files_are_refused_in_one_line(page: Path, broken: Any) -> None:
    path = page.with_suffix("") / "carelessness.json"
    data = json.loads(path.read_text())
    path.write_text(json.dumps(broken(data) if callable(broken) else {**data, **broken}))
    before = texts(page)
    with pytest.raises(BenchError, match=re.escape(str(path))) as error:
        bench_claims([], page)
    assert "\n" not in str(error.value)
    assert texts(page) == before


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"minutes": NaN}', "\xff"])
def test_files_that_are_no_json_are_refused(page: Path, text: str) -> None:
    path = page.with_suffix("") / "carelessness.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BenchError, match=re.escape(f"{path} is damaged")):
        bench_claims([], page)


def test_a_file_of_no_known_experiment_and_a_link_are_refused(page: Path, tmp_path: Path) -> None:
    known = page.with_suffix("") / "carelessness.json"
    path = page.with_suffix("") / "nobody.json"
    path.write_text(known.read_text().replace('"name": "carelessness"', '"name": "nobody"'))
    with pytest.raises(BenchError, match="this version lacks"):
        bench_claims([], page)
    path.unlink()
    known.rename(tmp_path / "elsewhere.json")
    known.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BenchError, match="leads outside of"):
        bench_claims([], page)


def test_texts_of_files_are_escaped(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = "<img src=x onerror=ran()> | [a](javascript:x) `b`"
    change(page, "carelessness", note=bad, version=bad)
    data = json.loads((page.with_suffix("") / "carelessness.json").read_text())
    change(page, "carelessness", **row_change(measured=bad)(data))
    now = [replace(c, threshold=0.25) if c.id == "clean-chosen-matters" else c for c in claims.load()]
    monkeypatch.setattr(claims, "load", lambda: tuple(now))
    bench_claims([], page)
    text = page.read_text()
    assert text.count(r"\<img src=x onerror=ran()\> \| \[a\](javascript:x) \`b\`") == 3
    assert "<img" not in text.replace(r"\<img", "")


# ---- the command -----------------------------------------------------------------------------------------------------


def test_levels_are_not_mixed(both: Path, page: Path, tmp_path: Path) -> None:
    other = run(tmp_path / "other", "carelessness")
    with pytest.raises(BenchError, match=r"several levels .*0\.9 \(carelessness\), 0\.95"):
        bench_claims([other], page, level=0.9)
    assert both.is_dir()


def test_without_runs_and_without_results_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="holds no results"):
        bench_claims([], tmp_path / "results.md")
    with pytest.raises(BenchError, match="has no ending"):
        bench_claims([tmp_path], tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_some_experiments_leaves_the_others_files(page: Path) -> None:
    before = texts(page)
    bench_claims([], page, only=("carelessness",))
    assert "bias-replication" not in page.read_text()
    assert {**texts(page), "results.md": before["results.md"]} == before


def test_the_command_has_the_options(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "results.md"
    for line in ([str(both), "--out", str(out), "--replace"], ["--out", str(out)]):
        monkeypatch.setattr("sys.argv", ["bench", "claims", *line])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 3
    assert out.read_text().startswith("# Results\n")


def test_minutes_and_the_day_are_those_of_the_stages(tmp_path: Path) -> None:
    root = run(tmp_path, "carelessness")
    record = store.read_json(experiments.record_path(root, "carelessness"))
    markers = list(root.glob("*/*/stage.json"))
    for path in markers:
        os.utime(path, (86_400.0 * 365, 86_400.0 * 365))
    os.utime(markers[0], (86_400.0 * 366, 86_400.0 * 366))
    built = build_once(record, root, Estimator())
    found = result_pages.result_of(built, record, root)
    assert found.date == "1971-01-02"
    assert found.minutes == round(built["report"]["manifest"]["seconds_total"] / 60, 1)
