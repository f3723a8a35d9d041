"""The tables of what reward models pay before anything is optimised: their figures, and the texts they pay most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.results.table import Cell, Table
from rlhf_bench.harness.stages.judge import FLUENCY
from rlhf_bench.reports.measures import Report, mean, pick

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

LONGEST = 240
"""Characters of a text in a table; the rest is cut off."""


def measured(report: Report) -> Iterator[tuple[Row, str, Sequence[Row]]]:
    """(arm, label, what was measured before optimisation by seed) of every proxy, and of every gold model once."""
    known = []
    for arm in report["arms"]:
        yield arm, arm["label"], arm["before"]
        gold = (arm["task"], arm.get("gold_before"))
        # all arms of a run have one gold model
        if gold[1] and gold not in known:
            known.append(gold)
            yield arm, f"gold model {arm.get('gold', {}).get('name', '')}".strip(), gold[1]


def sanity(report: Report) -> Table:
    """The figures of each reward model among several samples of the SFT policy to one prompt; means over seeds."""
    rows = []
    for arm, label, before in measured(report):
        samples = [one.get("sanity", {}) for one in before]
        untrained = [one.get("untrained", {}) for one in before]
        means = (
            mean([one.get("within_prompt_sd") for one in samples]),
            mean([one.get("within_prompt_correlation_with_length") for one in samples]),
            mean([one.get("correlation") for one in untrained]),
            mean([one.get("share") for one in untrained]),
            perplexity(report, arm["arm"]),
        )
        rows.append((arm["task"], label, *map(Cell, means)))
    columns = (
        "task", "reward model", "standard deviation", "correlation with length", "correlation with its untrained self",
        "share of the untrained self", "log-perplexity of SFT",
    )  # fmt: skip
    note = (
        "All within prompts, means over seeds. The first two are among samples of the SFT policy to one prompt, before "
        "anything is optimised: the standard deviation of the reward, and its correlation with the length in tokens. "
        "The last two are of models that began with a random head, between the responses of training pairs: a model "
        "that agrees with what it was before its first step, and takes much of its variance from it, has learned "
        "little, and two such models of one seed confirm each other. Log-perplexity of SFT: of the SFT policy's "
        "responses to the held-out prompts under the base policy (of `tiny` under itself), in nats per token; a policy "
        "far above it writes what no language model would."
    )
    return Table("Rewards before optimisation, within prompts", columns, rows, note)


def perplexity(report: Report, arm: str) -> float | None:
    """The mean log-perplexity of the baseline's responses, from the measures of the stage `fluency`; None without."""
    for name in ("log_perplexity", "log_perplexity_sft"):
        after, change = (pick(report, arm, (FLUENCY, key)) for key in (name, f"{name}_change"))
        if after and change and after["value"] is not None and change["value"] is not None:
            return float(after["value"] - change["value"])
    return None


def most_rewarded(report: Report) -> Table:
    """The samples of the SFT policy that each reward model pays most, under the lowest seed."""
    rows = []
    for arm, label, before in measured(report):
        for one in (before[0].get("sanity", {}) if before else {}).get("most_rewarded", ()):
            figures = (Cell(one["reward"]), Cell(one["tokens"], format="count"))
            rows.append((arm["task"], label, *figures, cut(one["prompt"]), cut(one["response"])))
    columns = ("task", "reward model", "reward", "tokens", "prompt", "response")
    note = (
        "Of all samples on which the reward's scale is measured, lowest seed, unscaled; not chosen by anybody. Read "
        "them: an optimised policy writes more of what is here."
    )
    return Table("Samples of the SFT policy with the highest reward", columns, rows, note)


def cut(text: str) -> str:
    """A text in one cell, at most LONGEST characters; "(empty)" for one that would show nothing."""
    shown = " ".join(text.split())
    return (shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…") or "(empty)"
