"""The hostile folders of hostile.py: results folders and reports.  Data and models have files of their own."""

# ruff: noqa: ARG001, ARG005 - every builder takes the same arguments

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import SIZES, bench, command

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from hostile_place import ARM, CELL, Place
from hostile_results import JUDGE, LEADING, POWER, RECORDS, REPORT, SCORE, experiment_record
from payloads import PAYLOADS
from small import settings
from stored import Stored, make

SECRET = "canary-5f0e9c-of-someone"
"""The content of a file outside of every folder, and of an environment variable."""
SHORT = {"sft.steps": 1, "ppo.iterations": 1, "ppo.checkpoints": 1, "dialogsum.demonstrations": 24}
SMALL = shlex.join(settings(("length-only",), **SHORT))
STORE = "check store runs --full"
READERS = (REPORT, POWER, JUDGE, SCORE, STORE)
AGAIN = shlex.join(command(Path("runs"), rms=("scalar",)))
"""The run that the stock's results folder is of."""

Build = Callable[[Place, Path], object]
"""Makes the folder at a place, from the stock of sound models and runs."""


class Folder(NamedTuple):
    """A hostile folder, and the commands that open it, in `cwd` below the place.

    With `fresh` a command is started as `bench` is, instead of in a fork of a process that has imported torch.
    """

    kind: str
    name: str
    build: Build
    lines: tuple[str, ...]
    cwd: str = ""
    fresh: bool = False


def folders() -> Iterator[Folder]:
    """All of them."""
    from hostile_data import data_folders
    from hostile_models import model_folders

    for number, (line, build, said) in enumerate(RECORDS):
        yield Folder("a name in a record", f"{number}: {line}: {said}", finished(build), (REPORT, JUDGE, SCORE, STORE))
    for number, (build, said) in enumerate(LEADING):
        yield Folder("a link or a place", f"{number}: {said}", finished(build), READERS)
    for name, target in OUTWARD.items():
        yield Folder("a link or a place", f"cells is a link to {name}", finished(outward("cells", target)), READERS)
        where = f"ppo/{ARM}/generations.jsonl"
        yield Folder("a link or a place", f"rows are a link to {name}", finished(outward(where, target)), READERS)
    yield from repaired()
    yield from resumed()
    yield from records()
    yield from texts()
    yield from data_folders()
    yield from model_folders()


def stock_of(folder: Path) -> Path:
    """Sound folders to start from: `runs` (a finished run), `cut` (one that was killed at a checkpoint), models."""
    from hostile_stock import stock_models

    for made in (bench(*command(folder / "runs", rms=("scalar",))),):
        if made.code:
            sys.exit(f"The run without an attack ended with {made.code}: {made.text}")
    process = os.fork()
    if not process:
        os.setsid()
        bench(*command(folder / "cut", "-q", rms=("scalar",), **{"sft.save_every": 1, "sft.steps": 200}))
        os._exit(0)
    while not list((folder / "cut").glob(".partial/sft-*/scratch/checkpoint-*/trainer_state.json")):
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    stock_models(folder)
    return folder


def finished(build: Callable[[Place], object]) -> Build:
    """In a results folder that was written by hand."""

    def whole(place: Place, stock: Path) -> None:
        make(place.runs, Stored(rms=("scalar",), seeds=(1,)))
        build(place)

    return whole


# -- links -----------------------------------------------------------------------------------------------------------

OUTWARD = {
    "a secret": "outside/secret",
    "the environment": "/proc/self/environ",
    "zeros without end": "/dev/zero",
    "the terminal": "/dev/stdin",
    "itself": "",
}


def target_of(place: Place, path: Path, target: str) -> Path:
    return place.home / target if target else path


def outward(path: str, target: str) -> Callable[[Place], None]:
    def build(place: Place) -> None:
        file = place.runs / path
        shutil.rmtree(file) if file.is_dir() else file.unlink()
        file.symlink_to(target_of(place, file, target))

    return build


# -- results folders that a run goes on with -------------------------------------------------------------------------


