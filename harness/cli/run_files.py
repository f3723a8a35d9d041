"""Run files: the options of `bench run` as TOML, so that a comparison is a file that is shared, diffed and run again.

A key is the name of an option without its dashes; those that say how to compute (--jobs, --out, ...) are not among
them.  Settings stand in tables, `[set.ppo]`.  What the command line gives replaces the file's; settings add up.

A run file may come from somebody else.  It names data, models and registered plugins, and no code: a name that imports
a module is refused unless the user names it as well (--trust).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from rlhf_bench.harness import toml_files
from rlhf_bench.harness.cli.options import Command
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.plan.combination_names import names_at
from rlhf_bench.harness.toml_files import Keys, check_name, line_of, lines_of

NAMES = ("task", "rm", "judge", "prompts", "train-prompts", "gold")
"""The keys whose texts name plugins."""

TEXT, TEXTS, FLAG, COUNT = "a text", "a text or a list of texts", "true or false", "a number"
SEEDS = 'a number of seeds, a text such as "301-303", or a list of them'
NUMBERS = 'a list of numbers, or a text such as "1,2,4"'
KEYS: Mapping[str, tuple[str, str]] = {
    "task": ("task", TEXT),
    "rm": ("reward_models", TEXTS),
    "optimizer": ("optimizers", TEXTS),
    "n": ("n", NUMBERS),
    "judge": ("judges", TEXTS),
    "seeds": ("seeds", SEEDS),
    "data-seeds": ("data_seeds", SEEDS),
    "reward-seeds": ("reward_seeds", SEEDS),
    "policy": ("policy", TEXT),
    "preset": ("preset", TEXT),
    "data": ("data", TEXT),
    "prompts": ("prompts", TEXTS),
    "train-prompts": ("train_prompts", TEXT),
    "gold": ("gold", TEXT),
    "relabel": ("relabel", FLAG),
    "limit": ("limit", COUNT),
}
"""Key of the file -> the option's parameter, and what its value is.  Besides them there is `set`."""
SET = "set"


