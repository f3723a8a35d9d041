"""docs/performance.md from benchmarks/results.json.  Whether a target is met is read off the figures, never written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from peer_model import Sizes
from perf_flop import step_flop
from perf_page_real import section

Results = Mapping[str, Any]

STEP = Sizes()
INTRO = """# Performance

Written by `make bench` (`benchmarks/performance.py`): every figure is of one run on one machine, engines took
turns step by step, ratios are medians over pairs. Do not edit; run it again.
"""
PPO = """
## PPO against TRL 1.12

GPT-2 of {layers} layers x {width}, vocabulary {vocabulary}, prompts of {prompt} tokens, {batch} responses,
{minibatches} optimiser steps, one epoch, a scalar reward model and a critic of the policy's size, random
weights. Equal: 32 tokens each. Varying: prompts of 16 to 64 tokens, responses of at most 128 that end by chance
(mean about 47). Strongest: TRL without its two garbage collections a step and with the fused activation that
ours has. `own, bfloat16` computes layers in it; a critic on the policy's trunk is another algorithm
(`ppo.critic=trunk`); the fastest has both.
"""
WHY = """
Where the advantage comes from. Passes: rows of different length are packed (no padding, attention row by row),
logits and the last layer's feed-forward part are computed at response positions alone. Decoding: prompts are
packed, keys and values are contiguous, weights are packed once per rollout in oneDNN's format (with bias and
activation fused into the product), rows that ended leave the batch, a draw needs one pass of exponentials,
no gradients are recorded. The rest: Adam is fused, nothing is collected or synchronised
between steps, the C library keeps freed memory. On two threads the policy and a critic of its own learn at
once, rewards are computed beside reference and values, and each thread samples half of the responses
(under bfloat16 they learn one after the other, because autocast has one cache for all threads). Each equals the
plain computation (tests/forward/test_packing.py and test_passes.py, tests/sampling/test_decoding.py and
test_rollout.py, tests/ppo/test_memory_of_ppo.py and test_at_once.py).
"""
FLOOR = """
## Share of the floor

The floor is the time of a phase's necessary operations (counted in `benchmarks/perf_flop.py`: 2 per weight and
token, attention up to the diagonal, backward twice forward) at the speed of this machine's float32 matrix
products in the same shapes, measured in the same run: {one:.0f} and {two:.0f} GFLOP/s on one and two threads.
"""
BETWEEN = """
What stands between: decoding multiplies {batch} rows at a time by weights that have to be read for every token,
reads all keys and values for every token, and its calls into torch are small; activation, norms, softmax and
attention run at memory's speed, not the multiplier's; the activations of an update take several megabytes,
which leave the cache between forward and backward. The fastest mode has one model to train: two threads then
share every small operation, and sleep between them (spinning for about a microsecond gained 10% there, 3%
elsewhere; not built in, as it needs the OpenMP library by name). Tried: micro-batches of 2 to 32 rows (no
difference above the noise); oneDNN for the products of training, too (7% faster at a length it has met, slower
at a new one, for which it writes code: 0.2 to 0.5 ms); torch's flash attention and batched products for single
tokens (both limited by memory: keys and values in one piece gave what there was); compiling the decoding step
(over a minute on a CPU, no gain found; removed since).
"""
LEFT_OF_GENERATION = """
What stands between: reading the prompts is the same matrix product for both; after it a step of {batch} rows reads all
weights and all keys and values, which no longer fit the processor's cache together, and calls some hundred small
operations of transformers' layers (about 1 ms a step). The share of the floor that sampling reaches is in the table
above. On two threads each writes half of the rows, and the half that ends first leaves the other alone.
"""
BEFORE = """
`before` is what the last `make bench` before this one wrote: another run, so that only large differences mean anything.
"""
NOT_DONE = """
## Not measured, not done

