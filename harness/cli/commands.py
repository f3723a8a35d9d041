"""What the commands do.  Each returns its exit code: 0 fine, 3 something lacks or is undecided.  Errors are raised."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.cli.consoles import KINDS, complain, consoles
from rlhf_bench.harness.cli.report import report_cells
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.pipeline.machine import Machine, usable_cores
from rlhf_bench.harness.pipeline.trackers import check_trackers
from rlhf_bench.harness.presets import parse_assignments
from rlhf_bench.harness.printable import printable
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.table import Table
from rlhf_bench.harness.stages.judge import complaints
from rlhf_bench.reports import terminal

if TYPE_CHECKING:
    from rlhf_bench.harness.checks.findings import Finding
    from rlhf_bench.harness.pipeline.stage import Stage


def run(
    *,
    task: str,
    reward_models: Sequence[str],
    optimizers: Sequence[str],
    n: str | None,
    judges: Sequence[str],
    seeds: Sequence[int],
    policy: str,
    preset: str,
    data: str,
    prompts: Sequence[str],
    train_prompts: str,
    limit: int | None,
    out: Path,
    jobs: int | None,
    threads: int | None,
    device: str,
    track: Sequence[str],
    dry_run: bool,
    assignments: tuple[str, ...],
    quiet: bool,
) -> int:
    """bench run"""
    from rlhf_bench.harness.pipeline.execute import Outcome
    from rlhf_bench.harness.plan import request as runs
    from rlhf_bench.harness.presets import which_policy

    trackers = check_trackers(track)
    policy = which_policy(policy, preset)
    request = runs.Request(
        task,
        reward_models,
        seeds,
        policy,
        judges or runs.DEFAULT_JUDGES,
        parse_assignments(assignments),
        data,
        limit or 0,
        preset,
        prompts,
        train_prompts,
        optimizers,
        n,
    )
    made = runs.make_plan(request)
    root = store.Store(out)
    cores = usable_cores()
    threads = threads or (1 if policy == "tiny" else cores)
    stdout, stderr = consoles(quiet)
    if dry_run:
        show_plan(made.order, root, stdout)
        return show_memory(policy, made.settings, made.cells[0].home.max_response, device, stdout)
    if not all(stage.done(root) for stage in made.order):
        from rlhf_bench.harness.cli.progress import watching
        from rlhf_bench.harness.models.policies import pick_device

        device = pick_device(device)
        jobs = jobs or (cores // threads if device == "cpu" and policy == "tiny" else 1)
        with watching(stderr, quiet) as watch:
            outcome = runs.run(made, root, Machine(max(1, jobs), threads, device, watch, trackers))
    else:
        root.prepare()
        runs.record_cells(made, root)
        outcome = Outcome()
    cells = runs.finished(made, root)
    if cells:
        settings = made.settings.stats
        report_cells(cells, out / "report", Estimator(settings.level, settings.seed), stdout)
    runs.raise_first(outcome)
    judged = [stage for by_judge in made.judged.values() for stage in by_judge.values()]
    return 3 if complain(complaints(judged, root), f"To ask again: bench judge {out}, with the same settings.") else 0


def show_memory(policy: str, settings: Any, response: int, device: str, console: Any) -> int:
    """What PPO with a real policy needs, and whether it fits; the tiny one needs nothing worth a table."""
    if policy != "tiny":
        from rlhf_bench.harness.cli.memory import plan_rows
        from rlhf_bench.harness.models.policies import pick_device

        try:
            rows = plan_rows(policy, settings, response, pick_device(device))
        except BenchError as error:
            console.print(f"Memory and time: unknown. {printable(str(error))}", markup=False, soft_wrap=True)
            return 0
        terminal.show(console, Table("Memory and time of PPO", ("role", "what", "size"), rows))
    return 0


def show_plan(order: Sequence[Stage], root: store.Store, console: Any) -> int:
    """The stages of a plan, what is reused, and a time estimate."""
    from rlhf_bench.harness.plan import request as runs

    rows, total, unknown = [], 0.0, False
    for stage in order:
        done = stage.done(root)
        seconds = None if done else runs.rough_seconds(stage, root)
        unknown |= not done and seconds is None
        total += seconds or 0.0
        rows.append((stage.name, "reused" if done else "to make", "" if seconds is None else f"{seconds:.0f} s"))
    terminal.show(console, Table("Plan", ("stage", "state", "estimate"), rows))
    todo = sum(row[1] == "to make" for row in rows)
    rest = " and what cannot be estimated yet" if unknown else ""
    console.print(f"{todo} of {len(rows)} stages to make, about {total / 60:.1f} minutes of one core{rest}.")
    return 0


def score(rm: str, prompt: str, response: str, runs: Path, seed: int | None) -> int:
    """bench score"""
    from rlhf_bench.harness.cli.rejudge import score_text

    stdout, _ = consoles(False)
    spans, rewards = score_text(rm, _text(prompt), _text(response), runs, seed)
    terminal.show_tokens(stdout, _text(response), spans, rewards)
    return 0


def _text(argument: str) -> str:
    if not argument.startswith("@"):
        return argument
    try:
        return Path(argument[1:]).read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"Cannot read {argument[1:]}: {one_line(error)}.") from None


def listing(what: str) -> int:
    """bench list"""
    stdout, _ = consoles(False)
    if what in KINDS:
        rows = [(plugin.name, plugin.reference, plugin.distribution) for plugin in plugins.registered(KINDS[what])]
        terminal.show(stdout, Table(what, ("name", "reference", "package"), rows))
        return 0
    from rlhf_bench.harness import presets, settings

    if what == "experiments":
        from rlhf_bench.harness.plan import experiments

        rows = [(e.name, e.seeds, e.question) for e in experiments.load().values()]
        terminal.show(stdout, Table("experiments", ("name", "seeds", "question"), rows))
        return 0
    if what == "presets":
        rows = [
            (preset, f"{group}.{key}", str(value))
            for preset, groups in presets.load_presets().items()
            for group, values in (groups or {"(defaults)": {"": ""}}).items()
            for key, value in values.items()
        ]
        terminal.show(stdout, Table("presets", ("preset", "setting", "value"), rows))
        return 0
    defaults = settings.Settings()
    rows = [(f"{g}.{k}", str(v), _doc(defaults, g)) for g in settings.GROUPS for k, v in defaults.group(g).items()]
    rows += [row for kind in ("task", "reward-model", "judge") for row in _plugin_settings(kind)]
    terminal.show(stdout, Table("settings", ("setting", "default", "of"), rows))
    return 0


def _doc(defaults: Any, group: str) -> str:
    return (type(getattr(defaults, group)).__doc__ or "").strip().split("\n")[0]


def _plugin_settings(kind: str) -> list[tuple[str, str, str]]:
    rows = []
    for plugin in plugins.available(kind).values():  # type: ignore[arg-type]
        try:
            parameters = parameters_of(plugin)
        except BenchError:
            continue  # a broken plugin harms nobody else
        rows += [(f"{plugin.name}.{name}", default, kind) for name, default in parameters.items()]
    return rows


def parameters_of(plugin: plugins.Plugin) -> dict[str, str]:
    """A plugin's settings and their defaults; none for a factory without a signature."""
    import inspect

    try:
        found = inspect.signature(plugin.factory()).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: "(needed)" if p.default is p.empty else str(p.default) for p in found}


