"""The command line: declarations only, those of commands that read in reads.py.  Each command is a function of the
module of its name.

Imports are inside the functions: `bench --help` needs click alone, and only what computes needs torch.
"""

from __future__ import annotations

import os
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import click

from rlhf_bench.harness.cli.completion import checked_names, experiment_names, group_names, names
from rlhf_bench.harness.cli.options import (
    LAYERED,
    PLANNED_DEVICES,
    Group,
    SeedsType,
    a_judge,
    a_reward_model,
    a_task,
    check_seeds,
    gold_options,
    layer_options,
    no_cache_option,
    numbers_kept,
    policy_option,
    preset_option,
    repair_option,
    settings_options,
    track_option,
    trust_option,
    yes_option,
)
from rlhf_bench.harness.cli.reads import reads
from rlhf_bench.harness.cli.run_files import Configured, RunFile
from rlhf_bench.harness.errors import BenchError, DamagedError, one_line
from rlhf_bench.harness.pipeline.machine import safe_children, set_library_variables
from rlhf_bench.harness.printable import printable

DEBUG = "RLHF_BENCH_DEBUG"
"""An environment variable: where it is set, the traceback of an error is printed before its line."""


def main() -> None:
    """Entry point.  A BenchError is one line on stderr and exit code 2 (3 for a DamagedError), an interruption 130.

    Other exit codes are those of the commands: 0 fine, 1 a plugin fails its tests, 3 something is missing or undecided.
    Faults of the machine and of texts that no command foresees are one line and exit code 2, too: a path that is too
    long, a full disk, a text that cannot be encoded, JSON that is nested too deeply, no memory.
    """
    set_library_variables()
    try:
        # a module that the user names is found in the current folder all the same (plugins.find)
        with safe_children():
            bench(standalone_mode=False)  # click would print its own errors and exit before the handlers below
    except (click.exceptions.Abort, KeyboardInterrupt):  # click raises the first for the second
        click.echo("Interrupted. Finished stages are kept; run the same command to continue.", err=True)
        sys.exit(130)  # 128 + SIGINT, as shells report it
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except BenchError as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        click.echo(f"Error: {printable(str(error))}", err=True)
        sys.exit(3 if isinstance(error, DamagedError) else 2)
    except BrokenPipeError:
        sys.stderr.close()  # the program that read our output has ended; nothing more can be said
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        click.echo(f"Error: {printable(place + (error.strerror or one_line(error)))}.", err=True)
        sys.exit(2)
    except (UnicodeError, RecursionError) as error:
        click.echo(f"Error: {printable(one_line(error))}.", err=True)
        sys.exit(2)
    except Exception as error:
        from rlhf_bench.harness.faults import machine_fault

        fault = machine_fault(unmapped(error), "This command ended")
        if fault is None:
            raise  # a fault in code
        click.echo(f"Error: {printable(str(fault))}", err=True)
        sys.exit(2)


def unmapped(error: Exception) -> Exception:
    """A MemoryError for a library that found no room in memory when it was imported, any other exception as it is."""
    # the dynamic linker's words; it raises an ImportError, for a limit on the address space (ulimit -v) as well
    return MemoryError(str(error)) if "failed to map segment" in str(error) else error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="rlhf-bench", prog_name="bench")
def bench() -> None:
    """Train a policy with PPO against each reward model, everything else held equal, and measure the policy."""


