"""Judges are equal: a third party's measures stand wherever the built-in win rate stands, with the same numbers.

The judge is the one under examples/.  Stored cells are judged by it beside `winrate`, and one report is made of them.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console
from stored import NAMES, SLICES, Stored, make

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Case, Example, Generation, Measure, ReportPlace
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.results.table import interval, value_text
from rlhf_bench.harness.stages.judge import verdict_row
from rlhf_bench.judges.empty import Empty
from rlhf_bench.judges.length import Length
from rlhf_bench.judges.llm.judge import WinRateLLM
from rlhf_bench.judges.refusal import Refusal
from rlhf_bench.judges.refusal_phrases import RefusalPhrases
from rlhf_bench.judges.stance import Stance
from rlhf_bench.judges.utility import UtilityChange
from rlhf_bench.judges.winrate import WinRate
from rlhf_bench.reports import build, exports, measures, terminal
from rlhf_bench.reports.files import texts

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "third_party" / "bench_echo.py"
JUDGE = "exact-echo"
RATE, WIN = "exact echoes", "longer echoes"
"""The titles of the example's measures."""
PLACES = {"exact_echo": RATE, "longer_echo": WIN}


def example_judge() -> Any:
    spec = importlib.util.spec_from_file_location("bench_echo_of_reports", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module.ExactEcho()


def words(rm: str, seed: int, prompt: int) -> list[str]:
    """Some responses are exact echoes, others stop or go wrong; reward models differ."""
    said = ["moon", " river", f" {prompt}", " more"]
    return said[: 1 + (len(rm) * (prompt + 2) ** 2 + seed) % 11 % 4]


def generation(row: Mapping[str, Any]) -> Generation:
    known = {field.name for field in fields(Generation)}
    return Generation(**{name: value for name, value in row.items() if name in known})


def judged_by_the_example(root: Path) -> None:
    """Write the verdicts of the example's judge beside the stored ones, as the judge stage does."""
    judge = example_judge()
    for path in (root / "cells").glob("*.json"):
        record = store.read_json(path)
        folders = {role: root.joinpath(place[0], f"{place[1]}-{place[2]}") for role, place in record["stages"].items()}
        examples = {
            row["id"]: Example(row["id"], row["prompt"], slices=tuple(row["slices"]))
            for row in store.read_rows(folders["prompts"] / "examples.test.jsonl")
        }
        before = {r["example_id"]: r for r in store.read_rows(folders["baseline"] / "generations.jsonl")}
        after = store.read_rows(folders["ppo"] / "generations.jsonl")
        cases = [Case(examples[r["example_id"]], generation(r), generation(before[r["example_id"]])) for r in after]
        name, label, key = record["judges"]["winrate"]
        place = [name, label.replace("winrate", JUDGE), key]
        folder = root / name / f"{place[1]}-{key}"
        folder.mkdir(parents=True)
        marker = store.read_json(root / name / f"{label}-{key}" / store.MARKER)
        store.write_json(folder / store.MARKER, {**marker, "label": place[1]})
        store.write_json(folder / "measures.json", [asdict(measure) for measure in judge.measures])
        rows = [verdict_row(case, verdict) for case, verdict in zip(cases, judge.measure(cases, None), strict=True)]
        store.write_rows(folder / "verdicts.jsonl", rows)
        store.write_json(path, {**record, "judges": {**record["judges"], JUDGE: place}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    """(report, its files by name)."""
    root = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES[:3], (1, 2), 12, words=words, prompt=lambda k: f"moon river {k}"))
    judged_by_the_example(root)
    cells, missing = find_cells([root])
    assert missing == []
    report = build.build(cells, missing, Estimator(), "bench report runs --out report")
    return report, dict(texts(report, cells))


def estimate(report: dict[str, Any], statistic: str, **where: Any) -> dict[str, Any]:
    wanted = {"judge": JUDGE, "slice": "all", "decoding": "sample", "iteration": 20, "statistic": statistic, **where}
    return next(e for e in report["estimates"] if all(e[name] == value for name, value in wanted.items()))


def numbers(report: dict[str, Any], **where: Any) -> dict[str, str]:
    """How the estimates of the example's two measures are written, by title."""
    return {
        RATE: interval(estimate(report, "exact_echo", **where), "percent"),
        WIN: interval(estimate(report, "longer_echo", **where)),
    }


def table(files: dict[str, str], name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(files[f"tables/{name}.csv"])))


