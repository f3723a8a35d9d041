"""Keys name every module whose code computes a result, and nothing else: no hand-kept list that can go stale."""

from __future__ import annotations

import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from safetensors.torch import save_file
from small import SIZES
from torch import zeros

from rlhf_bench.harness import fingerprint, plugins, store
from rlhf_bench.harness.pipeline import stage as stages
from rlhf_bench.harness.pipeline.execute import quiet_libraries
from rlhf_bench.harness.pipeline.stage import Stage, run_stage
from rlhf_bench.harness.plan.request import Plan, Request, make_plan
from rlhf_bench.harness.plan.tasks import REDRAWN
from rlhf_bench.harness.stages.judge import FLUENCY
from rlhf_bench.reports.build import NOT_REPORTING, numbers_key, page_fingerprint

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    **SIZES,
    "ppo.iterations": 1,
    "ppo.checkpoints": 1,
    "ppo.rollouts": 4,
    "best_of_n.n": "1,2",
    "seq2seq-token.epochs": 1,
    "scalar.epochs": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `path:` takes for a reward model trained as seq2seq-token."""
    folder = tmp_path_factory.mktemp("trained")
    store.write_json(folder / "reward_model.json", {"name": "seq2seq-token", "settings": {}})
    save_file({"w": zeros(1)}, folder / "model.safetensors")
    return folder


def planned(*reward_models: str, optimizers: tuple[str, ...] = ("ppo", "best-of-n", "dpo", "sft-tempered")) -> Plan:
    return make_plan(
        Request("dialogsum", reward_models, (0,), "tiny", ("winrate", "length"), {}, optimizers=optimizers)
    )


def assigned(values: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Settings as --set gives them."""
    groups: dict[str, dict[str, str]] = {}
    for name, value in values.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = str(value)
    return groups


def keys(plan: Plan) -> dict[str, str]:
    """Key by arm, optimiser and role of every stage of a plan."""
    found = {f"{c.reward_model} {c.optimizer} {role}": s.key for c in plan.cells for role, s in c.stages.items()}
    for cell in plan.cells:
        found |= {f"{cell.reward_model} {cell.optimizer} {n}": s.key for n, s in plan.judged[cell.name].items()}
    return found


class Copy:
    """A copy of the package's folders that fingerprints are computed from instead of the checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, module: str) -> Path:
        path = self.root.joinpath(*module.removeprefix("rlhf_bench.").split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def edit(self, module: str, old: str, new: str) -> None:
        text = self.path(module).read_text(encoding="utf-8")
        assert old in text
        self.path(module).write_text(text.replace(old, new), encoding="utf-8")

    def append(self, module: str, line: str) -> None:
        with self.path(module).open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    for folder in fingerprint.FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / "copy" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path / "copy")
    monkeypatch.setattr(fingerprint, "_known", {})
    return Copy(tmp_path / "copy")


# --- which code is in which key


@pytest.mark.parametrize(
    ("module", "roles"),
    [
        ("harness.models.align", {"scale", "generations"}),
        ("harness.sampling.translate", {"scale", "generations"}),
        ("reward_models.seq2seq", {"scale", "generations"}),
        ("reward_models.saved", {"scale", "generations"}),
    ],
)
def test_a_loaded_reward_model_names_the_code_that_it_runs(
    copy: Copy, trained: Path, module: str, roles: set[str]
) -> None:
    """Before the import closure these changes reused old results: lists of modules were kept by hand."""
    before = keys(planned(f"path:{trained}", optimizers=("ppo",)))
    copy.append(module, "EDITED = 1")
    after = keys(planned(f"path:{trained}", optimizers=("ppo",)))
    changed = {name.split()[-1] for name in before if before[name] != after[name]}
    assert roles <= changed
    assert not changed & {"sft", "pairs", "baseline", "prompts"}


def computing() -> list[str]:
    """Every module that may compute a stage's result."""
    paths = [path.relative_to(ROOT) for folder in fingerprint.FOLDERS for path in (ROOT / folder).rglob("*.py")]
    names = [".".join(("rlhf_bench", *path.with_suffix("").parts)) for path in paths if path.stem != "__init__"]
    return sorted(n for n in names if not any(n == t or n.startswith(f"{t}.") for t in fingerprint.NOT_COMPUTING))


NO_STAGE = re.compile(
    r"harness\.(cache|fingerprint|forms|presets|seeds|toml_files|models\.(memory|peaks)|sampling\.speeds|\w+\.types|pipeline\.(?!context|trackers)|statistics\.)"
)
"""Of the computing layers, yet of no stage: planning, running, the forms of what is read, reports' numbers
and their statistics."""


AROUND = re.compile(r"harness\.pipeline\.(?!context|trackers)")
"""What runs around a stage's function: processes, memory figures, the stage's record."""