def repaired() -> Iterator[Folder]:
    """A real results folder of someone else, over which the run is repeated with --repair."""

    def of_stage(kind: str, change: Callable[[Any], Any]) -> Build:
        def build(place: Place, stock: Path) -> None:
            shutil.copytree(stock / "runs", place.runs)
            for file in place.runs.glob(f"{kind}/*/stage.json"):
                file.write_text(json.dumps(change(json.loads(file.read_text()))))

        return build

    def linked(pattern: str, target: str) -> Build:
        def build(place: Place, stock: Path) -> None:
            shutil.copytree(stock / "runs", place.runs)
            for file in place.runs.glob(pattern):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
                file.symlink_to(target_of(place, file, target))

        return build

    def pickled(pattern: str) -> Build:
        def build(place: Place, stock: Path) -> None:
            from hostile_stock import pickles

            shutil.copytree(stock / "runs", place.runs)
            for folder in place.runs.glob(pattern):
                pickles(place, folder, ("pytorch_model.bin", "training_args.bin", "model.safetensors"))

        return build

    evil = {"name": "evil:run", "settings": {}}
    lines = (f"{AGAIN} --repair", AGAIN)
    changes: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "the entry of a stage": ("*", lambda r: {**r, "entry": "evil:run", "function": "os:system"}),
        "the reward model of a stage": ("*", lambda r: {**r, "params": {**r["params"], "rm": evil}}),
        "the task of a stage": ("*", lambda r: {**r, "params": {**r["params"], "task": evil}}),
        "the inputs of a stage": ("*", lambda r: {**r, "inputs": {"sft": "../../outside", "prompts": "/etc"}}),
        "the files of a stage": (
            "*",
            lambda r: {**r, "files": {"../../../outside/secret": {"sha256": "0", "size": 24}}},
        ),
        "the place of a stage": ("*", lambda r: {**r, "kind": "..", "label": "outside", "key": "secret"}),
        "a stage of a billion files": ("*", lambda r: {**r, "figures": {"train_examples": 10**300}}),
    }
    for name, (kind, change) in changes.items():
        yield Folder("a run repeated with --repair", name, of_stage(kind, change), lines)
    for pattern in (
        "sft",
        "sft/*",
        "sft/*/policy",
        "reward/*/model.safetensors",
        "verdicts/*/verdicts.jsonl",
        "report",
    ):
        for target in ("outside", "outside/secret"):
            yield Folder(
                "a run repeated with --repair", f"{pattern} is a link to {target}", linked(pattern, target), lines
            )
    for pattern in ("sft/*/policy", "reward/*"):
        yield Folder("a run repeated with --repair", f"pickles in {pattern}", pickled(pattern), lines)


def resumed() -> Iterator[Folder]:
    """A results folder of a run that was killed: its trainer's checkpoint holds pickles by nature."""

    def build(*names: str) -> Build:
        def made(place: Place, stock: Path) -> None:
            from hostile_stock import pickles

            shutil.copytree(stock / "cut", place.runs)
            for folder in place.runs.glob(".partial/*/scratch/checkpoint-*"):
                pickles(place, folder, names)

        return made

    line = shlex.join(
        command(Path("runs"), rms=("scalar",), **{"sft.save_every": 1, "sft.steps": 200, "ppo.iterations": 1})
    )
    for name in (
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "training_args.bin",
        "model.safetensors",
        "scaler.pt",
    ):
        yield Folder("a checkpoint with a pickle", name, build(name), (line,))
    yield Folder(
        "a checkpoint with a pickle", "pytorch_model.bin", build("pytorch_model.bin", "optimizer.bin"), (line,)
    )


# -- records ---------------------------------------------------------------------------------------------------------


def records() -> Iterator[Folder]:
    """Sizes and shapes of records, experiments, and reports that someone else wrote."""
    cell = f"cells/{CELL}.json"

    def cell_with(**more: Any) -> Callable[[Place], None]:
        return lambda place: place.change(cell, lambda r: {**r, **more})

    sizes: dict[str, Callable[[Place], None]] = {
        "a trillion checkpoints": cell_with(checkpoints={"iterations": 10**12, "count": 10**12}),
        "a seed of a thousand digits": cell_with(seed=10**1000),
        "a label of a megabyte": cell_with(reward_model="x" * 2**20, arm="y" * 2**20),
        "JSON of a million levels": lambda place: (place.runs / cell).write_text("[" * 10**6) and None,
        "a thousand judges": cell_with(judges={f"j{i}": ["verdicts", f"j{i}", "0"] for i in range(1000)}),
        "rows with numbers of a thousand digits": lambda place: (
            (place.runs / "ppo" / ARM / "generations.jsonl").write_text('{"iteration": ' + "9" * 4000 + "}\n") and None
        ),
        "iterations up to a trillion": lambda place: rows(place, lambda r: {**r, "iteration": 10**12}),
        "tokens up to a trillion": lambda place: rows(place, lambda r: {**r, "tokens": 10**12, "spans": [[0, 10**12]]}),
        "a response of ten megabytes": lambda place: rows(place, lambda r: {**r, "response": "x" * 10**6}),
        "a row that is a list": lambda place: (
            (place.runs / "ppo" / ARM / "generations.jsonl").write_text("[]\n") and None
        ),
    }
    for name, build in sizes.items():
        yield Folder("a huge or odd record", name, finished(build), READERS)
    for name, more in {
        "runs elsewhere": {"runs": {"main": ["../../outside/cells/x", "/etc/passwd"]}},
        "analyses elsewhere": {"analyses": {"main": [{"reward_model": "", "seed": 1, "place": ["..", "x", "y"]}]}},
        "a name elsewhere": {"name": "../../outside"},
        "a command": {"command": "$(touch sentinel)\x1b[31m", "question": PAYLOADS[0]},
    }.items():
        yield Folder(
            "a huge or odd record",
            f"an experiment with {name}",
            finished(lambda place, more=more: experiment_record(place, **more)),
            ("claims runs", STORE),
        )

    def report_with(change: Callable[[Any], Any]) -> Build:
        def build(place: Place, stock: Path) -> None:
            shared = place.home / "shared"
            shutil.copytree(stock / "runs" / "report", shared)
            (shared / ".files.json").unlink(missing_ok=True)
            file = shared / "report.json"
            file.write_text(json.dumps(change(json.loads(file.read_text()))))

        return build

    exports = tuple(
        f"export shared --format {form} --organization me --out new" for form in ("model-index", "every-eval-ever")
    )
    for name, change in {
        "escapes and tags": lambda r: {
            **r,
            "warnings": [*PAYLOADS],
            "question": "\x1b]0;x\x07",
            "arms": poisoned(r["arms"]),
        },
        "names with paths": lambda r: {**r, "arms": poisoned(r["arms"], "../../outside/x")},
        "estimates that are none": lambda r: {**r, "estimates": [1, None, {}]},
        "no estimates": lambda r: {key: r[key] for key in ("schema", "schema_version")},
        "numbers without end": lambda r: {**r, "estimates": [{**e, "value": 10**400} for e in r["estimates"]]},
    }.items():
        yield Folder("a written report", name, report_with(change), ("api.load_report shared", *exports))

    def linked_report(place: Place, stock: Path) -> None:
        (place.home / "shared").mkdir()
        (place.home / "shared" / "report.json").symlink_to(place.outside / "secret")

    def piped_report(place: Place, stock: Path) -> None:
        (place.home / "shared").mkdir()
        os.mkfifo(place.home / "shared" / "report.json")

    def huge_report(place: Place, stock: Path) -> None:
        (place.home / "shared").mkdir()
        (place.home / "shared" / "report.json").write_text("[" * 10**6)

    for name, build in {"a link": linked_report, "a pipe": piped_report, "a million levels": huge_report}.items():
        yield Folder("a written report", name, build, ("api.load_report shared", *exports))