def check(kind: str, name: str, assignments: tuple[str, ...]) -> int:
    """bench check: 0 when all is well, 1 when something is not."""
    from rlhf_bench.harness.checks.conformance import check as conform
    from rlhf_bench.harness.presets import factory_settings

    given = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise BenchError(f"--set {text!r} is not of the form key=value.")
        given[key.removeprefix(f"{name}.")] = value
    plugin = plugins.find(kind, name)  # type: ignore[arg-type]
    findings = conform(kind, name, factory_settings(name, plugin.factory(), given))  # type: ignore[arg-type]
    return _show_findings(f"{kind} {name}", findings)


def check_engine(name: str, policy: str, device: str, assignments: tuple[str, ...]) -> int:
    """bench check engine: as `check`."""
    from rlhf_bench.harness.checks.engine import check_sampler
    from rlhf_bench.harness.models.policies import pick_device

    if assignments:
        raise BenchError("An engine has no settings in bench check.", "Leave --set out.")
    if not policy:
        raise BenchError("bench check engine needs a policy.", "Add --policy FOLDER, e.g. RUNS/sft/.../policy.")
    return _show_findings(f"engine {name}", check_sampler(name, Path(policy), pick_device(device)))


def _show_findings(title: str, findings: Sequence[Finding]) -> int:
    stdout, _ = consoles(False)
    rows = [("ok" if f.ok else "FAILS", f.checked, f.detail) for f in findings]
    terminal.show(stdout, Table(title, ("", "checked", "detail"), rows))
    return 0 if all(f.ok for f in findings) else 1


def doctor() -> int:
    """bench doctor"""
    from rlhf_bench.harness.cli.doctor import facts

    stdout, _ = consoles(False)
    terminal.show(stdout, Table("doctor", ("what", "found"), facts()))
    return 0
