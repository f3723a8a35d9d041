"""One report from the folders of finished cells: a dictionary that is written as JSON and shown in other forms.

An arm is a reward model with its settings on a task; a cell is an arm's run with one training seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import cache, fingerprint, store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Estimate
from rlhf_bench.harness.plan.origins import NOT_SAID, NOT_STATED, is_stated
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.arms import Arm, CellFiles, arms_of
from rlhf_bench.harness.results.ceiling import GOLD, ceiling_estimates
from rlhf_bench.harness.results.entropy_matched import entropy_matched_estimates, is_control, temperatures_of
from rlhf_bench.harness.results.estimates import Estimator, row_of
from rlhf_bench.harness.results.one_thread import one_thread
from rlhf_bench.harness.results.stored import stored_rows
from rlhf_bench.harness.results.table import stored
from rlhf_bench.harness.seeds import shown
from rlhf_bench.reports.cautions import collapses, of_baselines, warnings
from rlhf_bench.reports.cell_records import before_of, has_parts, has_rewards, optimizer_of, parts_of, stage_record
from rlhf_bench.reports.comparison import comparison
from rlhf_bench.reports.comparison import tables as comparison_tables
from rlhf_bench.reports.descriptions import WITHOUT_REWARD
from rlhf_bench.reports.descriptions import described as described_arm
from rlhf_bench.reports.gold import gold_of
from rlhf_bench.reports.kl_matched import kl_matched
from rlhf_bench.reports.labels import labels_of
from rlhf_bench.reports.layers import layer_rows
from rlhf_bench.reports.measures import described
from rlhf_bench.reports.setups import sampling_of, setup_of

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import JsonObject

SCHEMA = "rlhf-bench/report"
SCHEMA_VERSION = 1
SAMPLES = 5
"""Prompts whose responses are shown in report.md."""
SHOWN_WITH = (".html", ".css", ".js")
"""Files that the page is made with, beside code."""

MESSAGES = "rlhf_bench.harness.errors"
NOT_REPORTING = tuple(
    f"rlhf_bench.{name}"
    for name in (
        *("harness.errors", "harness.forward", "harness.models", "harness.sampling", "harness.training", "harness.ppo"),
        *("harness.pipeline", "harness.stages", "harness.plan", "harness.checks", "harness.cli", "tasks"),
        *("reports.files", "reports.ledger"),
    )
)
"""Code that computes no number of a report: stages (their keys are in the records), plans, messages, pages."""


def build(cells: Sequence[CellFiles], missing: Sequence[str], estimator: Estimator, command: str) -> JsonObject:
    """The report of `cells`: estimates, arms, data, warnings, samples and manifest, as schema.json describes it.

    `missing`: sentences about cells that are not in it, which become warnings.  `command` is for the manifest.  Raises
    BenchError for a judge whose settings differ between the seeds of an arm, and for a file that cannot be read.
    """
    arms = arms_of(cells)
    labels = labels_of(arms)
    # stored verdicts are read again here: pairs need rows that several arms share
    compared = comparison(arms, labels, estimator)
    estimates = [
        *(one for arm in arms for one in estimator.arm(arm)),
        *of_several(arms, estimator),
    ]
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "key": report_key(cells, missing, estimator),
        "data": origins(cells),
        "arms": [describe(arm, labels[arm.key]) for arm in arms],
        "estimates": list(map(row_of, estimates)),
        "measures": [asdict(column) for column in described(arms)],
        "comparison": compared,
        "comparisons": [stored(table) for table in comparison_tables(compared)],
        "kl_matched": kl_matched(arms, labels, estimator),
        # absent without layers, as in every report before there were any
        **({"layers": layered} if (layered := list(layer_rows(arms, labels))) else {}),
        "warnings": [
            *missing,
            *collapses(estimates, labels),
            *of_baselines(arms),
            *[w for arm in arms for w in warnings(arm, labels[arm.key])],
        ],
        "samples": [sample for task in sorted({arm.task for arm in arms}) for sample in samples(task, arms, labels)],
        "manifest": manifest(cells, command),
    }


def of_several(arms: Sequence[Arm], estimator: Estimator) -> list[Estimate]:
    """Estimates of arms that need other arms: shares of a ceiling, and values at equal entropy."""
    judges = sorted({judge for arm in arms for cell in arm.cells for judge in cell.judged()})
    # an arm whose judges are others is of unknown content here, and nothing is kept
    known = [arm.depends(*judges) if all(set(judges) <= {*c.judged()} for c in arm.cells) else "" for arm in arms]
    kept = cache.group("estimates of several arms", estimator.depends(), *known)
    rows = kept.get(
        "rows",
        lambda: [row_of(e) for made in (ceiling_estimates, entropy_matched_estimates) for e in made(arms, estimator)],
    )
    return [Estimate(**{**row, "seeds": tuple(row["seeds"])}) for row in rows]


def report_key(cells: Sequence[CellFiles], missing: Sequence[str], estimator: Estimator) -> str:
    """Hash of everything that a report's files depend on; a report with an equal key need not be written again.

    The command is not in it, because it changes no number.
    """
    # descriptions are docstrings of plugins, which no other key holds
    said = sorted({description_of(cell) for cell in cells})
    return store.content_key([numbers_key(cells, missing, estimator), page_fingerprint(), said])


def page_fingerprint() -> str:
    """Hash of the code, template, script and style that numbers are shown with.

    Apart from `numbers_key`, so that an experiment's stored numbers (`experiments.build_experiment`) outlive a change
    of style.
    """
    here = files("rlhf_bench.reports")
    names = sorted(file.name for file in here.iterdir() if file.is_file() and file.name.endswith(SHOWN_WITH))
    code = code_hash("rlhf_bench.reports.files", (MESSAGES,))
    return store.content_key([code, [here.joinpath(name).read_text(encoding="utf-8") for name in names]])


def numbers_key(cells: Sequence[CellFiles], missing: Sequence[str], estimator: Estimator) -> str:
    """Hash of everything that a report's numbers are computed from: the cells' records, the content of their stages,
    how intervals are made, and the code."""
    # a key alone does not name a content: verdicts that were judged again change under it, and so does a damaged file
    rows = sorted(store.canonical([cell.record, cell.content]) for cell in cells)
    code = code_hash(__name__, NOT_REPORTING)
    return store.content_key([rows, list(missing), asdict(estimator), code])


def code_hash(module: str, without: Sequence[str]) -> str:
    """`fingerprint.of`, which takes a second: kept for as long as the package's files are the same (cache.py)."""
    return cache.group("code").get([module, *without], lambda: fingerprint.of(module, without=without))


