"""Where the time of an experiment went: sums of the seconds that its stages recorded, each stage once (JSON).

    python benchmarks/suite.py FOLDER [NAME]

FOLDER is what `bench experiment NAME --out FOLDER` wrote (NAME: headline).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import experiments

NAME = "headline"


def summary(folder: Path, name: str = NAME) -> dict[str, Any]:
    """{"experiment", "cells", "lacking", "stages": by kind {"jobs", "wall_minutes", "core_minutes"}, totals}.

    Wall minutes are summed over stages that may have run side by side; core minutes are processor time.  Raises
    BenchError where the folder holds no such experiment, or no finished stage of it.
    """
    path = experiments.record_path(folder, name)
    if not path.is_file():
        raise BenchError(f"{folder} holds no experiment {name!r}.", f"Run: bench experiment {name} --out {folder}")
    cells = _cells(store.read_json(path), folder)
    places = {tuple(place) for cell in cells for group in ("stages", "judges") for place in cell[group].values()}
    stages: dict[str, dict[str, float]] = {}
    lacking = 0
    for kind, label, key in sorted(places):
        marker = folder / kind / f"{label}-{key}" / store.MARKER
        if not marker.is_file():
            lacking += 1
            continue
        record = store.read_json(marker)
        own = stages.setdefault(kind, {"jobs": 0, "wall_minutes": 0.0, "core_minutes": 0.0})
        own["jobs"] += 1
        own["wall_minutes"] += record["seconds"] / 60
        own["core_minutes"] += record["cpu_seconds"] / 60
    if not stages:
        raise BenchError(f"No stage of the experiment {name!r} in {folder} is finished.")
    ordered = dict(sorted(stages.items(), key=lambda item: -item[1]["core_minutes"]))
    return {"experiment": name, "cells": len(cells), "lacking": lacking, "stages": ordered}


def _cells(record: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The records of the experiment's cells, each once; those that are not there are not counted."""
    names = dict.fromkeys(name for own in record["runs"].values() for name in own)
    paths = [folder / "cells" / f"{name}.json" for name in names]
    return [store.read_json(path) for path in paths if path.is_file()]


def main() -> None:
    try:
        print(json.dumps(summary(Path(sys.argv[1]), *sys.argv[2:3]), indent=1))
    except (BenchError, IndexError) as error:
        sys.exit(str(error) if isinstance(error, BenchError) else str(__doc__))


if __name__ == "__main__":
    main()