No GPU was at hand: nothing here says how fast anything is on one. `benchmarks/gpu.sh` measures there in one
call, vLLM (`ppo.engine=vllm`) included; it is off by default until it has been measured.
`bench check engine` compares its samples with those of our own loop. A response that repeats in a
rollout is scored once. One that an earlier rollout had is scored again, because a resumed run must repeat an
undisturbed one to the bit and scores are no part of its state: that was 13% of the default run's rollout rows
of `dialogsum` (seq2seq-token), 49% of `saferlhf` (scalar), one seed each.
"""


def page(results: Results) -> str:
    parts = [INTRO, _machine(results), _ppo(results), _floor(results), _generation(results), _scoring(results)]
    return "".join(
        [
            *(*parts, _growth(results), section(results.get("real"), table), _cells(results), _learning(results)),
            *(_suite(results), _report(results), NOT_DONE),
        ]
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join("| " + " | ".join(_cell(x) for x in line) + " |" for line in lines) + "\n"


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value)


def target(name: str, value: float | None, bound: float, at_most: bool = False) -> tuple[object, ...]:
    if value is None:
        return (name, "not run", f"{'at most' if at_most else 'at least'} {bound:.3g}", "not run")
    met = value <= bound if at_most else value >= bound
    return (name, value, f"{'at most' if at_most else 'at least'} {bound:.3g}", "reached" if met else "**not reached**")


TARGETS = ("figure", "measured", "target", "")


def _machine(results: Results) -> str:
    m = results["machine"]
    later = results.get("renewed")
    renewed = f"\nMeasured again on {later['date']}, the others not: {', '.join(later['parts'])}.\n" if later else ""
    quick = " This was a quick run: one round, for trying the script." if results["quick"] else ""
    return (
        f"\n{m['processor']}, {m['cores']} cores, torch {m['torch']}, transformers {m['transformers']}, Python "
        f"{m['python']}; load of the machine when it began: {m['load_before']:.1f} (0 is idle; above 1 its figures are "
        f"disturbed). It took {results['minutes']:.0f} minutes.{quick}\n{renewed}"
    )


def _ppo(results: Results) -> str:
    races = results["ppo"]
    rivals = [name for name in ("TRL", "TRL, strongest", "before") if name in races["equal, 1"]]
    rows = [
        (name, where, figures["samples_per_second"], *(figures.get(f"times {rival}") for rival in rivals))
        for where, race in races.items()
        for name, figures in race.items()
    ]
    text = PPO.format(**vars(STEP)) + table(
        ("engine", "lengths, threads", "samples/s", *(f"x {r}" for r in rivals)), rows
    )
    goals = []
    for threads in (1, 2):
        for kind, bound in (("equal", 1.2), ("varying", 2.0)):
            speed = races[f"{kind}, {threads}"]["own"].get("times TRL, strongest")
            goals.append(target(f"own over TRL's strongest, {kind} lengths, {threads} threads", speed, bound))
        fastest = races[f"equal, {threads}"]["own, fastest"].get("times TRL, strongest")
        goals.append(target(f"fastest over TRL's strongest, equal lengths, {threads} threads", fastest, 2.0))
    missing = "" if "TRL" in rivals else "\nTRL was not run: no `--trl PYTHON` was given.\n"
    before = f"\n`before` is commit {results['before']}.\n" if results["before"] else ""
    return text + table(TARGETS, goals) + missing + before + WHY


def floor_shares(results: Results, threads: int) -> dict[str, tuple[float, float]]:
    """Seconds and share of the floor of every phase, and of the whole step, at equal lengths."""
    phases = results["ppo"][f"equal, {threads}"]["own"]["phases"]
    speed, flop = results["gemm"][str(threads)], step_flop(STEP)
    shares = {name: (phases[name], count / speed / phases[name]) for name, count in flop.items()}
    whole = sum(phases.values())
    return {**shares, "whole step": (whole, sum(flop.values()) / speed / whole)}


def _floor(results: Results) -> str:
    one, two = floor_shares(results, 1), floor_shares(results, 2)
    rows = [(name, *one[name], *two[name]) for name in one]
    gemm = results["gemm"]
    text = FLOOR.format(one=gemm["1"] / 1e9, two=gemm["2"] / 1e9)
    text += table(("phase", "s, 1 thread", "share", "s, 2 threads", "share"), rows)
    goals = [target(f"share of the floor, {n} threads", s["whole step"][1], 0.75) for n, s in ((1, one), (2, two))]
    return text + table(TARGETS, goals) + BETWEEN.format(**vars(STEP))


def _generation(results: Results) -> str:
    found = results["generation"]
    rows = [(where, f["own"], f["generate"], f["ratio"]) for where, f in found.items()]
    goals = [
        target(f"over generate, {where} threads", f["ratio"], 1.5 if where.startswith("equal") else 2.5)
        for where, f in found.items()
    ]
    head = ("lengths, threads", "own, tokens/s", "HF generate, tokens/s", "ratio")
    return (
        "\n## Generation\n\nUseful tokens: up to the end of each response.\n"
        + table(head, rows)
        + table(TARGETS, goals)
        + LEFT_OF_GENERATION.format(**vars(STEP))
    )


def _scoring(results: Results) -> str:
    found = results["scoring"]
    head = ("batch", "scalar, s", "seq2seq-token, s", "generate, s", "x scalar", "x scalar in operations", "generate x")
    keys = ("scalar", "seq2seq", "generate", "over scalar", "flop over scalar", "generate over seq2seq")
    rows = [(batch, *(f[key] for key in keys)) for batch, f in found.items()]
    goals = []
    for batch, bound in (("1", 8.0), ("32", 1.8)):
        f = found[batch]
        name = f"seq2seq over scalar, by the ratio of operations, batch {batch}"
        goals.append(target(name, f["over scalar"] / f["flop over scalar"], 1.15, at_most=True))
        goals.append(target(f"generate over seq2seq, batch {batch}", f["generate over seq2seq"], bound))
    intro = "\n## Scoring\n\nPrompts of 64 and responses of 64 tokens; `generate` writes as many with Hugging Face's.\n"
    return intro + table(head, rows) + table(TARGETS, goals)


def _growth(results: Results) -> str:
    text = "\n## Growth\n\nOne PPO step of a GPT-2 of 2 x 128 (vocabulary 2000, prompt 32, response 32, batch 16), one "
    text += "factor varied at a time. Exponents of a power law over the range shown; peak memory is the most that an "
    text += "update held beyond weights and data.\n"
    for factor, found in results["growth"].items():
        rows = [(r[factor], r["parameters"] / 1e6, r["seconds"], r["peak_bytes"] / 2**20) for r in found["rows"]]
        text += table((factor, "M parameters", "s a step", "peak MiB"), rows)
        text += f"\nExponent in {factor}: time {found['seconds']:.2f}, peak memory {found['peak_bytes']:.2f}.\n"
    return text


def _cells(results: Results) -> str:
    cell, jobs = results["default_cell"], results["jobs"]
    stages = sorted(cell["stages"].items(), key=lambda item: -item[1])
    before = _earlier(results, "default_cell")
    old = before.get("stages", {})
    rows = [(name, old.get(name), seconds, f"{100 * seconds / cell['whole']:.0f}%") for name, seconds in stages]
    inside = [
        (name, before.get("ppo", {}).get(name), seconds)
        for name, seconds in sorted(cell["ppo"].items(), key=lambda item: -item[1])
    ]
    rest = cell["whole"] - sum(cell["stages"].values())
    text = (
        f"\n## The default cell\n\n`bench run --task dialogsum --rm seq2seq-token --jobs 1`: {cell['whole']:.0f} s.\n"
    )
    text += table(
        ("stage", "s before", "s", "share"),
        [
            *rows,
            (
                "start, planning, report",
                before["whole"] - sum(old.values()) if before else None,
                rest,
                f"{100 * rest / cell['whole']:.0f}%",
            ),
            ("whole", before.get("whole"), cell["whole"], "100%"),
        ],
    )
    text += table(("within PPO", "s before", "s"), inside)
    text += BEFORE if before else ""
    text += "\nRewards under `PPO: rewards` include those that the scale stage and evaluations ask for.\n"
    text += "\n## Side by side\n\nFour small cells of different seeds, one thread each.\n"
    text += table(("jobs", "cells a minute"), jobs.items())
    text += f"\nTwo jobs do {jobs['2'] / jobs['1']:.2f} times the work of one. `bench --help` takes "
    return text + f"{results['help_seconds']:.2f} s.\n"


def _learning(results: Results) -> str:
    found = results.get("learning")
    text = "\n## Learning speed\n\n"
    if not found:
        return text + "Not run.\n"
    text += (
        "The arm `gold` on `dialogsum`, seed 50, one thread: the share of the range that the SFT policy leaves "
        "(sampled gold up to 1) that PPO has won, and processor seconds of PPO without evaluations. "
        "*Before* are PPO's defaults up to commit ba5e3c2 on the same world and code.\n"
    )
    head = ("settings", "share won", "core seconds", "share per core-minute", "the same up to half the range")
    text += table(
        head,
        [(name, *(found[name][key] for key in ("share", "seconds", "whole", "to_half"))) for name in ("now", "before")],
    )
    now, old = found["now"]["to_half"], found["before"]["to_half"]
    # settings that never win half have no such speed: their whole run stands for it
    ratio = now / (old or found["before"]["whole"]) if now else None
    return text + table(TARGETS, [target("learning speed up to half the range, now over before", ratio, 3)])


def _earlier(results: Results, name: str) -> Mapping[str, Any]:
    """What the results before these had under a name; {} for nothing."""
    found: Mapping[str, Any] = results.get("earlier", {}).get(name) or {}
    return found


def _suite(results: Results) -> str:
    """Where the headline experiment's time went, from what its stages recorded."""
    suite, before = results.get("suite"), _earlier(results, "suite")
    if not suite:
        said = "\n## The headline suite\n\nNot measured in this run (`--suite FOLDER`).\n"
        return said + (_suite_table(before, {}) if before else "")
    text = f"\n## The headline suite\n\n`bench experiment {suite['experiment']}`: {suite['cells']} cells. Sums over "
    text += "stages, each counted once; wall minutes are those of stages that may have run side by side.\n"
    if suite["lacking"]:
        text += f"\n{suite['lacking']} of its stages are not finished: these sums are not the whole.\n"
    return text + _suite_table(suite, before)