def origins(cells: Sequence[CellFiles]) -> list[JsonObject]:
    """Where the data come from, once per task and source.

    For a policy that was trained on another task than the one it is evaluated on, also where its training data do.
    Data that data seeds draw are named once, those of the first.
    """
    drawn: dict[str, list[str]] = {}
    for cell in cells:
        own = drawn.setdefault(cell.record["task"], [])
        own += [cell.drawn] if cell.drawn and cell.drawn not in own else []
    named = []
    for cell in cells:
        task, origin = cell.record["task"], stated(cell.record["origin"])
        if cell.drawn and len(drawn[task]) > 1:
            if cell.drawn != drawn[task][0]:
                continue
            times = f"Drawn anew by {len(drawn[task])} data seeds; the hash is of the first."
            origin = {**origin, "description": f"{origin['description']} {times}"}
        named.append((task, origin))
    named += [
        (f"{c.record['home']} (training)", stated(c.record["home_origin"]))
        for c in cells
        if "home_origin" in c.record and c.record["home"] != c.record["task"]
    ]
    # cells of one task may have other data by their settings, which are then named apart
    found = {store.canonical([task, origin]): {"task": task, **origin} for task, origin in named}
    return [found[key] for key in sorted(found)]


def stated(origin: JsonObject) -> JsonObject:
    """A record's origin, of kind "not stated" where it does not say where the data come from."""
    if is_stated(origin):
        return origin
    return {**origin, "kind": NOT_STATED, "description": origin["description"].strip() or NOT_SAID}


