"""Write docs/reliability.md from benchmarks/faults/results.json, and that from a folder of the campaigns' JSON files.

    python benchmarks/faults/page.py [FOLDER] [--commit TEXT]

FOLDER holds NAME.json for each campaign NAME.py that was run with `--json FOLDER/NAME.json`; `NAME.more.json` are
further runs of a fuzzer.  Other campaigns stay as results.json has them, each with the commit that it tried.  Without
FOLDER the page is written again from results.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = Path(__file__).with_name("results.json"), ROOT / "docs" / "reliability.md"
COUNTS = ("tried", "clean", "failed")

CAMPAIGNS = {
    "hostile": (
        "Hostile folders",
        "Results folders, data, models, adapters and reports that attack who opens them: names of code in records, "
        "pickles, remote code, chat templates, regular expressions, links, pipes, bombs, texts for pages. "
        "Clean: refused in one line, or used as data; no code of the folder ran, no program was started, no connection "
        "was opened, a secret outside showed nowhere, within limits of time and memory.",
    ),
    "damage": (
        "Damaged files",
        "One file of a finished results folder is cut, changed in one bit, emptied, deleted, replaced or extended. "
        "Clean: each command names what is damaged, or gives the same numbers as without the damage.",
    ),
    "kills": (
        "Interrupted runs",
        "SIGKILL, SIGTERM and SIGINT at random moments, then the same command again. Clean: the signal ended the "
        "process as it must, and the finished run equals an undisturbed one to the byte, but for times and memory.",
    ),
    "inputs": (
        "Bad input",
        "Command lines with odd values of every setting and option, and odd files. Clean: exit code 2, one printable "
        "line, nothing written.",
    ),
    "layouts": (
        "Layouts of data",
        "Rows in the shapes of public data sets and of tools. Clean: prompts and answers are read as they are meant.",
    ),
    "servers": (
        "Servers of language models",
        "A local server that is slow, sends odd bytes, refuses, redirects, or words its verdict in another way. Clean: "
        "the right verdict or a stated reason, no key shown, few requests, little time.",
    ),
}
"""By the name of the program: title, and what it does."""

FUZZING = {
    "fuzz_data": "readers of data: rows or one error of one line, and texts as they were written",
    "fuzz_verdicts": "the parser of verdicts: only a verdict that the reply states, in little time",
    "fuzz_records": "records, rows and reports of a results folder: read, or one error of one line",
}

NOT_COVERED = """\
- Chat templates and regular expressions of tokenizers are tried on sample texts within bounds, before they are used.
  One that behaves well on these texts and runs without end on another is not found.
- A model or data set on the Hugging Face hub: no campaign has a network. Folders alone are tried. The hub's client and
  its cache are trusted.
- Safe reading of safetensors, Parquet, Arrow and JSON is left to their libraries, as are the sandbox of Jinja and the
  parsers of tokenizers. A fault in native code of theirs is not looked for.
- Code that a person names (`module:attribute`, `--trust`, an installed plugin) runs with all rights.
- A memory limit is the campaign's own, 6 GiB: `bench` sets none. A folder may ask for all memory of a machine.
- Layouts of data and forms of replies are partly written from memory of the formats, not from copies of the data.
- Servers are local imitations: no real server of a language model was asked.
- A full disk, a quota and an error of input or output are simulated. No real device was filled or broken, no power cut
  was tried, and no network file system.
- Interruptions are those of small runs on the CPU, one process each. Several machines over one folder are not tried.
- No GPU, no bfloat16 on a device, no vLLM.
- Linux alone, one version of Python and of each library.
- Open faults: none known. The two that `hostile.py` counts, and the one of `fuzz_records.py`, were mended after their
  campaigns, and those folders tried again. The readers of reports were fuzzed on an earlier commit of the same day.
- A policy that is named by its id on the hub is not tried at planning: a chat template of it that writes no token of a
  prompt ends in a traceback.
- Fuzzing finds what its generators reach. It is no proof. The machine was busy: see the minutes of the processor.
"""


def normalised(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What the page needs of a campaign's JSON; a fuzzer's in the form of the others, with its kinds as properties."""
    if name in FUZZING:
        # a fault is named by its property, or by its place in the code with the property in its first line
        failed = Counter(
            kind if kind in found["tried"] else text.split("\n")[0] for kind, text in found["faults"].items()
        )
        kinds = {
            kind: {"tried": number, "clean": number - failed[kind], "failed": failed[kind]}
            for kind, number in found["tried"].items()
        }
        sums = {column: sum(own[column] for own in kinds.values()) for column in COUNTS}
        return {**sums, "kinds": kinds, "minutes": found["minutes"], "processor_seconds": found["processor_seconds"]}
    return {key: found[key] for key in (*COUNTS, "kinds", "seconds", "processor_seconds")}


