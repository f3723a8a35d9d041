"""Experiments of a user's own file: `bench experiment FILE.toml`, in the form of experiments.toml with claims beside.

The content goes into the record of the results folder, so that results are read where the file is not: a record is
checked as the file is, and reading it imports nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_bench.harness import forms, store, toml_files
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.forms import Count, Number, Only
from rlhf_bench.harness.plan import experiments
from rlhf_bench.harness.plan.combination_names import names_at
from rlhf_bench.harness.plan.experiments import Experiment, ExperimentRun
from rlhf_bench.harness.presets import parse_seeds
from rlhf_bench.harness.text.types import Row
from rlhf_bench.harness.toml_files import Keys

ENDING = ".toml"
KINDS: tuple[str, ...] = ("train", "agreement", "tuning")
"""Kinds of runs that a file may have: `credit` and `overhead` measure this package's own worlds and code."""
ADVICE = "See docs/run-files.md for an example."

SETTINGS: forms.Form = {str: (str, Number, bool)}
RUN: forms.Form = Only(
    {
        "name?": str,
        "task?": str,
        **{key: [str] for key in ("rms?", "judges?", "prompts?", "optimizers?", "needs?", "of?")},
        "set?": SETTINGS,
        **dict.fromkeys(("kind?", "seeds?", "gold?"), str),
        "n?": [Count],
        "relabel?": bool,
    }
)
CONTRAST: forms.Form = Only(
    {**dict.fromkeys(("a", "b", "judge", "statistic"), str), **dict.fromkeys(("slice?", "decoding?"), str)}
)
CLAIM: forms.Form = Only(
    {
        **dict.fromkeys(("text", "arm", "judge", "statistic", "side"), str),
        **dict.fromkeys(
            ("source?", "reported?", "task?", "run?", "versus?", "comparison?", "slice?", "decoding?"), str
        ),
        "threshold?": Number,
        "figure?": [Number],
        "runs?": [str],
    }
)
DEFINITION: forms.Form = Only(
    {
        "question": str,
        "seeds": str,
        "runs": [RUN],
        "set?": SETTINGS,
        "contrasts?": [CONTRAST],
        "claims?": {str: CLAIM},
        "shows?": [str],
        **dict.fromkeys(("data_seeds?", "reward_seeds?", "preset?"), str),
    }
)
"""A table of the file, and `definition` of a record."""


def is_file(name: str) -> bool:
    """Whether the name of an experiment is that of a file."""
    return name.endswith(ENDING)


def read(path: Path, trusted: Collection[str] = ()) -> Experiment:
    """The experiment in the file; `trusted` are names of code that the user gave in this call.

    Raises BenchError, with line and key, for a file that cannot be read, that has not exactly one experiment, and for
    what `of_definition` and `toml_files.check_name` refuse.
    """
    text, found = toml_files.read(path, ADVICE)
    if len(found) != 1 or not isinstance(next(iter(found.values())), dict):
        seen = f"{path} has {len(found)} entries at its top: {', '.join(map(repr, list(found)[:5])) or 'none'}."
        raise BenchError(seen, "Give one table with the experiment's name: [my-experiment].")
    name, definition = next(iter(found.items()))

    def place(keys: Keys) -> str:
        return toml_files.place(path, text, (name, *keys))

    _check_keys(definition, place)
    try:
        made = of_definition(name, definition)
    except BenchError as error:
        raise BenchError(f"{place(_named(definition, error.seen))}: {error.seen}", error.fix) from None
    for run in made.runs:
        members = [name for rm in run.rms for name in names_at(rm, place(("runs",)))]
        for one in (run.task, *members, *run.judges, *run.prompts, run.gold):
            toml_files.check_name(one, trusted, place(("runs",)))
        for key, value in run.set.items():
            source = key.rpartition(".")[2] == "source"
            toml_files.check_name(str(value), trusted, place(("set", key)), source=source)
    return made


