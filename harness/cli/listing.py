"""`bench list`: plugins, experiments, presets and settings, with a line about each."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterator
from typing import get_args

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.consoles import consoles
from rlhf_bench.harness.cli.setting_texts import sentences
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.plan.combination_names import FORMS
from rlhf_bench.harness.plan.origins import LABEL
from rlhf_bench.harness.presets import load_presets
from rlhf_bench.harness.results.table import Table
from rlhf_bench.reports import terminal

Rows = Iterator[tuple[str, ...]]
"""Rows of a table, as many entries each as it has columns."""


def listing(what: str, group: str = "") -> int:
    """bench list

    `what` is a key of LISTS, "" lists these.  A plugin that cannot be imported is listed with the reason.  `group`
    names a group of settings.  Raises BenchError for an unknown one, and for one where `what` lists no settings.
    """
    stdout, _ = consoles(False)
    if group and what != "settings":
        raise BenchError(f"bench list {what} takes no group.", f"For settings alone: bench list settings {group}")
    if what == "settings":
        terminal.show_settings(stdout, SETTINGS, list(setting_rows(group)))
        return 0
    columns, rows = LISTS[what] if what else (("list", "what it shows"), lambda: iter(ABOUT.items()))
    terminal.show(stdout, Table(what or "bench list WHAT", columns, list(rows())))
    return 0


def plugin_rows(kind: plugins.Kind) -> Rows:
    """Registered plugins with the first line of their docstrings; a broken one with the reason instead.

    (name, description, reference, distribution), after reward models the forms of their combinations.  Importing them
    is the only way to their docstrings.
    """
    for plugin in plugins.registered(kind):  # not `available`: of a name that is taken twice both owners are shown
        try:
            # the target, not the factory: of a function that scores texts the factory is an adapter
            described = (inspect.getdoc(plugin.target()) or "").partition("\n")[0]
            if kind == "task" and not has_origin(plugin):
                described = f"{described} ({LABEL})".strip()
        except BenchError as error:
            described = error.seen
        yield plugin.name, described, plugin.reference, plugin.distribution
    if kind == "reward-model":
        yield from ((form, described, "", "") for form, described in FORMS.items())


def has_origin(plugin: plugins.Plugin) -> bool:
    """Whether the task has a member `origin`; True where it cannot be built without settings, so that nobody knows.

    The member is not read: hashing a task's data takes seconds.
    """
    if inspect.getattr_static(plugin.target(), "origin", None) is not None:
        return True
    try:
        return inspect.getattr_static(plugins.build("task", plugin.name, {}), "origin", None) is not None
    except BenchError:
        return True


def experiment_rows() -> Rows:
    """(name, default seeds, question) of every experiment."""
    from rlhf_bench.harness.plan import experiments

    yield from ((found.name, found.seeds, found.question) for found in experiments.load().values())


def preset_rows() -> Rows:
    """(preset, setting, value) for every value that a preset sets; an empty row for a preset of defaults.

    The group `preset` holds no settings: `policy` is the policy that the preset names, `about` describes it.
    """
    for preset, groups in load_presets().items():
        if not groups:
            yield preset, "(defaults).", ""
        yield from (
            (preset, f"{group}.{key}", str(value)) for group, values in groups.items() for key, value in values.items()
        )


def setting_rows(group: str = "") -> Rows:
    """Settings of the harness with their descriptions, then those of the plugins; of one `group`, or of all.

    (setting, default, allowed values, description).  Plugins have no allowed values: their factories refuse wrong ones.
    `group` may be a pattern (seq2seq-*).  Raises BenchError for a group that fits none, and for a plugin of that name
    that cannot be imported.
    """
    from rlhf_bench.harness.settings import GROUPS, describe_settings  # here: pydantic takes about .1 s to import

    known = [plugin for kind in KINDS for plugin in plugins.available(kind).values()]
    names = {*GROUPS, *(plugin.name for plugin in known)}
    wanted = set(fnmatch.filter(names, group)) if group else names
    if not wanted:
        raise BenchError(f"Unknown settings group {group!r}.", did_you_mean(group, names))
    for one in describe_settings():
        if one.group in wanted:
            yield f"{one.group}.{one.key}", str(one.default), one.allowed, one.description
    for plugin in known:
        if plugin.name not in wanted:
            continue
        try:
            defaults = parameters_of(plugin)
            said = sentences(plugin, defaults)
        except BenchError:
            if group == plugin.name:
                raise
            continue  # a broken plugin must not hide the settings of the others
        for name, default in defaults.items():
            yield f"{plugin.name}.{name}", default, "", said[name] or f"of the {plugin.kind}"


def parameters_of(plugin: plugins.Plugin) -> dict[str, str]:
    """A plugin's settings and their defaults as text; none for a factory without a signature.

    "(needed)" stands for a setting without default.  Raises BenchError where the plugin cannot be imported.
    """
    found = plugins.parameters(plugin.factory())
    return {name: "(needed)" if p.default is p.empty else str(p.default) for name, p in found.items()}


KINDS: tuple[plugins.Kind, ...] = get_args(plugins.Kind)
SETTINGS = ("setting", "default", "values", "description")
ABOUT = {
    "tasks": "What --task and --prompts take: data, with the true utility where it is known.",
    "reward-models": "What --rm takes.",
    "judges": "What --judge takes: measures of responses.",
    "experiments": "What bench experiment takes: the questions of the papers.",
    "presets": "What --preset takes: settings that belong together.",
    "settings": "What --set takes, with defaults; of one group alone: bench list settings ppo",
}
"""What is listed, by WHAT."""
DESCRIBED = ("name", "description", "reference", "package")
LISTS: dict[str, tuple[tuple[str, ...], Callable[[], Rows]]] = {
    "tasks": (DESCRIBED, lambda: plugin_rows("task")),
    "reward-models": (DESCRIBED, lambda: plugin_rows("reward-model")),
    "judges": (DESCRIBED, lambda: plugin_rows("judge")),
    "experiments": (("name", "seeds", "question"), experiment_rows),
    "presets": (("preset", "setting", "value"), preset_rows),
    "settings": (SETTINGS, setting_rows),
}
"""Columns and rows by what is listed."""