def assembled(folder: Path, commit: str, before: Mapping[str, Any]) -> dict[str, Any]:
    """The content of results.json: campaigns from the files in a folder, the others as they were `before`."""
    names = [name for name in (*CAMPAIGNS, *FUZZING) if (folder / f"{name}.json").is_file()]
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    found = {}
    for name in names:
        one = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for path in sorted(folder.glob(f"{name}.*.json")):
            one = together(one, json.loads(path.read_text(encoding="utf-8")))
        found[name] = {**normalised(name, one), "commit": commit, "date": today}
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{library: version(library) for library in ("torch", "transformers", "tokenizers", "peft", "trl")},
    }
    return {"machine": machine, "campaigns": {**before.get("campaigns", {}), **found}}


def together(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two runs of a fuzzer as one: times and numbers of inputs added, faults of both."""
    tried = Counter(one["tried"])
    tried.update(other["tried"])
    times = {name: one[name] + other[name] for name in ("minutes", "processor_seconds")}
    return {**one, **times, "tried": dict(tried), "faults": {**one["faults"], **other["faults"]}}


def page(results: Mapping[str, Any]) -> str:
    """docs/reliability.md."""
    campaigns, machine = results["campaigns"], dict(results["machine"])
    system, cores = machine.pop("system"), machine.pop("cores")
    libraries = ", ".join(f"{name} {number}" for name, number in machine.items())
    lines = [
        "# Reliability",
        "",
        "What happens when a folder is hostile, a file is damaged, a run is interrupted, input is bad, or a server "
        "misbehaves: campaigns in `benchmarks/faults/` try it and count. This page is written by "
        "`benchmarks/faults/page.py`.",
        "",
        f"{system}, {cores} cores, {libraries}.",
        "",
        "| campaign | tried | clean | failed | minutes | processor minutes | commit |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for name, (title, _) in CAMPAIGNS.items():
        one = campaigns.get(name)
        row = [f"{one[column]:,}" for column in COUNTS] if one else ["not run", "", ""]
        times = [f"{one[key] / 60:.1f}" for key in ("seconds", "processor_seconds")] if one else ["", ""]
        times.append(f"`{one['commit']}`, {one['date']}" if one else "")
        lines.append(f"| [{title}](#{anchor(title)}) | {' | '.join([*row, *times])} |")
    lines += ["", "The machine had other work: the minutes are no measure of speed.", ""]
    for name, (title, what) in CAMPAIGNS.items():
        lines += [f"## {title}", "", what, "", *block(name), ""]
        lines += kinds(campaigns[name]) if name in campaigns else ["Not run for this page.", ""]
    lines += [
        "## Fuzzing",
        "",
        "Inputs are generated from the pieces that real ones consist of, until the time is up. "
        "A property that failed once is not tried again. A fault is an input that breaks a property.",
        "",
    ]
    for name, what in FUZZING.items():
        one = campaigns.get(name)
        lines += [f"`{name}.py`, {what}.", "", *block(name, " --minutes 60"), ""]
        lines += fuzzed(one) if one else ["Not run for this page.", ""]
    return "\n".join([*lines, "## What is not covered", "", NOT_COVERED])


def anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def block(name: str, more: str = "") -> list[str]:
    """The command that runs a campaign again."""
    return ["```bash", f"python benchmarks/faults/{name}.py{more} --json {name}.json", "```"]


def kinds(one: Mapping[str, Any]) -> list[str]:
    rows = [f"| {kind} | {' | '.join(f'{own[column]:,}' for column in COUNTS)} |" for kind, own in one["kinds"].items()]
    return ["| kind | tried | clean | failed |", "|---|--:|--:|--:|", *rows, ""]


def fuzzed(one: Mapping[str, Any]) -> list[str]:
    wall, processor = one["minutes"], one["processor_seconds"] / 60
    rows = [f"| {kind.replace('_', ' ')} | {own['tried']:,} | {own['failed']} |" for kind, own in one["kinds"].items()]
    said = f"{wall:g} minutes, {processor:.1f} of the processor; {one['failed']} faults. "
    said += f"Commit `{one['commit']}`, {one['date']}."
    return [said, "", "| property | inputs | faults |", "|---|--:|--:|", *rows, ""]


def commit_now() -> str:
    """The commit of this checkout, marked where tracked files differ from it."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="JSON files of the campaigns")
    parser.add_argument("--commit", default="", help="that was tried; by default the checkout's")
    given = parser.parse_args()
    if given.folder:
        made = assembled(given.folder, given.commit or commit_now(), json.loads(RESULTS.read_text(encoding="utf-8")))
        RESULTS.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