def of_definition(name: str, definition: object) -> Experiment:
    """The experiment of a definition, of a file or a record.  Raises BenchError where it is none."""
    if not store.is_plain_name(name) or name in experiments.load():
        seen = "is the name of a packaged experiment" if name in experiments.load() else "is no plain name"
        raise BenchError(f"The experiment's name {name!r} {seen}.", "Give another: letters, digits, - and _.")
    if problem := forms.problem(definition, DEFINITION):
        raise BenchError(f"{name}: {problem}.", ADVICE)
    assert isinstance(definition, dict)
    made = experiments.made_of(name, definition)
    _check_runs(made)
    known = {rm for run in made.runs for rm in run.rms}
    for contrast in made.contrasts:
        for arm in (contrast.a, contrast.b):
            if arm not in known:
                raise BenchError(f"{name}: a contrast names {arm!r}, which no run has.", did_you_mean(arm, known))
    for text in filter(None, (made.seeds, made.data_seeds, made.reward_seeds, *(run.seeds for run in made.runs))):
        try:
            parse_seeds(text)
        except ValueError:
            seen = f"{name}: seeds {text[:60]!r} are no number of seeds, no range like 11-14 and no list like 1,5,9."
            raise BenchError(seen) from None
    return made


def of_record(record: Row) -> Experiment:
    """The experiment that a record of a results folder is of.

    Raises BenchError for one that this version lacks, and for a definition that is none.
    """
    if "definition" in record:
        return of_definition(record["name"], record["definition"])
    return experiments.find(record["name"])


def _check_runs(made: Experiment) -> None:
    if not made.runs:
        raise BenchError(f"{made.name} has no run.", ADVICE)
    names = [run.name for run in made.runs]
    if twice := next((one for one in names if names.count(one) > 1), ""):
        raise BenchError(f"{made.name}: two runs are called {twice!r}.", "Give every run a name of its own.")
    trained = {run.name for run in made.runs if run.kind == "train"}
    for run in made.runs:
        if run.kind not in KINDS:
            raise BenchError(f"{made.name}: {run.name} is of kind {run.kind!r}.", did_you_mean(run.kind, KINDS))
        if run.kind == "train" and run.of:
            raise BenchError(f"{made.name}: {run.name} trains and has `of`.", "Name runs in one that compares them.")
        if run.kind != "train":
            _check_compared(made.name, run, trained)


def _check_compared(name: str, run: ExperimentRun, trained: Collection[str]) -> None:
    for one in run.of:
        if one not in trained:
            raise BenchError(f"{name}: {run.name} is of the run {one!r}, which is none.", did_you_mean(one, trained))
    if run.kind == "agreement" and (len(run.of) != 2 or not run.n):
        raise BenchError(f"{name}: {run.name} needs `of` with a run of PPO and one of best-of-n, and `n`.", ADVICE)
    if run.kind == "tuning" and not run.of:
        raise BenchError(f"{name}: {run.name} needs `of`, the runs that differ in settings alone.", ADVICE)


def _check_keys(definition: Mapping[str, Any], place: Any) -> None:
    """Raises BenchError with a suggestion for the first unknown key."""
    for keys, known in _unknown(definition):
        shown = ".".join(keys)
        raise BenchError(f"{place(keys)}: unknown key {shown!r}.", did_you_mean(keys[-1], known))


def _unknown(definition: Mapping[str, Any]) -> Iterator[tuple[Keys, Sequence[str]]]:
    def of(value: object, form: forms.Form, keys: Keys) -> Iterator[tuple[Keys, Sequence[str]]]:
        known = [name.removesuffix("?") for name in form]
        if isinstance(value, dict):
            yield from (((*keys, key), known) for key in value if key not in known)

    yield from of(definition, DEFINITION, ())
    for name, form in (("runs", RUN), ("contrasts", CONTRAST)):
        given = definition.get(name)
        for one in given if isinstance(given, list) else ():
            yield from of(one, form, (name,))
    claims = definition.get("claims")
    for name, claim in claims.items() if isinstance(claims, dict) else ():
        yield from of(claim, CLAIM, ("claims", name))


def _named(definition: Mapping[str, Any], seen: str) -> Keys:
    """The key of the definition that an error's words name, for its line; () for the table's own name."""
    if seen.startswith("The experiment's name"):
        return ()
    for key in ("contrasts", "claims", "runs", "seeds", "shows", "question", "set"):
        if key in definition and (key in seen or (key == "contrasts" and "contrast" in seen)):
            return (key,)
    return ("runs",) if "runs" in definition else ()