def test_a_changed_module_changes_the_keys_of_what_imports_it_and_no_other(copy: Copy) -> None:
    """Every computing module is edited in the copy, one after the other; the closures say whose keys must change."""
    functions = sorted({s.function.partition(":")[0] for s in planned("scalar", "seq2seq-token").order})
    arms = [plugins.find("reward-model", name).module for name in ("scalar", "seq2seq-token", "whitebox-rar", "path")]
    roots = dict.fromkeys([*functions, *arms])
    before = {root: fingerprint.of(root) for root in roots}
    held = {root: set(fingerprint.closure(root)) for root in roots}
    for module in computing():
        path = copy.path(module)
        text = path.read_bytes()
        path.write_bytes(text + b"\nEDITED = 1\n")
        changed = {root for root in roots if fingerprint.of(root) != before[root]}
        path.write_bytes(text)
        assert changed == {root for root in roots if module in held[root]}, module


def test_every_module_that_computes_is_in_some_key() -> None:
    roots = {f"rlhf_bench.harness.stages.{path.stem}" for path in (ROOT / "harness" / "stages").glob("[a-z]*.py")}
    kinds: tuple[plugins.Kind, ...] = ("task", "reward-model", "judge")
    roots |= {plugin.module for kind in kinds for plugin in plugins.registered(kind)}
    roots.add(REDRAWN.partition(":")[0])  # registered under no name: its hash is in the keys of what it redraws
    reached = set(fingerprint.closure(*roots))
    assert [name for name in computing() if name not in reached and not NO_STAGE.search(name)] == []


def test_what_plans_reports_or_shows_changes_no_key(copy: Copy) -> None:
    before = keys(planned("scalar"))
    for module in ("harness.errors", "harness.plan.request", "harness.results.estimates", "harness.cli.main"):
        copy.append(module, "EDITED = 1")
    copy.append("reports.html", "EDITED = 1")
    assert keys(planned("scalar")) == before


def test_a_key_sees_no_comment_docstring_layout_or_place(copy: Copy) -> None:
    before = keys(planned("scalar", "seq2seq-token"))
    arithmetic = copy.path("harness.ppo.arithmetic")
    text = arithmetic.read_text(encoding="utf-8")
    documented = text.replace('"""', '"""Other words.  ', 1)
    arithmetic.write_text(f"# A comment.\n{documented}", encoding="utf-8")
    assert keys(planned("scalar", "seq2seq-token")) == before
    moved = copy.root / "harness" / "ppo" / "moved" / "maths.py"
    moved.parent.mkdir()
    (moved.parent / "__init__.py").write_text('"""Another place."""\n')
    arithmetic.rename(moved)
    for path in copy.root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        changed = text.replace(
            "from rlhf_bench.harness.ppo import arithmetic", "from rlhf_bench.harness.ppo.moved import maths"
        )
        changed = changed.replace("rlhf_bench.harness.ppo.arithmetic", "rlhf_bench.harness.ppo.moved.maths")
        if changed != text:
            path.write_text(re.sub(r"\barithmetic\.(?=[a-z_]+\b)", "maths.", changed), encoding="utf-8")
    assert "maths" in str(fingerprint.closure("rlhf_bench.harness.stages.ppo"))
    assert keys(planned("scalar", "seq2seq-token")) == before


def test_the_same_name_from_elsewhere_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, number in (("one", 1), ("two", 2)):
        (tmp_path / f"help_{name}.py").write_text(f"def f(): return {number}\n")
    prints = []
    for name in ("one", "two"):
        both = "import help_one, help_two\n"
        (tmp_path / "takes.py").write_text(f"{both}from help_{name} import f\nclass Judge:\n    g = staticmethod(f)\n")
        prints.append(fingerprint.of("takes"))
    assert prints[0] != prints[1]
    assert {"help_one", "help_two", "takes"} == set(fingerprint.closure("takes"))