@bench.command(cls=Configured)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Options and settings from a run file; those of the command line replace them.",
)
@click.option(
    "--save", type=click.Path(path_type=Path), metavar="FILE.toml", help="Write the run file that repeats this command."
)
@click.option("--trust", multiple=True, metavar="NAME", help="A module:attribute that the run file may name; repeat.")
@click.option("--task", required=True, help="Name of a task, or module:attribute.", shell_complete=a_task)
@click.option(
    "--rm", "reward_models", multiple=True, help="A reward model; repeat for several.", shell_complete=a_reward_model
)
@click.option(
    "--optimizer",
    "optimizers",
    multiple=True,
    default=("ppo",),
    help="ppo (default), best-of-n (a preview, trains nothing), or without the reward model: dpo, sft-chosen, "
    "sft-tempered (a control, needs no --rm); repeat.",
)
@click.option("--n", default=None, metavar="1,2,4,...", help="What best-of-n takes.  Default: 1,2,4,8,16,32,64.")
@click.option(
    "--judge",
    "judges",
    multiple=True,
    help="A judge instead of the default ones, or with + (+NAME) beside them; repeat.  Default: winrate, utility, "
    "length, empty, and the task's own.",
    shell_complete=a_judge,
)
@click.option("--seeds", type=SeedsType(), default="1", show_default=True, help="How many, or 11-14, or 1,5,9.")
@layer_options
@yes_option
@policy_option
@preset_option
@click.option(
    "--data",
    default="",
    help="The task's real data: a path, 'hub' or a hub id.  Default: the synthetic task.",
)
@click.option(
    "--prompts",
    multiple=True,
    help="Another task whose held-out prompts are evaluated; repeat.  Default: --task.",
    shell_complete=a_task,
)
@click.option(
    "--train-prompts",
    default="",
    help="Another task whose prompts PPO optimises on.  Default: --task.",
    shell_complete=a_task,
)
@gold_options
@click.option("--limit", type=click.IntRange(min=1), help="At most this many examples of every split.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Results folder.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Stages side by side.  Default: one per core with 'tiny'.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads per job.  Default: 1 with 'tiny', else all.")
@click.option("--device", default="", help="cpu, cuda or mps.  Default: the accelerator where there is one.")
@track_option
@repair_option
@click.option("--dry-run", is_flag=True, help="Show the plan, what is reused and a time estimate; compute nothing.")
@click.option(
    "--plan-on",
    default="",
    type=click.Choice(["", *PLANNED_DEVICES]),
    metavar="DEVICE",
    help=f"With --dry-run: memory and time on a GPU that is not here ({', '.join(PLANNED_DEVICES)}).",
)
@click.option(
    "--no-measure", is_flag=True, help="Plan times from operations, without trying the policy's speed for some seconds."
)
@no_cache_option
@settings_options
@click.pass_obj
def run(file: RunFile | None, /, **options: Any) -> None:  # by name, because the options are the fields of a Request
    """Train, judge and report: one run for every reward model and seed."""
    from rlhf_bench.harness.cli import run_files
    from rlhf_bench.harness.cli.run import run
    from rlhf_bench.harness.plan.request import Request
    from rlhf_bench.harness.presets import parse_assignments

    check_seeds(options, options.pop("yes"))
    if file:  # those of the command line come last, and so replace the file's
        options["assignments"] = (*file.assignments, *options["assignments"])
    save = options.pop("save")
    repeating = run_files.content(options, options["assignments"]) if save else ""
    for name in ("config", "trust"):
        options.pop(name)
    names = ("out", "jobs", "threads", "device", "track", "repair", "dry_run", "quiet", "plan_on")
    machine = {name: options.pop(name) for name in names} | {"measure": not options.pop("no_measure")}
    no_cache = options.pop("no_cache")
    # what is left has the names of a Request's fields
    # no --limit is 0: all examples
    options |= {"assignments": parse_assignments(options["assignments"]), "limit": options["limit"] or 0}
    options |= {name: options[name] or () for name in LAYERED}
    try:
        with numbers_kept(no_cache):
            code = run(Request(**options), **machine, save=partial(run_files.write, save, repeating) if save else None)
    except BenchError as error:
        raise (file.located(error) if file else error) from None
    sys.exit(code)


@bench.command()
@click.argument("runs", required=False, type=click.Path(path_type=Path))
@click.option(
    "--judge",
    "judges",
    multiple=True,
    required=True,
    help="A judge; repeat.  +NAME is the same here.",
    shell_complete=a_judge,
)
@click.option("--model", help="Short for --set NAME.model=...: the model of winrate-llm or winrate-rm.")
@click.option("--base-url", help="Short for --set NAME.base_url=...: an OpenAI-compatible server.")
@click.option(
    "--calibrate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Instead of RUNS: agreement of judges with people's labels.  "
    "Rows (.jsonl, .json, .csv, .parquet) of prompt, a, b (two responses) and label (a, b or tie); "
    "for judges of refusals of prompt, response and label (refuses, complies, ...).",
)
@trust_option
@settings_options
def judge(
    runs: Path | None,
    judges: tuple[str, ...],
    model: str | None,
    base_url: str | None,
    calibrate: Path | None,
    trust: tuple[str, ...],
    assignments: tuple[str, ...],
    quiet: bool,
) -> None:
    """Judge the responses in RUNS again; nothing is retrained.

    Stored verdicts stay.  Undecided cases are judged again, and only they cost anything.
    """
    from rlhf_bench.harness.cli.judge import judge, judge_settings
    from rlhf_bench.harness.plan.judges import plain_names
    from rlhf_bench.harness.presets import parse_assignments

    judges = plain_names(judges)  # stored verdicts stay: every judge is added
    groups = judge_settings(judges, parse_assignments(assignments), {"model": model, "base_url": base_url})
    sys.exit(judge(runs, judges, groups, calibrate, trust, quiet))


@bench.command()
@click.option("--rm", required=True, help="A reward model trained in --runs, or one that needs no training.")
@click.option("--prompt", required=True, help="The prompt; @FILE reads it from a file.")
@click.option("--response", required=True, help="The response; @FILE reads it from a file.")
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Results folder."
)
@click.option("--seed", type=click.IntRange(min=0), help="Which training seed; default: the lowest found.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="RM.KEY=VALUE",
    help="A setting of --rm; repeat.  A trained one is then the one that was trained with it.",
)
@trust_option
def score(assignments: tuple[str, ...], **options: Any) -> None:
    """Show the rewards per token of one response.

    A reward model that needs no training needs no results folder either: its tokens are then made of the texts.
    """
    from rlhf_bench.harness.cli.score import score
    from rlhf_bench.harness.presets import parse_assignments

    groups = parse_assignments(assignments).items()
    settings = {f"{group}.{key}": value for group, keys in groups for key, value in keys.items()}
    sys.exit(score(**options, settings=settings))