def describe(arm: Arm, label: str) -> JsonObject:
    """An arm's label and seeds, what was measured before optimisation (`before_of` of every seed) and at its end.

    `training`: per seed the means over the last tenth of PPO's iterations; [] for other optimisers.  `before`: [] for a
    control without a reward model; `setup`: policy, adapters, precision, template, preset and learning rates;
    `temperatures`: of the tempered SFT policy, by iteration, else left out; `sampling`: temperature and top-p of the
    sampled evaluations, left out where both are 1; `cut_off`: what judges make of responses that are cut off, where
    they do not keep them.  `counts`, `sft` and `prompts`: the figures of these stages under the lowest seed.
    """
    first = arm.cells[0]
    training = []
    for cell in (cell for cell in arm.cells if "ppo" in cell.record["stages"]):
        steps = stored_rows(cell.folder("ppo") / "steps.jsonl")
        tail = steps[-max(1, len(steps) // 10) :]  # the last tenth: one iteration is noisy
        names = ("explained_variance", "clip_share", "kl")
        training.append({name: sum(row[name] for row in tail) / len(tail) for name in names})
    return {
        "task": arm.task,
        "reward_model": arm.reward_model,
        "arm": arm.key,
        "label": label,
        "policy": first.record["policy"],
        "setup": setup_of(first),
        "optimizer": optimizer_of(first),
        "description": description_of(first),
        "cpu_seconds": processor_seconds(arm),
        "seeds": list(arm.shown),
        "differing": first.record["differing"],
        "before": [before_of(cell) for cell in arm.cells if has_rewards(cell)],
        **({"gold": by} if (by := gold_of(arm)) else {}),
        **({"gold_before": gold} if (gold := gold_before(arm)) else {}),
        "training": training,
        **({"parts": parts} if (parts := [parts_of(cell) for cell in arm.cells if has_parts(cell)]) else {}),
        "counts": stage_record(first, "pairs")["figures"],
        "sft": stage_record(first, "sft")["figures"],
        "prompts": stage_record(first, "prompts")["figures"],
        **({"temperatures": temperatures_of(first)} if is_control(arm) else {}),
        **({"sampling": sampled} if (sampled := sampling_of(first)) else {}),
        **({"cut_off": ruled} if (ruled := first.record.get("cut_off")) else {}),
    }


def description_of(cell: CellFiles) -> str:
    """What a cell's arm is, in one line."""
    name, by = cell.record["reward_model"], cell.record.get("gold")
    if by and name == GOLD and optimizer_of(cell) not in WITHOUT_REWARD:
        return f"Control: the score of the gold model {by['name']} as the reward."
    return described_arm(name, optimizer_of(cell))


def gold_before(arm: Arm) -> list[JsonObject]:
    """The same as `before` of the gold model that the arm's runs trained, by seed; [] without one."""
    return [before_of(cell, "gold_scale") for cell in arm.cells if "gold_scale" in cell.record["stages"]]


def processor_seconds(arm: Arm) -> dict[str, float] | None:
    """The processor time of a run by kind of stage, stages included that other arms share; means over the arm's runs.

    None where a stage did not record it.
    """
    found: Counter[str] = Counter()
    for cell in arm.cells:
        # several roles may name one stage: PPO writes the generations, too
        for kind, seconds in {
            cell.folder(role): (cell.record["stages"][role][0], stage_record(cell, role).get("cpu_seconds"))
            for role in cell.record["stages"]
        }.values():
            if seconds is None:
                return None
            found[kind] += seconds
    return {kind: round(seconds / len(arm.cells), 3) for kind, seconds in sorted(found.items())}


def samples(task: str, arms: Sequence[Arm], labels: Mapping[str, str]) -> list[JsonObject]:
    """The first held-out prompts with the reference, the baseline's and every arm's final response (lowest seed).

    Always the first SAMPLES in the task's order: examples that are picked for a report show what the picker wants.
    """
    found: dict[tuple[str, str], JsonObject] = {}
    for arm in [a for a in arms if a.task == task]:
        cell = arm.cells[0]  # the lowest seed
        rows = stored_rows(cell.folder("prompts") / "examples.test.jsonl")
        examples = [row for row in rows if row.get("sample", 1) == 1][:SAMPLES]  # the first sample of a prompt
        kept = cache.group("responses", *cell.stage_parts())
        ids = [example["id"] for example in examples]
        before = kept.get(["before and ends", ids], partial(_responses, cell.folder("baseline"), ids, last=False))
        after = kept.get(["after and ends", ids], partial(_responses, cell.folder("generations"), ids, last=True))
        for example in examples:
            name, seed = example["id"], arm.shown[0]
            empty = {
                "task": task,
                "example_id": name,
                "prompt": example["prompt"],
                "reference": example.get("completion", ""),
                "responses": [],
            }
            # by the prompt too: an id of another data seed's data is another prompt
            responses = found.setdefault((name, example["prompt"]), empty)["responses"]
            if name not in after:  # `eval` may judge fewer prompts than are held out
                continue
            if not responses:  # the baseline once, though every arm has it
                responses.append({"arm": "SFT baseline", "seed": seed, **before[name]})
            responses.append({"arm": labels[arm.key], "seed": seed, **after[name]})
    return list(found.values())


def _responses(folder: Path, ids: Sequence[str], last: bool) -> dict[str, JsonObject]:
    """Sampled responses to these examples, at the last checkpoint or of the baseline (iteration 0).

    {"text", "cut_off"}, the second only where a response is cut off at the longest length.
    """
    written = columns.read(folder / "generations.jsonl", texts=True)
    group = written.groups.get(("sample", (written.last("sample") or 0) if last else 0))
    if group is None:
        return {}
    rows = zip(group.ids, group.texts, (group.column("finished") == 0).tolist(), strict=True)
    found = {name: {"text": text, **({"cut_off": True} if cut else {})} for name, text, cut in rows}
    return {example: found[example] for example in ids if example in found}


def manifest(cells: Sequence[CellFiles], command: str) -> JsonObject:
    """Versions, commit, command, seeds, machine, and the seconds of every stage.

    `seconds_total` counts a stage once, also where several cells share it: it is what computing all of them took.
    """
    stages = {}
    for cell in cells:
        for role in cell.record["stages"]:
            record = stage_record(cell, role)
            # with the key, so that stages of one label stay apart and shared ones fall together
            name = f"{record['kind']} {record['label']}-{record['key'][: store.KEY_LENGTH]}"
            kept = ("seconds", "cpu_seconds", "device", "versions", "machine", "figures")
            stages[name] = {key: record[key] for key in kept}
            if record.get("peak_memory_mb") is not None:
                stages[name]["peak_memory_mb"] = record["peak_memory_mb"]
    return {
        "command": command,
        "git_commit": git_commit(),
        "seeds": [shown(seed) for seed in sorted({cell.seed for cell in cells})],
        "stages": dict(sorted(stages.items())),
        "seconds_total": round(sum(s["seconds"] for s in stages.values()), 1),
    }


def git_commit() -> str:
    """The commit of the checkout that this package runs from, "" for one installed from a wheel.

    Also "" where git is missing, fails, or takes more than 5 seconds: a report is not worth failing for it.
    """
    import subprocess

    folder = Path(__file__).resolve().parent.parent
    # an installed package may lie inside another repository, whose commit says nothing about it
    if not (folder / ".git").exists():
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@one_thread
def write(report: JsonObject, out: Path, cells: Sequence[CellFiles] = ()) -> list[Path]:
    """report.html, report.md, report.json and tables/*.csv in `out`; raises BenchError when it cannot be written.

    `cells` are those the report was built from: the page shows their responses, and has none without them.
    """
    from rlhf_bench.reports.files import write_files

    try:
        out.mkdir(parents=True, exist_ok=True)
        return write_files(report, out, cells)
    except OSError as error:
        raise BenchError(f"Cannot write to {out}: {error.strerror}.", "Give another --out.") from None
