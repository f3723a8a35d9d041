"""Planning and computing runs: `bench run` as functions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness import store
from rlhf_bench.harness.api.arguments import (
    Seeds,
    Settings,
    as_assignments,
    as_layer,
    as_list,
    as_path,
    as_seeds,
    as_text,
    call_text,
    check_paths,
)
from rlhf_bench.harness.api.reports import Report, existing, make_report
from rlhf_bench.harness.models.gguf_files import as_folder
from rlhf_bench.harness.pipeline.execute import Outcome
from rlhf_bench.harness.pipeline.machine import (
    Machine,
    StageProgress,
    no_stage_progress,
    safe_children,
    set_library_variables,
    usable_cores,
)
from rlhf_bench.harness.pipeline.repair import remove_damaged
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.pipeline.tracking import check_trackers
from rlhf_bench.harness.plan import request as requests
from rlhf_bench.harness.plan.costs import rough_seconds
from rlhf_bench.harness.plan.judges import plain_names
from rlhf_bench.harness.plan.prompt_tokens import check_prompt_tokens
from rlhf_bench.harness.plan.request import Plan, Request, raise_first
from rlhf_bench.harness.presets import which_policy
from rlhf_bench.harness.results.estimates import Estimator
from rlhf_bench.harness.results.undecided import complaints


class PlannedStage(NamedTuple):
    """A stage of a plan: whether its result is there, else about how long it takes (None where that is unknown)."""

    name: str
    done: bool
    seconds: float | None


@dataclass(frozen=True)
class RunPlan:
    """What `run` would do.  `stages` shows it; `cells` holds the planned cells, `request` what was asked for."""

    request: Request
    cells: Plan = field(repr=False)
    out: Path

    @property
    def finished(self) -> bool:
        """Whether the results of all stages are there, so that `run` computes nothing.

        Looks into the results folder at every call.  Raises BenchError for a stage's folder that is half-written.
        """
        return all(stage.done(store.Store(self.out)) for stage in self.cells.order)

    @property
    def stages(self) -> list[PlannedStage]:
        """Every stage once, in the order of execution."""
        return planned_stages(self.cells.order, self.out)

    @property
    def notes(self) -> list[str]:
        """What the plan leaves out (default judges that a list of judges drops, settings of reward models that the run
        does not have), and a preset that is not for what is trained.  A sentence on each."""
        dropped, found = self.cells.left_out, [self.cells.misfit] if self.cells.misfit else list[str]()
        if dropped:
            left = f"The judges named leave out the default {', '.join(dropped)}"
            found.append(f"{left}; +NAME adds a judge to the default ones.")
        return [*found, *unused_notes(self.cells.unused)]


def unused_notes(groups: Sequence[str]) -> list[str]:
    """A sentence on settings that have no effect, [] for none; `groups` are `Plan.unused`."""
    if not groups:
        return []
    return [f"Without effect: settings of {', '.join(groups)}, reward models that this run does not have."]


def planned_stages(order: Sequence[Stage], out: Path) -> list[PlannedStage]:
    """The state of every stage in a results folder.

    Estimates come from the times of finished stages like it in that folder, or else from measurements with the tiny
    policy; they are of one core (`costs.rough_seconds`).  Raises BenchError for a half-written folder.
    """
    root = store.Store(out)
    done = [stage.done(root) for stage in order]
    # pending stages alone: for every kind asked, the records of all its finished stages are read
    rough = rough_seconds([stage for stage, there in zip(order, done, strict=True) if not there], root)
    return [
        PlannedStage(stage.name, there, None if there else rough[stage.key])
        for stage, there in zip(order, done, strict=True)
    ]


@safe_children()
def plan(
    task: str,
    rms: str | Sequence[str],
    seeds: Seeds = 1,
    *,
    judges: str | Sequence[str] | None = None,
    optimizers: str | Sequence[str] = ("ppo",),
    n: Sequence[int] | None = None,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    data: str = "",
    prompts: str | Sequence[str] = (),
    train_prompts: str = "",
    limit: int = 0,
    data_seeds: Seeds | None = None,
    reward_seeds: Seeds | None = None,
    gold: str = "",
    relabel: bool = False,
    out: str | os.PathLike[str] = "runs",
) -> RunPlan:
    """Plan a run as `run` does, check all that can be checked, and compute nothing.

    Takes the parameters of `run` that say what is computed.  Raises BenchError for unknown names, wrong settings,
    unreadable data and missing models.  Loads no weights, and imports no torch but for a policy's folder, whose
    tokenizer is tried unless all results are there.
    """
    return plan_request(
        Request(
            task=task,
            reward_models=as_list(rms),
            seeds=as_seeds(seeds),
            policy=policy,
            judges=as_list(judges or ()),  # none: `plan_request` fills in the default ones
            assignments=as_assignments(settings),
            data=data,
            limit=limit,
            preset=preset,
            prompts=as_list(prompts),
            train_prompts=train_prompts,
            optimizers=as_list(optimizers),
            n=None if n is None else as_text(n),  # a text, as --n gives it: the same setting in the same record
            data_seeds=as_layer("data_seeds", data_seeds),
            reward_seeds=as_layer("reward_seeds", reward_seeds),
            gold=gold,
            relabel=relabel,
        ),
        as_path(out),
    )


def plan_request(request: Request, out: Path) -> RunPlan:
    """`plan` for a Request; an empty policy means the preset's own, no judges mean the default ones.

    `bench run` begins here: its options are the fields of a Request.  Raises BenchError as `plan`.
    """
    set_library_variables()
    texts = (request.policy, request.data, *request.tasks, *request.reward_models, *plain_names(request.judges))
    check_paths(out, *filter(None, texts))  # a name may carry a path after its colon
    request = replace(request, policy=as_folder(which_policy(request.policy, request.preset)))
    made = requests.make_plan(request)
    check_prompt_tokens(request.policy, [made], store.Store(out))
    return RunPlan(request, made, out)


@safe_children()
def run(
    task: str,
    rms: str | Sequence[str],
    seeds: Seeds = 1,
    *,
    judges: str | Sequence[str] | None = None,
    optimizers: str | Sequence[str] = ("ppo",),
    n: Sequence[int] | None = None,
    settings: Settings | None = None,
    policy: str = "",
    preset: str = "",
    data: str = "",
    prompts: str | Sequence[str] = (),
    train_prompts: str = "",
    limit: int = 0,
    data_seeds: Seeds | None = None,
    reward_seeds: Seeds | None = None,
    gold: str = "",
    relabel: bool = False,
    out: str | os.PathLike[str] = "runs",
    jobs: int | None = None,
    threads: int | None = None,
    device: str = "",
    trackers: str | Sequence[str] = (),
    repair: bool = False,
    progress: StageProgress | None = None,
) -> Report:
    """Train, judge and report: a cell for every reward model, optimizer and seed.  `bench run` as a function.

    Stages whose results are in `out` are reused, so the same call again returns at once.

    Parameters
    ----------
    task
        Name of a task, or "module:attribute".
    rms
        One reward model or several, by name or "module:attribute"; none for "sft-tempered" alone.
    seeds
        A number of seeds (3: seeds 0, 1, 2), a list of seeds, or a text like "11-14".
    judges
        Default: winrate, utility, length, empty, and the task's own (stance for saferlhf).  "+NAME" adds a judge to
        them; a list with a plain name has what it names alone, and a UserWarning says which default ones it leaves out.
    optimizers
        "ppo", "best-of-n" (trains nothing), or without the reward model "dpo", "sft-chosen" and "sft-tempered".
    n
        What best-of-n takes, e.g. [1, 4, 16].
    settings
        Values by "group.key", e.g. {"ppo.kl": 0.1}.  See `bench list settings`.
    policy, preset
        "tiny" (default), a model folder, or a hub id (ID@REVISION); a preset of settings, which may name a policy too.
    data
        The task's real data: a path, "hub" or a hub id.
    prompts, train_prompts
        Other tasks whose held-out prompts are evaluated, and one whose prompts PPO optimises on.
    limit
        At most this many examples of every split; 0 for all.
    data_seeds, reward_seeds
        Layers around `seeds`, in the same forms: seeds that draw the data anew, and seeds that train the reward model
        anew for each of them.  Every combination is a run; without, one seed drives the reward model and PPO, on the
        data that the task names.
    gold, relabel
        A gold model in place of a true utility: "RM@half" is trained on half of the pairs (every proxy on the other),
        "rm:FOLDER_OR_HUB_ID", "hf:..." and "path:FOLDER" are there.  With `relabel` the proxies learn from its labels.
    out
        Results folder.  The report is written to its folder `report`.
    jobs
        Stages side by side.  Default: one per core with the tiny policy, else one.
    threads
        CPU threads of each job.  Default: 1 with the tiny policy, else one per core.
    device
        "cpu", "cuda" or "mps".  Default: the accelerator where there is one.
    trackers
        "tensorboard", "wandb", "trackio": where PPO's scalars are logged while training.
    repair
        Compare every file of the run's stages with what was written, and make damaged stages, and what depends on
        them, again.
    progress
        Called with (event, stage name, done, total).

    Raises
    ------
    BenchError
        Before anything is computed, for whatever is wrong with the arguments; afterwards for the first stage that
        failed.  Finished stages are kept, and the report of the finished cells is written all the same.
    DamagedError
        A BenchError: a stage that others need is not what was written.  `Report.missing` names cells that cannot be
        reported.
    """
    command = call_text(run, locals())  # first: locals() holds the arguments alone
    checked = check_trackers(as_list(trackers))
    planned = plan(
        task, rms, seeds, judges=judges, optimizers=optimizers, n=n, settings=settings, policy=policy, preset=preset,
        data=data, prompts=prompts, train_prompts=train_prompts, limit=limit, data_seeds=data_seeds,
        reward_seeds=reward_seeds, gold=gold, relabel=relabel, out=out,
    )  # fmt: skip
    for note in planned.notes:
        warnings.warn(note, stacklevel=2)
    small = planned.request.policy == "tiny"
    # the report of what finished is written before the first failure is raised
    machine = make_machine(small, jobs, threads, device, checked, progress)
    if repair:
        remove_damage(planned.cells.order, planned.out)
    computed = compute(planned, machine, command, repair=repair)
    raise_first(computed.outcome)
    return existing(computed.report, computed.missing)


def make_machine(
    small: bool,
    jobs: int | None,
    threads: int | None,
    device: str,
    trackers: Sequence[str] = (),
    progress: StageProgress | None = None,
) -> Machine:
    """The machine for a policy that is `small` or not: a small one gains more from jobs than from threads.

    None for `jobs` or `threads` means the default: for a small policy as many jobs of one thread as there are cores,
    else one job on all cores.  Raises BenchError for a number below 0.
    """
    threads = threads or (1 if small else usable_cores())
    # 0 jobs: `Machine.resolved` counts cores, and takes one job on an accelerator, which is known only there
    return Machine(jobs or (0 if small else 1), threads, device, progress or no_stage_progress, trackers)


def remove_damage(order: Sequence[Stage], out: Path) -> list[str]:
    """Remove damaged stages of a plan, and those that depend on them, from a results folder: `--repair`.

    Returns a sentence for each damaged file.  Raises BenchError for a folder that cannot be written.
    """
    root = store.Store(out)
    root.prepare()
    return remove_damaged(order, root)


@dataclass(frozen=True)
class Computed:
    """How computing a plan ended: the report of the finished cells, what it lacks, and judges that decided too little.

    `outcome`: the stages that were made, failed and were left out.  `report` is None where no cell is finished.
    `missing` and `undecided` are sentences.
    """

    outcome: Outcome
    report: Report | None
    missing: list[str]
    undecided: list[str]


def compute(planned: RunPlan, machine: Machine, command: str, *, repair: bool = False) -> Computed:
    """Execute what `planned.out` lacks and write the report to its folder `report`.

    Failed stages are in the outcome, not raised: the report of the other cells is written first.  With `repair`, which
    comes after `remove_damage`, damaged records of cells are written again.  Raises BenchError for an unusable device,
    a folder that cannot be written, and when a worker process is killed.
    """
    root = store.Store(planned.out)
    outcome = requests.run(planned.cells, root, machine, repair=repair)
    cells = requests.finished(planned.cells, root)
    made, missing = None, list[str]()
    if cells:  # else a failure stopped all of them, which says more than a report would
        # of the request: `bench report` takes --level instead
        stats = planned.cells.settings.stats
        estimator = Estimator(stats.level, stats.seed)
        # `cells` are this request's alone: other runs in the folder may have other tasks and settings
        made, missing = make_report(cells, planned.out / "report", estimator, command, reuse=True)
    # with or without a report: a judge that decided too little is named with its reasons
    judged = [stage for by_judge in planned.cells.judged.values() for stage in by_judge.values()]
    return Computed(outcome, made, missing, complaints(judged, root))