@dataclass(frozen=True)
class RunFile:
    """What a run file says: `values` by the option's parameter, `assignments` as texts of --set.

    `text` is the file's, for the line of a key.
    """

    path: Path
    text: str
    values: Mapping[str, Any]
    assignments: tuple[str, ...]

    def located(self, error: BenchError) -> BenchError:
        """An error with the line of the setting that it names, or of the name that it does not know; else as it is."""
        if type(error) is not BenchError:  # a damaged result is not the file's, and has an exit code of its own
            return error
        # the longest first: `ppo.lr` is a part of `ppo.lr_end`
        for name, line in sorted(self._named(), key=lambda one: -len(one[0])):
            # other errors may name an arm that is right, such as one whose training failed
            if name in error.seen and (not name.startswith("'") or error.seen.startswith("Unknown")):
                return BenchError(f"{self.path}, line {line}: {error.seen}", error.fix)
        return error

    def _named(self) -> Iterator[tuple[str, int]]:
        for keys, line in lines_of(self.text):
            if keys[0] == SET and len(keys) > 1:
                yield ".".join(keys[1:]), line
        for key in KEYS:
            value = self.values.get(KEYS[key][0], ())
            for one in (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ():
                if one:
                    yield repr(one), line_of(self.text, (key,))


def read(path: Path, trusted: Collection[str] = ()) -> RunFile:
    """The run file at `path`; `trusted` are names of code that the user gave in this call.

    Raises BenchError, with line and key, for a file that cannot be read, an unknown key, a value of another type, an
    empty text, and a name of code that is not trusted.
    """
    text, found = toml_files.read(path, "Give a run file (docs/run-files.md).")
    values: dict[str, Any] = {}
    for key, value in found.items():
        if key == SET:
            continue
        place = toml_files.place(path, text, (key,))
        if key not in KEYS:
            raise BenchError(f"{place}: unknown key {key!r}.", did_you_mean(key, [*KEYS, SET]))
        name, form = KEYS[key]
        values[name] = _value(value, form, f"{place}: {key}")
        if key in NAMES:
            for one in values[name] if isinstance(values[name], tuple) else (values[name],):
                for plain in names_at(one, place) if key == "rm" else (one,):
                    check_name(plain, trusted, place)
    assignments = tuple(_assignments(found.get(SET, {}), path, text, trusted))
    return RunFile(path, text, values, assignments)


def _value(value: Any, form: str, named: str) -> Any:
    """A value as click takes it from the command line.  `named`: place and key, for the error."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if form == FLAG and isinstance(value, bool):
        return value
    if form == COUNT and is_number:
        return value
    if form in (SEEDS, NUMBERS) and is_number:
        return str(value)
    if form in (TEXT, TEXTS, SEEDS, NUMBERS) and isinstance(value, str):
        if not value.strip():
            raise BenchError(f"{named} is empty.", "Name one, or leave the key out for its default.")
        return (value,) if form == TEXTS else value
    if isinstance(value, list) and value:
        if form == TEXTS and all(isinstance(one, str) and one.strip() for one in value):
            return tuple(value)
        if form in (SEEDS, NUMBERS) and all(isinstance(one, int) and not isinstance(one, bool) for one in value):
            return seeds_text(value) if form == SEEDS else ",".join(map(str, value))
    shown = repr(value)[:60]
    raise BenchError(f"{named} is {shown}.", f"Give {form}.")


def _assignments(found: Any, path: Path, text: str, trusted: Collection[str]) -> Iterator[str]:
    """The settings as texts of --set, in the file's order."""
    if not isinstance(found, dict):
        raise BenchError(
            f"{toml_files.place(path, text, (SET,))}: set is {found!r}.", "Give tables: [set.ppo], then kl = 0.1."
        )
    for keys, value in _leaves(found):
        place = toml_files.place(path, text, (SET, *keys))
        name = ".".join(keys)
        if "." not in name or "=" in name:
            raise BenchError(f"{place}: {name!r} is no setting.", "Write [set.GROUP], then KEY = VALUE.")
        shown = _shown(value)
        if shown is None:
            raise BenchError(
                f"{place}: {name} is {value!r}.", "Give a text, a number, true or false, or a list of these."
            )
        check_name(shown, trusted, place, source=keys[-1].rpartition(".")[2] == "source")
        yield f"{name}={shown}"


def _leaves(found: Mapping[str, Any]) -> Iterator[tuple[Keys, Any]]:
    for key, value in found.items():
        if isinstance(value, dict):
            for keys, leaf in _leaves(value):
                yield (key, *keys), leaf
        else:
            yield (key,), value


def _shown(value: Any) -> str | None:
    """A value as --set has it; None for what it cannot have."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, list) and value:
        every = [_shown(one) for one in value if not isinstance(one, list)]
        if len(every) == len(value) and all(one is not None for one in every):
            return ",".join(filter(None, every))
    return None


# -- writing -----------------------------------------------------------------------------------------------------------


def content(options: Mapping[str, Any], assignments: Sequence[str]) -> str:
    """The run file of options by parameter (those that are None, empty or False are left out) and texts of --set."""
    import tomli_w

    from rlhf_bench.harness.presets import parse_assignments

    made: dict[str, Any] = {}
    for key, (name, form) in KEYS.items():
        value = options.get(name)
        if value in (None, False, "", ()):
            continue
        if form == TEXTS:
            made[key] = list(value)
        elif isinstance(value, tuple):
            made[key] = seeds_text(value)
        else:
            made[key] = value
    groups = parse_assignments(tuple(assignments))
    if groups:
        made[SET] = {group: {key: _read(text) for key, text in keys.items()} for group, keys in groups.items()}
    return tomli_w.dumps(made)


def _read(text: str) -> bool | int | float | str:
    """The number or truth value that is written as this text of --set; the text where none is."""
    for form in (int, float):
        try:
            value = form(text)
        except ValueError:
            continue
        if _shown(value) == text:
            return value
    return {"true": True, "false": False}.get(text, text)


def seeds_text(seeds: Sequence[int]) -> str:
    """Seeds as --seeds takes them back."""
    first, last = seeds[0], seeds[-1]
    if list(seeds) == list(range(first, first + len(seeds))):
        return f"{first}-{last}"  # also of one seed, which by itself would be so many
    return ",".join(map(str, seeds))


def write(path: Path, text: str) -> None:
    """Write a new run file.  Raises BenchError where another file is there; the same one stays."""
    from rlhf_bench.harness.replacing import write_text

    if path.exists():
        if not path.is_file() or path.read_bytes() != text.encode():
            raise BenchError(f"{path} is there already, and says something else.", "Give another name, or remove it.")
        return
    write_text(path, text)


# -- click -------------------------------------------------------------------------------------------------------------


class Configured(Command):
    """A command with --config: what the file says stands in for the defaults of the other options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, after the file is read into `ctx.obj`.

        Raises BenchError as `read` does, and for a value of the file that an option refuses.
        """
        given = {} if ctx.resilient_parsing else self.make_parser(ctx).parse_args(list(args))[0]
        if not given.get("config"):
            return super().parse_args(ctx, args)
        ctx.obj = found = read(Path(given["config"]), given.get("trust") or ())
        ctx.default_map = dict(found.values)
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            key = next((key for key, (name, _) in KEYS.items() if error.param and name == error.param.name), "")
            if not key or given.get(KEYS[key][0]):
                raise
            raise BenchError(f"{toml_files.place(found.path, found.text, (key,))}: {key}: {error.message}") from None
