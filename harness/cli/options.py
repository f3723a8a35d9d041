"""What the commands share: types of arguments, and options that several have."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import click

from rlhf_bench.harness.cli.completion import names, plugin_names, preset_names
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.presets import MANY_SEEDS, parse_seeds


class Command(click.Command):
    """A command that refuses every empty name.

    An empty name comes from a variable that is not set in a script.  It never means the default, and as a path it would
    mean the current folder.
    """

    TEXTS = ("prompt", "response")
    """Options whose text may be empty."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; raises BenchError for the first empty name."""
        if ctx.resilient_parsing:  # a shell asks how the line may go on
            return super().parse_args(ctx, args)
        # before types convert: an empty path becomes "."
        given = self.make_parser(ctx).parse_args(list(args))[0]
        for param in self.get_params(ctx):
            value = given.get(param.name or "")
            values = value if isinstance(value, list | tuple) else [value]
            if "" in values and param.name not in self.TEXTS:
                shown = param.opts[0] if isinstance(param, click.Option) else param.human_readable_name
                raise BenchError(f"{shown} is empty.", "Name one, or leave the option out for its default.")
        return super().parse_args(ctx, args)


class Group(click.Group):
    """The group of all commands."""

    command_class = Command


class SeedsType(click.ParamType[tuple[int, ...]]):
    """`3` means seeds 0, 1, 2; `11-14` and `1,5,9` name them."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value  # click converts a default twice
        try:
            return parse_seeds(str(value))
        except ValueError:
            shown = str(value)[:60]
            self.fail(f"{shown!r} is not a number of seeds, a range like 11-14 or a list like 1,5,9.", param, ctx)


class Finite(click.FloatRange):
    """A number in a range.  click's own takes nan for every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return found


# -- options -----------------------------------------------------------------------------------------------------------

Decorated = Callable[..., None]


def settings_options(command: Decorated) -> Decorated:
    """--set and --quiet, for commands that compute."""
    # applied from the inside out: --set stands before --quiet in the help
    command = click.option("--quiet", "-q", is_flag=True, help="No progress, no tables.")(command)
    text = "Override a setting; repeat.  See: bench list settings"
    return click.option("--set", "assignments", multiple=True, metavar="GROUP.KEY=VALUE", help=text)(command)


a_task = names(plugin_names("task"))
a_reward_model = names(plugin_names("reward-model"))
a_judge = names(plugin_names("judge"), "+")

policy_option = click.option(
    "--policy",
    default="",
    help="'tiny', a model folder, or a hub id (ID@REVISION).  Default: the preset's.",
)
preset_option = click.option(
    "--preset",
    default="",
    help="Settings preset; default by the kind of policy.  See: bench list presets",
    shell_complete=names(preset_names),
)


def gold_options(command: Decorated) -> Decorated:
    """--gold and --relabel: a gold model in place of a true utility."""
    text = "Swap the responses of each pair that the proxies learn from where the gold model prefers the rejected one."
    command = click.option("--relabel", is_flag=True, help=text)(command)
    text = (
        "Measure by a gold model: RM@half trains the reward model RM on half of the pairs, all proxies on the other; "
        "rm:FOLDER_OR_HUB_ID, hf: or path: take one that is there.  Default: the task's true utility, where it has one."
    )
    return click.option("--gold", default="", metavar="RM@half", help=text)(command)


LAYERED = ("data_seeds", "reward_seeds", "seeds")
"""The options that name seeds, outermost layer first."""


def layer_options(command: Decorated) -> Decorated:
    """--data-seeds and --reward-seeds: layers around --seeds."""
    text = "Train the reward model anew with each of these seeds; every one with every seed."
    command = click.option("--reward-seeds", type=SeedsType(), help=text)(command)
    text = "Draw the data anew with each of these seeds: demonstrations, pairs and, of a synthetic task, prompts."
    return click.option("--data-seeds", type=SeedsType(), help=text)(command)


yes_option = click.option("--yes", is_flag=True, help=f"Run more than {MANY_SEEDS} seeds, or combinations of them.")
track_option = click.option(
    "--track",
    multiple=True,
    metavar="NAME",
    help="Log PPO's scalars during training: tensorboard (OUT/tracking), wandb (offline unless WANDB_MODE or "
    "WANDB_API_KEY is set), trackio or mlflow (OUT/tracking/mlflow.db unless MLFLOW_TRACKING_URI is set); repeat.",
)

PLANNED_DEVICES = ("a100-80gb", "h100-80gb", "h200")
"""The names of `speeds.KNOWN_DEVICES`: --help imports nothing that computes."""

repair_option = click.option(
    "--repair",
    is_flag=True,
    help="Compare all stored files with what was written; make damaged stages, and what depends on them, again.",
)

no_cache_option = click.option(
    "--no-cache",
    is_flag=True,
    help="Compute all numbers again, and keep none.  Without it, those of unchanged cells are taken from "
    "~/.cache/rlhf-bench/reports, which may be deleted.",
)

trust_option = click.option(
    "--trust",
    multiple=True,
    metavar="TEXT",
    help="A module:attribute, path or hub id that files in RUNS name: this command imports and calls that code, or "
    "opens that path.  Without it, files may name registered plugins alone; repeat.",
)


def load_one_thread() -> None:
    """Let linear algebra be loaded with one thread, unless the user says otherwise; before numpy is imported.

    For commands that only read: reports compute on one thread anyway (`results.one_thread`), and every thread that is
    made and never used takes memory (10 MiB of 307 in a report on two cores).
    """
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def numbers_kept(no_cache: bool) -> AbstractContextManager[None]:
    """The block in which numbers are kept for the next report (`harness.cache`), unless with --no-cache."""
    from rlhf_bench.harness import cache

    return cache.using(None if no_cache else cache.user_folder())


def check_seeds(options: dict[str, Any], yes: bool) -> None:
    """Raises BenchError for many seeds, or combinations of them, without --yes: a slip of the keyboard costs hours."""
    layers = {f"--{name.replace('_', '-')}": len(options[name] or ()) for name in LAYERED}
    given = {name: count for name, count in layers.items() if count}
    runs = math.prod(given.values())
    if runs > MANY_SEEDS and not yes:
        asked = f"--seeds asks for {runs:,} seeds."
        if len(given) > 1:
            asked = f"{' x '.join(f'{name} {count}' for name, count in given.items())} are {runs:,} runs of every arm."
        raise BenchError(asked, "Add --yes if so many are meant.")