def rows(place: Place, change: Callable[[Any], Any]) -> None:
    """Change the rows of a run's responses."""
    file = place.runs / "ppo" / ARM / "generations.jsonl"
    file.write_text("".join(json.dumps(change(json.loads(line))) + "\n" for line in file.read_text().splitlines()))


def poisoned(value: Any, text: str = "</script><script>x</script>\x1b[31m\u202e<img src=x onerror=x>") -> Any:
    """All texts of a JSON value replaced."""
    if isinstance(value, dict):
        return {key: poisoned(one, text) for key, one in value.items()}
    return (
        [poisoned(one, text) for one in value] if isinstance(value, list) else text if isinstance(value, str) else value
    )


# -- texts -----------------------------------------------------------------------------------------------------------

TERMINAL = "\x1b]0;title\x07\x1b[31m\x1b[2J\x9b31m\r\x08\u202e\u2066[bold]x[/bold][link=http://x]y[/link]\x00\u2028"


def texts() -> Iterator[Folder]:
    """Responses, prompts, names and notes that a page or a terminal would take for its own."""
    everything = " ".join(PAYLOADS)

    def stored(**more: Any) -> Build:
        return lambda place, stock: make(place.runs, Stored(rms=("scalar",), seeds=(1,), **more))

    lines = (REPORT, "report runs --terminal", POWER, JUDGE, STORE)
    for name, text in {"tags": everything, "escapes": TERMINAL}.items():
        yield Folder(
            "texts for pages and terminals", f"{name} in responses", stored(words=lambda *_, t=text: (t,)), lines
        )
        yield Folder(
            "texts for pages and terminals", f"{name} in prompts", stored(prompt=lambda k, t=text: f"{k} {t}"), lines
        )
        yield Folder(
            "texts for pages and terminals", f"{name} in notes", stored(judge_note=text, correction=text), lines
        )

        def named(place: Place, text: str = text) -> None:
            place.change(
                f"cells/{CELL}.json",
                lambda r: {
                    **r,
                    **dict.fromkeys(("task", "home", "reward_model", "arm", "policy"), text),
                    "differing": {text: text},
                    "origin": poisoned(r["origin"], text),
                },
            )

        yield Folder("texts for pages and terminals", f"{name} in a cell's names", finished(named), lines)

        def judged(place: Place, text: str = text) -> None:
            for file in place.runs.glob("verdicts/*/measures.json"):
                file.write_text(
                    json.dumps([{**one, "name": text, "description": text} for one in json.loads(file.read_text())])
                )
            for file in place.runs.glob("verdicts/*/verdicts.jsonl"):
                whole = [json.loads(line) for line in file.read_text().splitlines()]
                changed = [
                    {
                        **r,
                        "values": dict.fromkeys([text], next(iter(r["values"].values()))),
                        "reason": text,
                        "slices": [text],
                    }
                    for r in whole
                ]
                file.write_text("".join(json.dumps(row) + "\n" for row in changed))

        yield Folder("texts for pages and terminals", f"{name} in a judge's measures", finished(judged), lines)

        def told(place: Place, text: str = text) -> None:
            for file in place.runs.glob("*/*/stage.json"):
                record = json.loads(file.read_text())
                changes = {"versions": {"torch": text, text: text}, "machine": text, "device": text}
                file.write_text(json.dumps({**record, **changes, "params": {"judge": {"name": text}}}))

        yield Folder("texts for pages and terminals", f"{name} in stage records", finished(told), lines)


assert SIZES  # the sizes that SMALL names