def _suite_table(suite: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    keys = ("jobs", "wall_minutes", "core_minutes")
    total = {key: sum(own[key] for own in suite["stages"].values()) for key in keys}
    old = {kind: own["core_minutes"] for kind, own in before.get("stages", {}).items()}
    rows: list[tuple[object, ...]] = [
        (kind, *(own[key] for key in keys), f"{100 * own['core_minutes'] / total['core_minutes']:.0f}%", old.get(kind))
        for kind, own in suite["stages"].items()
    ]
    rows.append(("all", *total.values(), "100%", sum(old.values()) if old else None))
    return table(("stage", "jobs", "wall minutes", "core minutes", "share", "core minutes before"), rows)


def _report(results: Results) -> str:
    """Seconds of `bench report` by the number of cells."""
    found, before = results.get("report"), _earlier(results, "report").get("seconds", {})
    if not found:
        return ""
    text = f"\n## Reports\n\n`bench report` over cells of {found['prompts']} prompts, {found['seeds']} seeds a reward "
    text += "model, start-up included.\n"
    if "cells" not in found:  # of a version without a cache
        rows = [(cells, before.get(cells), seconds) for cells, seconds in found["seconds"].items()]
        return text + table(("cells", "s before", "s"), rows)
    text += (
        "Seconds of the processor: the first time (results from elsewhere), the first time where `bench run` made and\n"
        "reported the cells, and again with what that kept (`--no-cache` keeps nothing).\n"
    )
    if any("before first" in one for one in found["cells"].values()):
        text += "Before: an earlier version on the same cells, in turns with this one.\n"
    old = _earlier(results, "report").get("cells", {})
    kinds = ("first", "run here", "again")
    columns = (
        "cells",
        *(f"s {kind}{when}" for kind in kinds for when in (" before", "")),
        *(f"MiB {kind}" for kind in kinds),
        "page, MiB",
    )

    def earlier(cells: str, kind: str) -> float | None:
        """Of the version that took turns with this one, else of the results before these."""
        one = found["cells"][cells].get(f"before {kind}") or old.get(cells, {}).get(kind, {})
        return one.get("seconds", before.get(cells) if kind == "first" else None)

    figures: list[tuple[object, ...]] = [
        (
            cells,
            *(get for kind in kinds for get in (earlier(cells, kind), one.get(kind, {}).get("seconds"))),
            *(one.get(kind, {}).get("mib") for kind in kinds),
            one["page_mib"],
        )
        for cells, one in found["cells"].items()
    ]
    return text + table(columns, figures)
