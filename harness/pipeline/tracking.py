"""MLflow as a tracker, registered beside those of trackers.py, and the check of names for all of them.

Apart from trackers.py, which the functions of stages import: a change there would change the key of every stage, and
make results of before unusable.  stage.py, which no key depends on, imports this module in every process that runs
stages.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import trackers
from rlhf_bench.harness.pipeline.trackers import PROJECT, LibraryCalls, ResumedRun, Tracked, Tracker

__all__ = ["Tracked", "check_trackers", "open_mlflow"]

MLFLOW_TAG = "rlhf-bench.run"
LOCK_SECONDS = 120
"""How long a stage waits for others that open MLflow's store; then its tracker is switched off."""
ALSO = {"mlflow": ("sqlalchemy",)}
"""Further packages of an extra: the small distribution of MLflow comes without what its local store needs."""


def open_mlflow(tracked: Tracked, first: int) -> Tracker:  # noqa: ARG001
    """The store that MLFLOW_TRACKING_URI names, else OUT/tracking/mlflow.db, one SQLite file for all stages."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before the import: it reports its use by default
    client_of: Any = importlib.import_module("mlflow.tracking").MlflowClient
    metric: Any = importlib.import_module("mlflow.entities").Metric
    shared = tracked.folder.parent
    shared.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{shared.absolute() / 'mlflow.db'}"

    def open_run(name: str) -> LibraryCalls:
        # stages side by side would create the tables and the experiment twice
        with FileLock(shared / ".mlflow.lock", timeout=LOCK_SECONDS):
            client = client_of(tracking_uri=uri)
            experiment = _mlflow_experiment(client, shared)
            # the store gives runs ids of its own, so a tag holds ours
            known = client.search_runs([experiment], f"tags.`{MLFLOW_TAG}` = '{name}'", max_results=1)
            run = (
                known[0] if known else client.create_run(experiment, run_name=tracked.run_name, tags={MLFLOW_TAG: name})
            )
        run_id = run.info.run_id
        client.update_run(run_id, status="RUNNING")

        def log(scalars: Mapping[str, float], step: int) -> None:
            now = int(1000 * time.time())  # milliseconds
            client.log_batch(run_id, metrics=[metric(key, value, now, step) for key, value in scalars.items()])

        return log, lambda: client.set_terminated(run_id)

    return ResumedRun(tracked.scratch / "mlflow.json", open_run)


def _mlflow_experiment(client: Any, shared: Path) -> str:
    """The id of the experiment MLFLOW_EXPERIMENT_NAME (rlhf-bench), made where there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or PROJECT
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # nothing is uploaded, but without a place of ours the current folder would be named
    place = None if os.environ.get("MLFLOW_TRACKING_URI") else (shared.absolute() / "mlflow").as_uri()
    return str(client.create_experiment(name, artifact_location=place))


cast("dict[str, object]", trackers.OPENERS).setdefault("mlflow", open_mlflow)


def check_trackers(names: Sequence[str]) -> tuple[str, ...]:
    """As `trackers.check_trackers`, MLflow among the names.

    Raises BenchError also where the package of MLflow's local store is missing.
    """
    checked = trackers.check_trackers(names)
    for name in checked:
        for package in ALSO.get(name, ()):
            if find_spec(package) is None:
                raise BenchError(f"--track {name} needs the package {package}.", f"pip install 'rlhf-bench[{name}]'")
    return checked
