"""A report as Markdown.  Model text is never interpreted: it stands in fenced blocks, and table cells are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.plan.origins import kind_label
from rlhf_bench.harness.printable import printable_lines
from rlhf_bench.harness.results.table import Table, numeric, text
from rlhf_bench.harness.seeds import run_name
from rlhf_bench.reports.answer import of_claims, over_tasks, question, sentence, terms
from rlhf_bench.reports.measures import indexed, tasks
from rlhf_bench.reports.reasons import reasons
from rlhf_bench.reports.setups import sampling_text, setup_lines
from rlhf_bench.reports.tables import all_tables
from rlhf_bench.reports.verdicts import checks_table, claims_table, summary, texts_table

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

SPLITS = {"sft": "demonstrations", "train": "PPO prompts", "test": "held-out prompts"}
"""What the examples of a split are used for (`nouns.Split`)."""


def markdown(report: Row, absent: str = "") -> str:
    """The whole report as text: the content of report.md, which holds no responses but the samples.

    `absent`: a sentence on what was not written beside it, its last line.
    """
    return "\n".join([*lines(report), "", absent]).rstrip() + "\n"


def lines(report: Row) -> Iterator[str]:
    """The report line by line: data, warnings, tables, undecided cases, samples, and how it was made."""
    report = indexed(report)
    yield from (f"# {escape(question(report))}", "")
    yield from (escape(f"{'. '.join(words)}."), "") if (words := terms(report)) else ()
    yield from (escape(claimed), "") if (claimed := of_claims(report.get("claims", ()))) else ()
    yield from answers(report)
    for origin in report["data"]:
        yield f"**Data of {escape(origin['task'])}** ({escape(kind_label(origin))}): {escape(origin['description'])}"
        # sixteen digits tell versions apart; report.json has all of them
        yield f"License: {escape(origin['license'])}. Content sha256 `{origin['sha256'][:16]}`."
        yield from ("", *counts(origin["task"], report["arms"]), "")
    if report["warnings"]:
        yield from ("## Read this first", "", *(f"- {escape(w)}" for w in report["warnings"]), "")
    if report.get("claims"):
        yield from ("## What the claims come to", "", " ".join(summary(report["claims"])), "")
        yield from table_lines(claims_table(report["claims"]))
        checked = checks_table(report["claims"])
        yield from table_lines(checked) if checked.rows else ()
        yield from table_lines(texts_table(report["claims"]))
    for table in all_tables(report):
        yield from table_lines(table)
    yield from undecided(report)
    yield from samples(report)
    yield from made_by(report["manifest"])


def answers(report: Row) -> Iterator[str]:
    """The answer for each task, what was measured of the best arm, and what each arm is."""
    yield from (escape(several), "") if (several := over_tasks(report)) else ()
    for task in tasks(report):
        yield from (escape(sentence(report, task)), "")
        found = [f"- {escape(one.text)}" for one in reasons(report, task)]
        yield from (*found, "") if found else ()
    yield from (*(f"- {escape(line)}" for line in made), "") if (made := setup_lines(report["arms"])) else ()
    said = {arm["label"]: arm.get("description", "") for arm in report["arms"]}
    named = [f"- **{escape(label)}**: {escape(description)}" for label, description in said.items() if description]
    yield from (
        ("What was compared (an arm is a reward model with an optimiser and settings):", "", *named, "")
        if named
        else ()
    )


def counts(task: str, arms: Sequence[Row]) -> Iterator[str]:
    """How many of the task's examples and pairs were kept, and how many were not.

    From the figures of the stages sft, prompts and pairs, of the task's first arm and lowest seed.
    """
    arm = next((arm for arm in arms if arm["task"] == task), None)
    if arm is None:  # the policy was trained on these data, and evaluated on prompts of another task
        return
    # figures of both stages are named SPLIT_WHAT: demonstrations are read by sft, the other splits by prompts
    sft, pairs, found = arm["sft"], arm["counts"], {**arm["sft"], **arm["prompts"]}
    kept = ", ".join(f"{found[f'{s}_examples']} {name}" for s, name in SPLITS.items() if f"{s}_examples" in found)
    dropped = sum(found.get(f"{s}_{why}", 0) for s in SPLITS for why in ("dropped", "without_room"))
    yield f"Kept: {kept}, {pairs['train_pairs']} training pairs, {pairs['test_pairs']} test pairs. "
    if repeated := found.get("test_repeated", 0):
        yield f"Left out: {repeated} held-out prompts that stand in the data before. "
    yield (
        f"Dropped: {dropped} prompts too long, {pairs['train_too_long'] + pairs['test_too_long']} pairs too long, "
        f"{pairs['train_equal'] + pairs['test_equal']} pairs with equal responses; "
        f"{sft['clipped_demonstrations']} demonstrations cut to the longest response. "
        f"The chosen response is the longer one in {pairs['train_chosen_longer']:.0%} of the training pairs."
    )


def escape(value: object) -> str:
    """Text that Markdown shows unchanged, on one line, without control characters.

    "|" would end a table's cell, "<" and "&" begin HTML, "$" formulas and "~" struck text on GitHub.
    """
    shown = "".join(c if c.isprintable() else " " for c in str(value))
    return re.sub(r"([\\`*_{}\[\]<>|#~$&])", r"\\\1", shown)


def table_lines(table: Table, heading: str = "##") -> Iterator[str]:
    """A titled Markdown table, its columns of numbers aligned to the right, with its note below.

    `heading`: the marks of the title's level.
    """
    yield from (f"{heading} {escape(table.title)}", "")
    yield "| " + " | ".join(map(escape, table.columns)) + " |"
    yield "|" + "|".join("--:" if numeric(table, place) else "---" for place in range(len(table.columns))) + "|"
    for row in table.rows:
        yield "| " + " | ".join(escape(text(entry)) for entry in row) + " |"
    yield from ("", table.note, "") if table.note else ("",)
    yield from (escape(table.reliability), "") if table.reliability else ()


def undecided(report: Row) -> Iterator[str]:
    """Which measures have undecided cases, and why; once where several checkpoints say the same."""
    rows = [e for e in report["estimates"] if e["slice"] == "all" and "undecided:" in e["note"]]  # slices repeat it
    found = {(e["reward_model"], e["judge"], e["statistic"], e["note"]): e for e in rows}
    if found:
        yield from ("## Undecided", "")
        for e in found.values():
            yield f"- {escape(e['reward_model'])}, {escape(e['judge'])} {escape(e['statistic'])}: {escape(e['note'])}"
        yield ""


def samples(report: Row) -> Iterator[str]:
    """The first held-out prompts, and the response of every policy to them.

    Responses are what models wrote: they stand in fenced blocks (`fenced`), never as Markdown.
    """
    if report["samples"]:
        yield from (
            "## Samples",
            "",
            f"The first held-out prompts, sampled {sampling_text(report['arms'])}, lowest seed.",
            "",
        )
    for sample in report["samples"]:
        yield from (f"### {escape(sample['task'])} {escape(sample['example_id'])}", "")
        yield from fenced(sample["prompt"])
        if sample["reference"]:
            yield from ("Reference:", "", *fenced(sample["reference"]))
        for response in sample["responses"]:
            cut = " (cut off at the longest length)" if response.get("cut_off") else ""
            yield from (f"{escape(response['arm'])}, {run_name(response['seed'])}{cut}:", "", *fenced(response["text"]))


def fenced(content: str) -> Iterator[str]:
    """A code block that its content cannot close; control characters except line breaks are made visible.

    "(empty)" stands for text that would show nothing.
    """
    # a fence is closed by one of its own length or more (CommonMark 4.5)
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    shown = printable_lines(content)
    yield from (f"{fence}text", shown if shown.strip() else "(empty)", fence, "")


def made_by(manifest: Row) -> Iterator[str]:
    """The command, seeds, software and machines, and the time of every stage."""
    yield from ("## Made by", "", *fenced(manifest["command"]))
    versions = {f"{k} {v}" for stage in manifest["stages"].values() for k, v in stage["versions"].items()}
    machines = sorted({f"{stage['machine']}, {stage['device']}" for stage in manifest["stages"].values()})
    yield f"Seeds {', '.join(map(str, manifest['seeds']))}; {escape(', '.join(sorted(versions)))}; " + "; ".join(
        machines
    )
    if manifest["git_commit"]:
        yield f"Commit `{manifest['git_commit'][:12]}`."
    yield from ("", "| stage | seconds |", "|---|--:|")
    for name, stage in manifest["stages"].items():
        yield f"| {escape(name)} | {stage['seconds']:.1f} |"