def test_an_installed_plugin_has_its_own_package_and_what_it_takes_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    (site / "kit").mkdir(parents=True)
    (site / "kit" / "__init__.py").write_text("")
    (site / "kit" / "rm.py").write_text("import other\nfrom rlhf_bench.reward_models.scalar import Scalar\n")
    (site / "other.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(site)
    held = set(fingerprint.closure("kit.rm"))
    assert "other" not in held
    assert {"kit", "kit.rm", "rlhf_bench.reward_models.scalar", "rlhf_bench.harness.training.trl"} <= held


def test_a_report_is_made_anew_when_code_that_computes_its_numbers_changes(copy: Copy) -> None:
    from rlhf_bench.harness.results.estimates import Estimator

    before = numbers_key([], [], Estimator()), page_fingerprint()
    copy.append("harness.statistics.intervals", "EDITED = 1")
    assert numbers_key([], [], Estimator()) != before[0]
    copy.append("reports.html", "EDITED = 1")
    assert page_fingerprint() != before[1]
    now = numbers_key([], [], Estimator()), page_fingerprint()
    copy.append("harness.ppo.loop", "EDITED = 1")
    assert now == (numbers_key([], [], Estimator()), page_fingerprint())
    assert not [n for n in fingerprint.closure("rlhf_bench.reports.build", without=NOT_REPORTING) if ".ppo" in n]


def test_planning_a_thousand_stages_is_fast() -> None:
    """Well below the five seconds of processor time that a plan of this size may take, with room for a busy machine."""
    plan = planned("scalar", "seq2seq-token")
    start = time.process_time()
    copies = range(1000 // len(plan.order) + 1)
    many = [
        Stage(s.kind, s.label, s.function, {**s.params, "n": i}, plugin_code=s.plugin_code)
        for i in copies
        for s in plan.order
    ]
    assert len({stage.key for stage in many}) >= len(copies)
    assert len([stage.seedless_key for stage in many]) >= 1000
    assert time.process_time() - start < 5


# --- an oracle that knows no import: the files whose functions a stage calls


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, set[str]]]:
    """Stage name -> our modules whose functions ran while its function did, in any thread."""
    found: dict[str, set[str]] = {}
    now: list[str] = []
    tops = tuple(f"{ROOT / folder}/" for folder in fingerprint.FOLDERS)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename.replace("/.src/rlhf_bench/", "/")
        if event == "call" and now and name.startswith(tops):
            found[now[-1]].add(".".join(("rlhf_bench", *Path(name).relative_to(ROOT).with_suffix("").parts)))

    original = stages.Context

    def began(params: Mapping[str, Any], *rest: Any) -> Any:
        now[:] = [current[0]]
        found.setdefault(current[0], set())
        return original(params, *rest)

    current = [""]
    monkeypatch.setattr(stages, "Context", began)
    monkeypatch.setattr(store, "write_json", _ending(store.write_json, now))
    threading.setprofile(watch)
    sys.setprofile(watch)
    found["current"] = current  # type: ignore[assignment]
    yield found
    sys.setprofile(None)
    threading.setprofile(None)  # type: ignore[arg-type]


def _ending(write: Any, now: list[str]) -> Any:
    """store.write_json that ends the watch when a stage's record is written: its function has returned then."""

    def wrapped(path: Path, value: Any) -> None:
        if path.name == store.MARKER:
            now.clear()
        write(path, value)

    return wrapped


@pytest.mark.training
def test_every_module_that_runs_in_a_stage_is_in_its_key(tmp_path: Path, called: dict[str, Any]) -> None:
    quiet_libraries()
    root = store.Store(tmp_path / "runs")
    root.prepare()
    reward_models = ("seq2seq-token", "scalar", "whitebox-rar")
    request = Request(
        *("dialogsum", reward_models, (0,), "tiny", ("winrate", "length"), assigned(TINY)),
        optimizers=("ppo", "best-of-n", "dpo", "sft-tempered"),
    )
    first = make_plan(request)
    done: list[Stage] = []

    def run(plan: Plan) -> None:
        for stage in plan.order:
            called["current"][0] = stage.name
            if run_stage(stage, root, "cpu"):
                done.append(stage)

    run(first)
    folder = next(stage for stage in done if stage.kind == "reward" and "seq2seq" in stage.label).folder(root)
    copied = shutil.copytree(folder, tmp_path / "shared")
    run(make_plan(Request("dialogsum", (f"path:{copied}",), (0,), "tiny", (), assigned(SIZES))))
    kinds = {stage.kind for stage in done}
    assert {"pool", "best_of_n", "direct", "tempered", "proxy", "verdicts"} <= kinds
    assert {"sft", "pairs", "reward", "scale", "ppo"} <= kinds
    for stage in done:
        roots = [stage.function.partition(":")[0], *stage.code]
        for kind, spec in (("reward-model", stage.params.get("rm")), ("judge", stage.params.get("judge"))):
            spec = spec or (stage.payload.get("rm") if kind == "reward-model" else None)
            if spec and spec["name"] != FLUENCY:  # a measure of ours, registered as no judge
                roots.append(plugins.find(kind, spec["name"]).module)  # type: ignore[arg-type]
                roots += ["rlhf_bench.reward_models.seq2seq"] if str(spec["name"]).startswith("path:") else []
        held = set(fingerprint.closure(*roots))
        ran = {name for name in called[stage.name] if not name.startswith("rlhf_bench.tasks")}  # hashed by content
        ran = {name for name in ran if not name.startswith(fingerprint.NOT_COMPUTING)}
        ran = {name for name in ran if not AROUND.search(name)}
        assert ran <= held, f"{stage.name}: {sorted(ran - held)}"
        assert len(ran) > 1
