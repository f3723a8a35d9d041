"""What gold is in a report: the task's own rules, or a gold model, and how far that can be believed.

A gold model's errors are gold's errors, so its accuracy on held-out pairs and its agreement with each proxy stand
beside what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.results.table import Cell, Table
from rlhf_bench.harness.training.record import training_of
from rlhf_bench.reports.cell_records import stage_record
from rlhf_bench.reports.measures import Report, mean

if TYPE_CHECKING:
    from rlhf_bench.harness.results.arms import Arm, CellFiles
    from rlhf_bench.harness.text.types import JsonObject, Row

RULES = "the true utility of a response, which a synthetic task computes"
CHANGED = ("swapped", "swapped_share", "gold_ties", "gold_unscored")
"""Figures of the stage that relabels pairs."""


def gold_of(arm: Arm) -> JsonObject | None:
    """The gold model of an arm's runs: `name`, `relabel` and, by seed, `runs`; None without one.

    Of each run `pairs` (those that the gold model learned from, where the run trained it), `pair_accuracy` on the
    `test_pairs`, `labels` (what relabelling changed) and `proxy`, its agreement with the arm's reward model
    (agreement.json), each where it is known.
    """
    found = arm.cells[0].record.get("gold")
    if not found:
        return None
    return {"name": found["name"], "relabel": found["relabel"], "runs": [_run(cell) for cell in arm.cells]}


def _run(cell: CellFiles) -> JsonObject:
    stages: Mapping[str, object] = cell.record["stages"]
    figures = stage_record(cell, "gold_pairs")["figures"] if "gold_pairs" in stages else {}
    made: JsonObject = {"pair_accuracy": figures.get("pair_accuracy"), "test_pairs": figures.get("pairs", 0)}
    if "gold" in stages:
        made["pairs"] = training_of(cell.folder("gold")).get("pairs", {}).get("count", 0)
    changed = stage_record(cell, "pairs")["figures"]
    if "swapped_share" in changed:
        made["labels"] = {name: changed[name] for name in CHANGED if name in changed}
    if "gold_agreement" in stages:
        made["proxy"] = store.read_json(cell.folder("gold_agreement") / "agreement.json")
    return made


def gold_text(gold: Row) -> str:
    """A gold model in a phrase: its name, the number of pairs that it learned from, its accuracy."""
    said = [f"the score of the gold model {gold['name']}"]
    if counts := sorted({run["pairs"] for run in gold["runs"] if run.get("pairs")}):
        low, high = counts[0], counts[-1]
        said.append(f"trained on {low if low == high else f'{low} to {high}'} pairs that no proxy has")
    accuracy = mean([run["pair_accuracy"] for run in gold["runs"]])
    if accuracy is not None:
        said.append(f"held-out pair accuracy {accuracy:.2f}")
    if (swapped := mean([run.get("labels", {}).get("swapped_share") for run in gold["runs"]])) is not None:
        said.append(f"which swapped {swapped:.0%} of the proxies' pairs")
    return ", ".join(said)


def gold_words(report: Report) -> list[str]:
    """What gold is, in a phrase for every kind of it in the report; [] where nothing was measured by gold."""
    if not any(e["judge"] == "utility" and e["statistic"] == "gold" for e in report["estimates"]):
        return []
    found = {arm["gold"]["name"]: gold_text(arm["gold"]) for arm in report["arms"] if arm.get("gold")}
    rules = [RULES] if any(not arm.get("gold") for arm in report["arms"]) else []
    return [*found.values(), *rules]


def gold_models(report: Report) -> Table:
    """Each arm's gold model, and how far the arm's reward model agrees with it; means over seeds."""
    rows = []
    for arm in report["arms"]:
        gold = arm.get("gold")
        if not gold:
            continue
        runs = gold["runs"]
        proxies = [run.get("proxy", {}) for run in runs]
        means = (
            mean([run.get("pairs") for run in runs]),
            mean([run["pair_accuracy"] for run in runs]),
            mean([one.get("proxy_accuracy") for one in proxies]),
            mean([one.get("agreement") for one in proxies]),
            mean([one.get("correlation") for one in proxies]),
            mean([run.get("labels", {}).get("swapped_share") for run in runs]),
        )
        first = (arm["task"], arm["label"], gold["name"], Cell(means[0], format="count"))
        rows.append((*first, *map(Cell, means[1:])))
    columns = (
        "task", "reward model", "gold model", "pairs of gold", "gold's pair accuracy", "proxy's pair accuracy",
        "agreement on pairs", "correlation on SFT samples", "share of pairs swapped",
    )  # fmt: skip
    note = (
        "Means over seeds. Pair accuracy and agreement are on the held-out pairs with the labels of the data, a tie "
        "counts half; the correlation is between both scores of the SFT policy's responses to the held-out prompts. "
        "What the gold model gets wrong counts as gold: a gain in gold says as much as its accuracy does."
    )
    return Table("The gold model and the proxies", columns, rows, note)