@bench.command()
@click.argument("name", metavar="NAME|FILE.toml", shell_complete=names(experiment_names))
@click.option("--trust", multiple=True, metavar="NAME", help="A module:attribute that the file may name; repeat.")
@click.option("--seeds", type=SeedsType(), help="How many, or 11-14, or 1,5,9.  Default: the experiment's own.")
@layer_options
@yes_option
@policy_option
@preset_option
@gold_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Results folder.")
@click.option("--jobs", type=click.IntRange(1, 1024), help="Stages side by side.  Default: one per core.")
@click.option("--device", default="", help="cpu, cuda or mps.  Default: the accelerator where there is one.")
@track_option
@repair_option
@click.option("--dry-run", is_flag=True, help="Show the plan, what is reused and a time estimate; compute nothing.")
@no_cache_option
@settings_options
def experiment(**options: Any) -> None:
    """Run an experiment and rule on its claims by their intervals.  See: bench list experiments"""
    from rlhf_bench.harness.api.experiments import plan_experiment
    from rlhf_bench.harness.cli.experiment import experiment
    from rlhf_bench.harness.pipeline.tracking import check_trackers
    from rlhf_bench.harness.plan.experiments import ByGold, Layers
    from rlhf_bench.harness.presets import parse_assignments

    check_seeds(options, options["yes"])
    trackers = check_trackers(options["track"])  # before planning, which may take seconds
    assignments = parse_assignments(options["assignments"])
    layers = Layers(options["data_seeds"] or (), options["reward_seeds"] or ())
    wanted = {name: options[name] for name in ("policy", "preset", "out")}
    wanted |= {"layers": layers, "by_gold": ByGold(options["gold"], options["relabel"]), "trust": options["trust"]}
    planned = plan_experiment(options["name"], options["seeds"] or (), assignments=assignments, **wanted)
    how = {name: options[name] for name in ("jobs", "device", "repair", "dry_run", "quiet")}
    with numbers_kept(options["no_cache"]):
        code = experiment(planned, trackers=trackers, **how)
    sys.exit(code)


@bench.command(name="list")
@click.argument(
    "what",
    required=False,
    type=click.Choice(["tasks", "reward-models", "judges", "experiments", "presets", "settings"]),
)
@click.argument("group", required=False, shell_complete=names(group_names))
def list_(what: str | None, group: str | None) -> None:
    """List tasks, reward models, judges, experiments, presets or settings, with a line about each.

    `bench list settings GROUP` explains the settings of one group, such as ppo, or of one plugin, such as scalar.
    """
    from rlhf_bench.harness.cli.listing import listing

    sys.exit(listing(what or "", group or ""))


@bench.command()
@click.argument("kind", type=click.Choice(["task", "reward-model", "judge", "engine", "store"]))
@click.argument("name", shell_complete=names(checked_names))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="A setting of the plugin; repeat.")
@click.option("--policy", metavar="FOLDER", help="For an engine (vllm): the policy to sample from.")
@click.option("--device", default="", help="For an engine: as in bench run.")
@click.option("--full", is_flag=True, help="For a store: compare hashes of all files, not their sizes alone.")
def check(kind: str, name: str, assignments: tuple[str, ...], policy: str | None, device: str, full: bool) -> None:
    """Run conformance tests on a plugin, or on a sampling engine with a policy.

    `bench check store RUNS` instead compares the files of a results folder with what was written.
    """
    from rlhf_bench.harness.cli.check import check, check_engine, check_store

    if kind == "store":
        sys.exit(check_store(Path(name), full, bool(assignments or policy or device)))
    if full:
        raise BenchError("--full is for a store.", "Leave it out, or: bench check store RUNS --full.")
    if kind == "engine":
        sys.exit(check_engine(name, policy or "", device, assignments))
    sys.exit(check(kind, name, assignments))  # type: ignore[arg-type]  # click.Choice has checked it


@bench.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.option("--install", is_flag=True, help="Write the script to where the shell looks for completions of a user.")
def completion(shell: str, install: bool) -> None:
    """Print the script that completes commands, options and names in a shell.

    In this shell alone: eval "$(bench completion bash)", or: bench completion fish | source
    """
    from rlhf_bench.harness.cli.completion import completion

    sys.exit(completion(bench, shell, install))


@bench.command()
def doctor() -> None:
    """Show versions, devices, threads, whether the presets fit this machine, and what is missing."""
    from rlhf_bench.harness.cli.doctor import doctor

    sys.exit(doctor())


for reading in reads.commands.values():
    bench.add_command(reading)


if __name__ == "__main__":
    main()
