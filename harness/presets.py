"""Settings from presets and from the texts of the command line, for the harness and for plugins."""

from __future__ import annotations

import fnmatch
import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, get_args

from rlhf_bench.harness.anchors import anchored
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.text.types import JsonObject, Row

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings


def which_policy(policy: str, preset: str) -> str:
    """The given policy; without one the preset's; without a preset `tiny`.

    Raises BenchError for an unknown preset, and for one that names no policy where none was given.
    """
    if policy or not preset:
        return policy or "tiny"
    known = load_presets()
    if preset not in known:
        raise BenchError(f"Unknown preset {preset!r}.", did_you_mean(preset, known))
    named = known[preset].get("preset", {}).get("policy", "")
    if not named:
        raise BenchError(f"The preset {preset!r} names no policy.", "Add --policy FOLDER_OR_HUB_ID.")
    return str(named)


def load_presets() -> dict[str, dict[str, JsonObject]]:
    """Presets by name: group -> key -> value.  They override the defaults of settings.py, `--set` overrides them.

    A group is one of the harness's, a plugin, or a pattern over plugins.  The group `preset` holds no settings:
    `policy` is the policy where none is given, `about` a description.
    """
    text = files("rlhf_bench.harness").joinpath("presets.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def make_settings(preset: str, assignments: Mapping[str, Mapping[str, str]], plugins: frozenset[str]) -> Settings:
    """The preset's settings with `--set` assignments (group -> key -> text) on top.

    `plugins` names the plugins of this run; a group may be a pattern over them ("seq2seq-*").  Their keys are checked
    later, against their factories.  Groups of `unused_groups` are checked and have no effect.
    Raises BenchError for an unknown preset, group or key, for a value of the wrong type, and for one out of range.
    """
    # Here, not at the top: pydantic takes about .1 s to import, and neither `bench --help` nor `bench report` needs it.
    from rlhf_bench.harness.settings import GROUPS, Settings

    known = load_presets()
    if preset not in known:
        raise BenchError(f"Unknown preset {preset!r}.", did_you_mean(preset, known))
    settings = Settings()
    extra: dict[str, JsonObject] = {}
    for name, values in known[preset].items():
        if name in GROUPS:
            settings = replace(settings, **{name: replace(getattr(settings, name), **values)})
        # a preset serves every run, so its patterns may fit no plugin of this one; those of --set must (below)
        for plugin in fnmatch.filter(plugins, name):
            extra.setdefault(plugin, {}).update(values)
    unused = unused_groups(assignments, plugins)
    for name, texts in assignments.items():
        if name in GROUPS:
            current = settings.group(name)
            # A key that the group lacks stays a text: `replace` refuses it and names the nearest key.
            values = {key: parse_value(f"{name}.{key}", t, type(current.get(key, ""))) for key, t in texts.items()}
            settings = replace(settings, **{name: replace(getattr(settings, name), **values)})
            continue
        for plugin in fnmatch.filter(plugins, name) if name not in unused else ():
            extra.setdefault(plugin, {}).update(texts)  # parsed later: only the factory knows their types
    return replace(settings, plugins=extra)


def unused_groups(assignments: Mapping[str, Mapping[str, str]], used: Collection[str]) -> tuple[str, ...]:
    """The groups of --set that are of registered reward models alone, none of them in `used`, the run's plugins.

    One command line then serves several runs with a reward model each.  Their keys and values are checked all the same.
    Raises BenchError for a group that fits nothing, and for one of a task or a judge outside of the run: what these
    compute is part of every arm, so that their settings cannot be meant for another run.
    """
    from rlhf_bench.harness import plugins  # here: entry points take time, and `bench --help` needs none
    from rlhf_bench.harness.settings import GROUPS

    found = []
    for group, given in assignments.items():
        if group in GROUPS or fnmatch.filter(used, group):
            continue
        others = {kind: plugins.available(kind) for kind in get_args(plugins.Kind)}
        named = fnmatch.filter(others["reward-model"], group)
        if not named:
            kind = next((kind for kind, known in others.items() if group in known), None)
            if kind:
                fix = f"Add --judge +{group}, or leave it out." if kind == "judge" else "Leave it out."
                raise BenchError(f"--set {group}... names a {kind} that this run does not use.", fix)
            known = {*GROUPS, *used, *others["reward-model"]}
            raise BenchError(f"Unknown settings group {group!r} in --set.", did_you_mean(group, known))
        for name in named:
            parse_settings(name, others["reward-model"][name].factory(), given)
        found.append(group)
    return tuple(found)


def parse_value(name: str, text: str, kind: type) -> bool | int | float | str:
    """The text of a setting as a value of type bool, int, float or str (any other `kind`: the text itself).

    Raises BenchError that names the setting and what was expected; NaN and infinity are no numbers here.
    """
    # Not pydantic's parser: it takes "1.0" for an int and "t" and "y" for true, and refuses digits outside ASCII.
    if kind is bool:
        if text.lower() in ("true", "yes", "1", "on", "false", "no", "0", "off"):
            return text.lower() in ("true", "yes", "1", "on")
        raise BenchError(f"{name}={text!r} is not true or false.", f"Write --set {name}=true.")
    if kind in (int, float):
        try:
            value: int | float = kind(text)
        except ValueError:
            raise BenchError(f"{name}={text!r} is not a number of type {kind.__name__}.") from None
        # float() reads "nan" and "inf", which no key can hold (store.canonical)
        if value != value or value in (float("inf"), float("-inf")):
            raise BenchError(f"{name}={text!r} is not a finite number.")
        return value
    return text


def factory_settings(name: str, factory: Callable[..., object], given: Row) -> JsonObject:
    """All settings of a plugin: its factory's defaults, overridden by `given`.

    Texts in `given` are parsed by the type of the parameter's default; other values are taken as they are.  Raises
    BenchError for a key that the factory lacks, a text of another type, a share or learning rate outside 0 .. 1, and a
    parameter without default that is not given.
    """
    from rlhf_bench.harness.plugins import parameters  # here: entry points take time, and `bench --help` needs none

    own = _settable(parameters(factory))
    values = {k: p.default for k, p in own.items() if p.default is not p.empty} | _parsed(name, own, given)
    missing = [k for k in own if k not in values]
    if missing:
        raise BenchError(f"{name} needs the setting {missing[0]!r}.", f"Add --set {name}.{missing[0]}=VALUE.")
    return values


def parse_settings(name: str, factory: Callable[..., object], given: Row) -> JsonObject:
    """The values of `given` alone, settings of the plugin `name`; raises BenchError as `factory_settings`."""
    from rlhf_bench.harness.plugins import parameters

    return _parsed(name, parameters(factory), given)


def _settable(parameters: Mapping[str, inspect.Parameter]) -> dict[str, inspect.Parameter]:
    """The parameters of a factory that settings can name."""
    return {k: p for k, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def _parsed(name: str, parameters: Mapping[str, inspect.Parameter], given: Row) -> JsonObject:
    """The values of `given`, settings of the plugin `name` whose factory has these parameters; raises BenchError as
    `factory_settings`."""
    own = _settable(parameters)
    values: JsonObject = {}
    for key, value in given.items():
        if key not in own:
            raise BenchError(f"Unknown setting {name}.{key}.", did_you_mean(key, own))
        default = own[key].default
        # a needed setting has no default to tell its type by: its text stays a text
        kind = str if default is inspect.Parameter.empty else type(default)
        values[key] = parse_value(f"{name}.{key}", value, kind) if isinstance(value, str) else value
        # the models of a server have names of its own, which may be those of folders here
        if isinstance(values[key], str) and not (key == "model" and "base_url" in own):
            values[key] = anchored(values[key], key)
        if isinstance(default, float):
            share = key in SHARES or key.endswith(("_share", "_rate"))
            if (share and not 0 <= values[key] <= 1) or (key == "lr" and not 0 < values[key] <= 1):
                allowed = "a number between 0 and 1" if share else "a number above 0, at most 1"
                raise BenchError(f"{name}.{key} is {values[key]!r}.", f"It must be {allowed}.")
    return values


SHARES = ("warmup", "threshold")
"""Names of settings of plugins that are shares, beside those that end in `_share` or `_rate`."""


MOST_SEEDS = 10_000
"""Seeds of one command: a longer range is a slip of the keyboard, and planning it would take hours and all memory."""
MANY_SEEDS = 100
"""Above this number of seeds the command line asks for --yes."""


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds of a count ("3": 0, 1, 2), a range ("11-14") or a list ("1,5,9").

    Raises BenchError for more than MOST_SEEDS; ValueError for other texts, for no seed, a repeated one, and one outside
    0 .. 2**31 - 1.
    """
    found: Sequence[int]
    if "," in text:
        _check_number(text.count(",") + 1)
        found = [int(part) for part in text.split(",")]
    elif "-" in text[1:]:  # not at the start: "-1" is a negative count
        low, _, high = text.partition("-")
        found = range(int(low), int(high) + 1)
    else:
        found = range(int(text))
    # by its ends: len() of a range beyond the largest index raises
    if isinstance(found, range):
        _check_number(found.stop - found.start)
    seeds = tuple(found)
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**31 or len(set(seeds)) < len(seeds):
        raise ValueError(text)
    return seeds


def _check_number(count: int) -> None:
    if count > MOST_SEEDS:
        # not the number itself, which may have thousands of digits
        raise BenchError(f"More than {MOST_SEEDS:,} seeds were asked for.", "Give fewer: a range such as 11-20.")


def parse_assignments(texts: tuple[str, ...]) -> dict[str, dict[str, str]]:
    """Texts "group.key=value" of --set as group -> key -> value.

    The key is what follows the last dot before the first "=", because a group may be `module.name:attribute`; the value
    may contain anything.  Raises BenchError for another form.
    """
    groups: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        group, dot, key = name.strip().rpartition(".")
        if not equals or not dot or not group or not key:
            raise BenchError(f"--set {text!r} is not of the form group.key=value.", "For example: --set ppo.kl=0.1")
        groups.setdefault(group, {})[key] = value.strip()
    return groups