def test_the_numbers_are_not_trivial(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, _ = made
    for name in PLACES:
        values = {estimate(report, name, arm=arm["arm"])["value"] for arm in report["arms"]}
        assert len(values) > 1
        assert not values & {None, 0.0, 1.0}
    assert "%" in numbers(report)[RATE]


def test_the_terminal_table(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, _ = made
    file = io.StringIO()
    terminal.show_headline(Console(file=file, force_terminal=False), report)
    lines = [line.split("\t") for line in file.getvalue().splitlines() if "\t" in line]
    head, rows = lines[0], lines[1:]
    assert head.index("win rate") < head.index("KL") < head.index(RATE) < head.index(WIN)
    for arm, row in zip(report["arms"], rows, strict=True):
        for title, text in numbers(report, arm=arm["arm"]).items():
            assert row[head.index(title)] == text


def test_a_boxed_terminal_shows_titles_as_they_are(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    """A title is a stranger's text: no markup and no control codes reach the terminal."""
    report, _ = made
    odd = [{**m, "title": "[red]\x1b[31mecho[/red]"} if m["title"] == RATE else m for m in report["measures"]]
    file = io.StringIO()
    terminal.show_headline(Console(file=file, force_terminal=True, width=400, color_system=None), {
        **report, "measures": odd})  # fmt: skip
    assert "[red]\\x1b[31mecho[/red]" in file.getvalue()


@pytest.mark.parametrize("terminal_like", [True, False])
def test_a_tasks_name_is_no_control_code(made: tuple[dict[str, Any], dict[str, str]], terminal_like: bool) -> None:
    report, _ = made
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal_like, width=400, color_system=None)
    odd = {"task": "a\x1b[31mb\u202e", "kind": "real", "description": "c\x00"}
    terminal.show_headline(console, {**report, "data": [odd]})
    assert "a\\x1b[31mb\\u202e: c\\x00" in file.getvalue()


@pytest.mark.parametrize("name", ["sampled", "curves", "slices"])
def test_the_csv_tables(made: tuple[dict[str, Any], dict[str, str]], name: str) -> None:
    report, files = made
    rows = table(files, name)
    assert {RATE, WIN} <= {row["quantity"] for row in rows}
    titles = {title: statistic for statistic, title in PLACES.items()}
    for row in (row for row in rows if row["quantity"] in titles):
        where: dict[str, Any] = {"reward_model": row["label"]}
        where |= {"iteration": int(row["iteration"])} if name == "curves" else {}
        where |= {"slice": row["slice"]} if name == "slices" else {}
        stored = estimate(report, titles[row["quantity"]], **where)
        assert [float(row[end]) for end in ("value", "low", "high")] == [stored[e] for e in ("value", "low", "high")]
    if name == "slices":
        assert {row["slice"] for row in rows} >= set(SLICES)
    if name == "curves":
        assert {row["iteration"] for row in rows} == {"10", "20"}


def test_the_markdown_report(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    text = files["report.md"].replace("\\", "")
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    for heading in ("At the last checkpoint, sampled at temperature 1", "Along training", "By slice of the prompts"):
        assert f"| {RATE} |" in sections[heading]
        assert f"| {WIN} |" in sections[heading]
        for shown in numbers(report, reward_model="scalar").values():
            assert heading.startswith("By slice") or f"| {shown} |" in sections[heading]
    for heading in ("Every two reward models", "Ranking of the reward models"):
        assert f"| {WIN} |" in sections[heading]


def test_the_comparison_of_every_two_reward_models(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    rows = [row for row in table(files, "every-two-reward-models") if row["measure"] in (RATE, WIN)]
    pairs = [row for row in report["comparison"]["pairs"] if row["judge"] == JUDGE]
    assert len(rows) == len(pairs) == 2 * 3
    for row, pair in zip(rows, pairs, strict=True):
        assert row["measure"] == PLACES[pair["statistic"]]
        for name in ("value", "low", "high", "p"):
            assert float(row[name]) == pair[name]
    ranked = {row["statistic"] for row in report["comparison"]["ranking"] if row["judge"] == JUDGE}
    assert ranked == {"longer_echo"}
    assert {row["measure"] for row in table(files, "ranking-of-the-reward-models")} == {"gold", "win rate", WIN}


def island(files: dict[str, str]) -> dict[str, Any]:
    """The data of the page's script."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', files["report.html"], re.S)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_data_of_the_page(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    data = island(files)
    (compare,) = data["compare"]
    names = [column["name"] for column in compare["columns"]]
    for statistic, title in PLACES.items():
        place = names.index(title)
        for k, arm in enumerate(report["arms"]):
            for slice_name in ("all", *SLICES):
                known = estimate(report, statistic, arm=arm["arm"], slice=slice_name)
                assert [k, place, "sample", slice_name, known["value"], known["low"], known["high"], 0] in compare[
                    "estimates"
                ]
        assert len([pair for pair in compare["pairs"] if pair[2] == place]) == 3
    assert compare["columns"][names.index(RATE)]["format"] == "percent"
    inside = {measure["name"]: measure for measure in data["inside"]["tasks"][0]["measures"]}
    assert {name: inside[name]["title"] for name in PLACES} == PLACES
    assert (inside["longer_echo"]["reference"], inside["longer_echo"]["better"]) == (0.5, "higher")


def test_the_figures_and_tables_of_the_page(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, files = made
    page = files["report.html"]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert f"{WIN} by KL to the SFT policy" in captions  # as the win rate
    assert f"{RATE} by PPO iteration" in captions
    assert "win rate by KL to the SFT policy" in captions
    forests = re.findall(r'<table class="forest">\n<caption><b>(.*?)</b>', page)
    assert forests == ["win rate", WIN, "gold change"]
    assert page.count(f">{RATE}</th>") >= 3  # compared, along training, by slice
    shown = estimate(report, "exact_echo", reward_model="scalar")
    assert f'data-v="{shown["value"]}">{value_text(shown["value"], "percent")} <span class="interval">[' in page


def test_exports_hold_it_where_they_hold_the_win_rate(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    report, _ = made
    results = exports.every_eval_ever(report, "0", "a group")[0]["evaluation_results"]
    assert [one["evaluation_name"] for one in results] == ["dialogsum win_rate", "dialogsum longer_echo"]
    metrics = exports.model_index(report, report["arms"][0])[0]["results"][0]["metrics"]
    assert {"exact_echo", "longer_echo", "win_rate"} <= {one["type"] for one in metrics}


def test_a_measure_that_says_nothing_is_shown_by_its_name_and_judge() -> None:
    rows = {("mine", "exact_echo"): asdict(Measure("exact_echo", "rate"))}
    rows |= {("mine", "change"): asdict(Measure("change", "change")), ("mine", "win"): asdict(Measure("win", "win"))}
    rate, change, win = measures.complete(rows)
    assert (rate.title, rate.shown, rate.reference) == ("exact echo (mine)", get_args(ReportPlace), None)
    assert (change.reference, change.better, change.answers) == (0.0, "", False)
    assert (win.reference, win.better, win.answers) == (0.5, "higher", True)


def test_a_report_of_an_older_version_is_shown_and_exported(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    """report.json had no `measures`: built-in ones are known by their names, others are shown by name and judge."""
    _, files = made
    old = {name: value for name, value in json.loads(files["report.json"]).items() if name != "measures"}
    old["comparisons"] = [{k: v for k, v in one.items() if k != "cells"} for one in old["comparisons"]]
    titles = [column.title for column in measures.shown_at(old, "headline")]
    assert titles == ["gold", "gold change", "win rate", "KL", "exact echo (exact-echo)", "longer echo (exact-echo)"]
    again = dict(texts(old))
    assert again["tables/sampled.csv"].splitlines()[1:] == [
        line.replace("%", "") for line in again["tables/sampled.csv"].splitlines()[1:]
    ]
    pairs = again["tables/every-two-reward-models.csv"].replace("'-", "-")  # text that begins like a formula
    assert pairs == files["tables/every-two-reward-models.csv"]
    (result,) = exports.every_eval_ever(old, "0", "a group")[0]["evaluation_results"]
    assert result["evaluation_name"] == "dialogsum win_rate"


def test_titles_are_unique_and_a_baselines_level_is_shown_on_request() -> None:
    level = Measure("score", "level", before="base", title="win rate")
    rows = {("mine", m.name): asdict(m) for m in (level, Measure("base", "level"))}
    rows[("winrate", "win_rate")] = asdict(WinRate().measures[0])
    assert [column.title for column in measures.complete(rows)] == ["win rate", "win rate (mine)", "base (mine)"]
    assert [column.shown for column in measures.complete(rows)][1:] == [get_args(ReportPlace), ()]


ODD = "a rule, not exact: <b>precision</b> 0.80 | [red]\x1b[31m"


def test_what_a_judge_says_of_its_numbers_stands_wherever_they_do(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    """On the terminal, in report.md and on the page, as a stranger's text: no markup and no control codes."""
    report, files = made
    assert "not exact" not in "".join(files.values())
    known = [{**m, "reliability": ODD} if m["title"] == RATE else m for m in report["measures"]]
    said = {**report, "measures": known}
    file = io.StringIO()
    terminal.show_report(Console(file=file, force_terminal=False), said)
    assert file.getvalue().count(f"{RATE}: a rule, not exact: <b>precision</b> 0.80 | [red]\\x1b[31m.") >= 4
    shown = dict(texts(said))
    sections = {part.partition("\n")[0]: part for part in shown["report.md"].split("\n## ")}
    for heading in ("At the last checkpoint, sampled at temperature 1", "Along training", "By slice of the prompts",
                    "Every two reward models"):  # fmt: skip
        assert f"{RATE}: a rule, not exact: \\<b\\>precision" in sections[heading]
    assert "a rule" not in sections["Diagnostics of the reward models"]
    page = shown["report.html"]
    assert "<b>precision" not in page
    assert "\x1b" not in page
    for place in (r'<p class="note">', rf"<figcaption>{RATE} by PPO iteration <span class=\"interval\">"):
        assert re.search(place + rf"(?:{RATE}: )?a rule, not exact: &lt;b&gt;", page)


def test_a_judge_may_be_exact_on_one_task_alone(tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:1], (1,), 4, task="world"))
    make(tmp_path, Stored(NAMES[:1], (1,), 4, task="people", kind="real"))
    for path in tmp_path.glob("verdicts/winrate-people-*/measures.json"):
        store.write_json(path, [{**row, "reliability": "a rule"} for row in store.read_json(path)])
    cells, _ = find_cells([tmp_path])
    (column,) = [c for c in measures.of_report(build.build(cells, [], Estimator(), "")) if c.judge == "winrate"]
    assert column.reliability == "on people: a rule"


def test_a_lower_number_can_be_the_better_one(made: tuple[dict[str, Any], dict[str, str]]) -> None:
    from rlhf_bench.reports import answer

    report, _ = made
    column = next(c for c in measures.of_report(report) if c.title == WIN)
    low = {"value": 0.2, "low": 0.1, "high": 0.3}
    assert answer.side(low, column) == "worse"
    assert answer.side(low, replace(column, better="lower")) == "better"
    first = answer.outcomes(report, "dialogsum", column)[0]
    last = answer.outcomes(report, "dialogsum", replace(column, better="lower"))[-1]
    assert first.arm["arm"] == last.arm["arm"]


DECLARED = {
    "utility": [*UtilityChange().measures, *UtilityChange("rouge-l").measures],
    "winrate": WinRate().measures,
    "length": Length().measures,
    "empty": Empty().measures,
    "refusal": Refusal().measures,
    "refusal-phrases": RefusalPhrases().measures,
    "stance": Stance().measures,
    "winrate-llm": [
        *WinRateLLM("m", rubric="summary").measures,
        *WinRateLLM("m", rubric="safety").measures,
        *WinRateLLM("m", rubric="refusal").measures,
    ],
}


def test_results_of_older_versions_are_shown_as_the_judges_declare_now() -> None:
    """measures.json held neither titles nor places; the package's own measures are known by their names."""
    for judge, declared in DECLARED.items():
        for measure in declared:
            known = measures.KNOWN[judge, measure.name]
            assert replace(measure, description="", reliability="") == known
            old = {name: getattr(measure, name) for name in ("name", "kind", "description", "before", "limit")}
            (now,) = measures.complete({(judge, measure.name): asdict(replace(measure, reliability=""))})
            assert measures.complete({(judge, measure.name): old}) == [now]
    others = {("winrate-rm", "win_rate"), *(("run", name) for name in ("kl", "reward", "entropy")), measures.CEILING}
    others |= {("fluency", name) for name in ("log_perplexity", "log_perplexity_sft", "repetition")}
    others |= {(measures.CONTROL, f"{worth}_difference") for worth in ("gold", "score")}
    assert set(measures.KNOWN) == {(judge, m.name) for judge, found in DECLARED.items() for m in found} | others
