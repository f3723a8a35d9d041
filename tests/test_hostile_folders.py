"""Folders of others: what their files name is not run and not opened, and no link in them leads outside.

Each case builds a hostile folder for one command.  Nothing outside may change, the code that the folder names may not
run, and one line must say why.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from small import command
from stored import Stored, make

from rlhf_bench.harness import api, store, trust
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan import patterns
from rlhf_bench.harness.plan.experiments import load as load_experiments
from rlhf_bench.harness.plan.named import check_named
from rlhf_bench.harness.text import vet
from rlhf_bench.harness.training.record import write_record
from rlhf_bench.reports.files import LIST

EVIL = """
from pathlib import Path
SENTINEL = Path(__file__).with_name("sentinel")
SENTINEL.touch()
def run(*arguments, **named):
    SENTINEL.touch()
run.load = run.train = run.rewards = run
"""
NAMES = (
    "evil:run",
    "os:system",
    "evil:run.load",
    "function:evil:run",
    "builtins:exec",
    "evil",
    "hf:evil/model",
    "path:.",
)
"""What a file may try to name."""
CELL = "dialogsum-scalar-s1"
LABEL = "dialogsum-s1-000000000000"
ARM = "dialogsum-scalar-s1-000000000000"


class Place(NamedTuple):
    """The current folder of a test: `runs` is the hostile folder, `outside` what must not change."""

    home: Path

    @property
    def runs(self) -> Path:
        return self.home / "runs"

    @property
    def outside(self) -> Path:
        return self.home / "outside"

    def change(self, path: Path | str, change: Callable[[Any], Any]) -> None:
        """Change a JSON file of the runs folder."""
        file = self.runs / path
        file.write_text(json.dumps(change(json.loads(file.read_text()))))

    def move_out(self, path: str) -> None:
        """Put a link to the folder or file outside of the runs folder in its place."""
        target = self.outside / Path(path).name
        (self.runs / path).parent.mkdir(parents=True, exist_ok=True)
        if (self.runs / path).exists():
            shutil.move(self.runs / path, target)
        else:
            target.mkdir()
        (self.runs / path).symlink_to(target)

    def state(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() if p.is_file() else b"" for p in sorted(self.outside.rglob("*"))}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder with a module whose import leaves a file, and a finished cell in `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    (tmp_path / "evil.py").write_text(EVIL)
    found = Place(tmp_path)
    found.outside.mkdir()
    (found.outside / "secret").write_text("private")
    make(found.runs, Stored(rms=("scalar",), seeds=(1,)))
    return found


Refused = Callable[..., str]


@pytest.fixture
def refused(place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Run a command on the hostile folder.  It must end with 2 or 3, say `said` in one line, and change nothing."""

    def call(line: str, said: str) -> str:
        before = place.state()
        monkeypatch.setattr(sys, "argv", ["bench", *shlex.split(line)])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        out, error = capsys.readouterr()
        if line.startswith("check "):  # its findings are a table, and a failed one is exit code 1
            assert stopped.value.code == 1
            error = " ".join("".join(out.split("│")).split())
        else:
            assert stopped.value.code in (2, 3), error
        assert "Traceback" not in error
        assert not (place.home / "sentinel").exists(), error
        assert place.state() == before
        (named, *_) = [text for text in error.splitlines() if said in text] or [""]
        assert named, error
        return named

    return call


# -- names in records -------------------------------------------------------------------------------------------------


def of_task(name: Any, **settings: Any) -> Callable[[Place], None]:
    """A cell's record with another task."""
    return lambda place: place.change(
        f"cells/{CELL}.json", lambda r: {**r, "evaluated": {"name": name, "settings": settings, "sha256": "0"}}
    )


def of_arm(name: Any, **settings: Any) -> Callable[[Place], None]:
    """A stage's record with another reward model."""
    spec = {"name": name, "settings": settings}
    return lambda place: place.change(
        f"scale/{ARM}/stage.json", lambda r: {**r, "params": {"rm": spec}, "inputs": {"prompts": LABEL}}
    )


JUDGE, SCORE = "judge runs --judge length", "score --rm scalar --prompt a --response b"
RECORDS: list[tuple[str, Callable[[Place], None], str]] = [
    *((JUDGE, of_task(name), f"names the task '{name}'") for name in NAMES),
    *((SCORE, of_arm(name), f"names the reward-model '{name}'") for name in NAMES),
    (JUDGE, of_task("tldr", data="/etc/passwd"), "names '/etc/passwd'"),
    (JUDGE, of_task("tldr", data="outside"), "names 'outside'"),
    (JUDGE, of_task("preferences", data="owner/name"), "names 'owner/name'"),
    (JUDGE, of_task("tldr", data="~/secret"), "names '~/secret'"),
    (JUDGE, of_task("dialogsum", seed=["/etc", {"/x": 1}]), "names '/x'"),
    (JUDGE, of_task(["dialogsum"]), "is damaged"),
    (JUDGE, lambda place: place.change(f"cells/{CELL}.json", lambda r: {**r, "evaluated": "x"}), "is damaged"),
    (SCORE, of_arm("function", source="os:system"), "names 'os:system'"),
    (SCORE, of_arm("function", source="evil"), "names 'evil'"),
    (SCORE, of_arm("hf", source="outside"), "names 'outside'"),
    (SCORE, of_arm("path", source="elsewhere"), "names 'elsewhere'"),
    (SCORE, of_arm("t5-seq2seq", model="/etc"), "names '/etc'"),
    (SCORE, of_arm(3), "is damaged"),
]


@pytest.mark.parametrize(("line", "build", "said"), RECORDS, ids=[f"{i} {r[2]}" for i, r in enumerate(RECORDS)])
def test_a_record_names_registered_plugins_alone(
    place: Place, refused: Refused, line: str, build: Callable[[Place], None], said: str
) -> None:
    build(place)
    refused(line, said)


@pytest.mark.parametrize("prompts", ["../../outside", "/etc", "..", "", None, ["x"]])
def test_the_prompts_of_a_stage_are_in_its_results_folder(place: Place, refused: Refused, prompts: Any) -> None:
    of_arm("scalar")(place)
    place.change(f"scale/{ARM}/stage.json", lambda r: {**r, "inputs": {"prompts": prompts}})
    refused(SCORE, "names the prompts")


# -- reward models of others ------------------------------------------------------------------------------------------


def shared_reward_model(place: Place, name: str, **settings: Any) -> Path:
    folder = place.home / "shared"
    folder.mkdir()
    write_record(folder, name, settings)
    (folder / "model.safetensors").touch()
    return folder


ON_PATH = ("run --task dialogsum --rm path:shared --out new", "check reward-model path:shared")
"""Commands that open a reward model by its folder."""


@pytest.mark.parametrize("line", ON_PATH)
@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        *((name, {}, f"names the reward-model '{name}'") for name in NAMES),
        ("function", {"source": "os:system"}, "names 'os:system'"),
        ("function", {"source": "evil"}, "names 'evil'"),
        ("path", {"source": "shared"}, "names 'shared'"),
        ("hf", {"source": "outside"}, "names 'outside'"),
        ("scalar", {"spread": "/etc/passwd"}, "names '/etc/passwd'"),
        ("scalar", {"spread": "evil:run"}, "names 'evil:run'"),
    ],
)
def test_a_shared_reward_model_names_registered_arms_alone(
    place: Place, refused: Refused, line: str, name: str, settings: dict[str, Any], said: str
) -> None:
    shared_reward_model(place, name, **settings)
    assert "--set path:shared.arm=" in refused(line, said)
    assert not (place.home / "new").exists()


def test_the_command_line_may_name_the_code(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The same folder with the arm named by the user: now its module is imported."""
    shared_reward_model(place, "evil:run")
    line = "run --task dialogsum --rm path:shared --set path:shared.arm=evil:run --out new --dry-run"
    monkeypatch.setattr(sys, "argv", ["bench", *line.split()])
    with pytest.raises(SystemExit):
        main.main()
    assert "not registered" not in capsys.readouterr().err
    assert (place.home / "sentinel").exists()


@pytest.mark.parametrize("line", ON_PATH)
def test_links_out_of_a_shared_reward_model(place: Place, refused: Refused, line: str) -> None:
    folder = shared_reward_model(place, "scalar")
    (folder / "config.json").symlink_to(place.outside / "secret")
    refused(line, "leads outside of shared")


def test_the_hubs_cache_is_a_folder_of_links(place: Place) -> None:
    folder = shared_reward_model(place, "scalar")
    snapshot = place.home / "models--a--b" / "snapshots" / "abc"
    blobs = place.home / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.move(folder, blobs)
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    from rlhf_bench.reward_models.saved import Saved

    assert Saved(str(snapshot)).content


MODEL = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("config.json", {**MODEL, "attn_implementation": "evil/kernel"}, "asks for code of the hub"),
        ("config.json", {**MODEL, "_attn_implementation": "evil/kernel:run"}, "asks for code of the hub"),
        ("config.json", {**MODEL, "attn_implementation": {"": "evil/kernel"}}, "asks for code of the hub"),
        ("config.json", {**MODEL, "text_config": {"attn_implementation": "evil/kernel"}}, "asks for code of the hub"),
        ("config.json", {**MODEL, "experts_implementation": "evil/kernel"}, "asks for code of the hub"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../outside/x.safetensors"}}, "outside of its folder"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/x.safetensors"}}, "outside of its folder"),
    ],
)
def test_a_policy_folder_names_no_code_and_no_other_folder(
    place: Place, refused: Refused, file: str, value: Any, said: str
) -> None:
    folder = place.home / "policy"
    folder.mkdir()
    for name, text in (("config.json", json.dumps(MODEL)), ("tokenizer.json", "{}"), ("x.safetensors", "")):
        (folder / name).write_text(text)
    (folder / file).write_text(json.dumps(value))
    refused("run --task dialogsum --rm length-only --policy policy --out new", said)


def policy_folder(place: Place) -> Path:
    folder = place.home / "policy"
    folder.mkdir()
    for name, text in (("config.json", json.dumps(MODEL)), ("tokenizer.json", "{}"), ("x.safetensors", "")):
        (folder / name).write_text(text)
    return folder


OPENED = (
    "run --task dialogsum --rm length-only --policy policy --out new",
    "run --task dialogsum --rm hf:policy --out new",
    "run --task dialogsum --rm length-only --set dialogsum.data=policy --out new",
    "judge runs --judge winrate-rm --set winrate-rm.model=policy",
    "judge runs --judge winrate --set winrate.scorer=rm:policy",
)
"""Commands that open a folder that the user names."""


@pytest.mark.parametrize("line", OPENED)
@pytest.mark.parametrize("file", ["config.json", "x.index.json", "chat_template.jinja", "data/train.jsonl"])
def test_a_named_folder_has_no_links_and_pipes(place: Place, refused: Refused, line: str, file: str) -> None:
    path = policy_folder(place) / file
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    refused(line, "neither a file nor a folder")
    path.unlink()
    path.symlink_to(place.outside / "secret")
    refused(line, "leads outside of")
    assert not (place.home / "new").exists()


def test_weights_and_the_hubs_blobs_may_be_links(place: Place) -> None:
    folder, blobs = policy_folder(place), place.home / "blobs"
    blobs.mkdir()
    shutil.move(folder / "config.json", blobs / "0a")
    shutil.move(folder / "x.safetensors", place.outside)
    (folder / "config.json").symlink_to(blobs / "0a")
    (folder / "x.safetensors").symlink_to(place.outside / "x.safetensors")
    check_named([str(folder), f"hf:{folder}", "dialogsum", "", "a\0b", "~"])
    (folder / "more").symlink_to(place.outside)
    with pytest.raises(BenchError, match="leads outside of"):
        check_named([f"hf:{folder}"])


@pytest.mark.parametrize("key", ["target_modules", "exclude_modules", "rank_pattern", "layers_pattern"])
def test_the_expressions_of_an_adapter_are_bounded(place: Place, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "CPU_SECONDS", 1)
    adapter, base = place.home / "adapter", policy_folder(place)
    adapter.mkdir()
    save_file({"model.layers.0.self_attn.q_proj.weight": torch.zeros(1)}, base / "x.safetensors")
    (adapter / "adapter_model.safetensors").touch()
    slow, sound = r"(\w*\.*)*(\w*\.*)*!", r".*(q|v)_proj"
    for text in (sound, slow):
        config = {"peft_type": "LORA", "base_model_name_or_path": "../policy"}
        value = {text: 2} if key == "rank_pattern" else text
        (adapter / "adapter_config.json").write_text(json.dumps({**config, key: value}))
        if text is slow:
            with pytest.raises(BenchError, match="was stopped"):
                check_named([str(adapter)])
        else:
            check_named([str(adapter)])


# -- places and links -------------------------------------------------------------------------------------------------


def of_place(role: str, *parts: Any) -> Callable[[Place], None]:
    """A cell's record with another place for a role, or for a judge."""

    def build(place: Place) -> None:
        place.change(
            f"cells/{CELL}.json",
            lambda r: {**r, **{key: {**r[key], role: list(parts)} for key in ("stages", "judges") if role in r[key]}},
        )

    return build


def linked(path: str) -> Callable[[Place], None]:
    return lambda place: place.move_out(path)


def linked_record(place: Place) -> None:
    """A record outside of the folder, where a results folder lies as well."""
    shutil.copytree(place.runs, place.outside / "other")
    (place.runs / "cells" / f"{CELL}.json").unlink()
    (place.runs / "cells" / f"{CELL}.json").symlink_to(place.outside / "other" / "cells" / f"{CELL}.json")


def pipe(path: str) -> Callable[[Place], None]:
    def build(place: Place) -> None:
        (place.runs / path).unlink()
        os.mkfifo(place.runs / path)

    return build


REPORT, POWER = "report runs --out new", "power runs --difference 0.1"
READERS = (REPORT, POWER, JUDGE, SCORE, "report runs --terminal")
LEADING: list[tuple[Callable[[Place], None], str]] = [
    (of_place("generations", "..", "x", "y"), "not three names"),
    (of_place("generations", "/etc", "x", "y"), "not three names"),
    (of_place("generations", "ppo", "../../outside/x", "y"), "not three names"),
    (of_place("generations", "ppo", "x", "y/../../../outside"), "not three names"),
    (of_place("generations", "", "x", "y"), "not three names"),
    (of_place("generations", "a\0b", "x", "y"), "not three names"),
    (of_place("winrate", "..", "outside", "x"), "not three names"),
    (of_place("sft", "..", "x", "y"), "not three names"),
    (linked(f"ppo/{ARM}"), "leads outside of"),
    (linked("ppo"), "leads outside of"),
    (linked("sft"), "leads outside of"),
    (linked(f"ppo/{ARM}/generations.jsonl"), "leads outside of"),
    (linked(f"ppo/{ARM}/stage.json"), "leads outside of"),
    (linked(f"prompts/{LABEL}/examples.test.jsonl"), "leads outside of"),
    (linked(f"verdicts/winrate-{ARM}/measures.json"), "leads outside of"),
    (linked("cells"), "leads outside of"),
    (linked_record, "leads outside of"),
    (pipe(f"ppo/{ARM}/generations.jsonl"), "neither a file nor a folder"),
    (pipe(f"cells/{CELL}.json"), "neither a file nor a folder"),
]


@pytest.mark.parametrize("line", READERS)
@pytest.mark.parametrize("case", range(len(LEADING)))
def test_a_cell_leads_nowhere_else(place: Place, refused: Refused, line: str, case: int) -> None:
    build, said = LEADING[case]
    build(place)
    refused(line, said)


@pytest.mark.parametrize("folder", ["cells", "report", "tracking", "experiments", ".partial"])
@pytest.mark.parametrize(
    "line",
    [
        "run --task dialogsum --rm length-only --out runs",
        "experiment headline --out runs",
        JUDGE,
    ],
)
def test_nothing_is_written_through_a_link(place: Place, refused: Refused, line: str, folder: str) -> None:
    place.move_out(folder)
    refused(line, "leads outside of")


def test_the_tables_of_a_report_are_not_written_through_a_link(place: Place, refused: Refused) -> None:
    (place.home / "new").mkdir()
    (place.home / "new" / "tables").symlink_to(place.outside)
    refused(REPORT, "leads outside of new")


def planned(place: Place) -> Any:
    """The SFT stage of a small run in `runs`."""
    given = dict(text.split("=", 1) for text in command(place.runs, rms=("length-only",)) if "=" in text)
    return api.plan("dialogsum", "length-only", settings=given, out=place.runs).cells.order[0]


@pytest.mark.parametrize("what", ["folder", "file", "partial", "scratch", "checkpoint", "lock"])
def test_a_resumed_run_follows_no_link(place: Place, refused: Refused, what: str) -> None:
    stage = planned(place)
    unfinished = f".partial/{stage.kind}-{stage.key[: store.KEY_LENGTH]}"
    folder = stage.folder(store.Store(place.runs)).relative_to(place.runs)
    paths = {
        "folder": str(folder), "file": f"{folder}/config.json", "partial": unfinished, "lock": f"{unfinished}.lock",
        "scratch": f"{unfinished}/scratch", "checkpoint": f"{unfinished}/scratch/checkpoint-2",
    }  # fmt: skip
    place.move_out(paths[what])
    if what in ("folder", "file"):
        (place.runs / folder / "stage.json").write_text("{}")
    refused(shlex.join(command(place.runs, rms=("length-only",))), "leads outside of")


def test_a_checkpoint_holds_the_files_of_its_trainer_alone(place: Place, refused: Refused) -> None:
    """A scaler of mixed precision, which no trainer here writes, ended in the trainer's own AttributeError."""
    stage = planned(place)
    folder = place.runs / f".partial/{stage.kind}-{stage.key[: store.KEY_LENGTH]}/scratch/checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    (folder / "scaler.pt").write_bytes(b"x")
    refused(shlex.join(command(place.runs, rms=("length-only",))), "scaler.pt is no file of a checkpoint")


def test_a_stage_of_another_place(place: Place, refused: Refused) -> None:
    place.change(f"ppo/{ARM}/stage.json", lambda r: {**r, "kind": "..", "label": "outside"})
    refused(JUDGE, "is of another stage")


# -- experiments and reports ------------------------------------------------------------------------------------------


def experiment_record(place: Place, **more: Any) -> None:
    name = next(iter(load_experiments()))
    record = {"name": name, "question": "?", "seeds": [1], "command": "", "runs": {}, "analyses": {}, "left_out": {}}
    path = place.runs / "experiments" / f"{name}.json"
    path.parent.mkdir()
    path.write_text(json.dumps({**record, **more}))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"runs": {"main": ["../../outside/cells/x"]}}, "nothing in its results folder"),
        ({"runs": {"main": ["/etc/passwd"]}}, "nothing in its results folder"),
        (
            {"analyses": {"main": [{"reward_model": "", "seed": 1, "place": ["..", "x", "y"]}]}},
            "nothing in its results",
        ),
        ({"analyses": {"main": [{"reward_model": "", "seed": 1, "place": [1, "x", "y"]}]}}, "nothing in its results"),
        ({"name": "../../outside"}, "Unknown experiment"),
        ({"runs": []}, "is damaged"),
        ({"analyses": {"main": "x"}}, "is damaged"),
    ],
)
def test_the_record_of_an_experiment_names_its_own_folder(
    place: Place, refused: Refused, more: dict[str, Any], said: str
) -> None:
    experiment_record(place, **more)
    refused("claims runs", said)


def test_a_linked_record_of_an_experiment(place: Place, refused: Refused) -> None:
    experiment_record(place)
    place.move_out("experiments")
    refused("claims runs", "leads outside of")


def test_a_report_that_is_a_link(place: Place, refused: Refused) -> None:
    api.report(place.runs, place.home / "real")
    (place.home / "shared").mkdir()
    shutil.move(place.home / "real" / "report.json", place.outside / "report.json")
    (place.home / "shared" / "report.json").symlink_to(place.outside / "report.json")
    refused("export shared --format model-index --out new", "leads outside of shared")
    with pytest.raises(BenchError, match="leads outside of"):
        api.load_report(place.home / "shared")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: {name: r[name] for name in ("schema", "schema_version")},
        lambda r: {**r, "arms": 3},
        lambda r: {**r, "estimates": [1, None, {}]},
        lambda r: {**r, "arms": [{}]},
    ],
    ids=["no arms", "arms that are none", "estimates that are none", "arms without names"],
)
@pytest.mark.parametrize("form", ["model-index", "every-eval-ever --organization me"])
def test_a_report_of_another_form(place: Place, refused: Refused, change: Callable[[Any], Any], form: str) -> None:
    api.report(place.runs, place.home / "shared")
    (place.home / "shared" / LIST).unlink()
    file = place.home / "shared" / "report.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    refused(f"export shared --format {form} --out new", "report.json")
    assert not (place.home / "new").exists()


def test_modules_of_the_current_folder_are_not_those_of_a_child(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for the modules of `python -m` in the current folder first: it may be someone else's."""
    monkeypatch.setenv("PYTHONSAFEPATH", "")  # so that it is as before after the test
    monkeypatch.delenv("PYTHONSAFEPATH")
    monkeypatch.setattr(sys, "argv", ["bench", "--version"])
    with contextlib.suppress(SystemExit):
        main.main()
    monkeypatch.chdir(place.outside)  # `place.home` is on the path
    (place.outside / "json.py").write_text(EVIL)
    vet._fault_of(json.dumps({"templates": ["x"], "pipeline": "", "seconds": 5, "memory": vet.MEMORY}))
    assert not (place.outside / "sentinel").exists()


def test_the_doctor_looks_at_no_folder(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    of_task("evil:run")(place)
    monkeypatch.setattr(sys, "argv", ["bench", "doctor"])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 0
    assert not (place.home / "sentinel").exists()


# -- what stays possible ----------------------------------------------------------------------------------------------


def test_trust_lets_a_record_name_what_the_user_names(place: Place, refused: Refused) -> None:
    """With --trust the module is imported: the error is then of the task itself."""
    of_task("evil:run")(place)
    with pytest.raises(BenchError, match="Task seam"):
        api.judge(place.runs, "length", trust="evil:run")
    assert (place.home / "sentinel").exists()
    (place.home / "sentinel").unlink()
    of_task("tldr", data="/etc/nothing")(place)
    refused(f"{JUDGE} --trust /etc/nothing", "there is no such file")


def test_a_results_folder_may_itself_be_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(place.runs)
    assert api.report(tmp_path / "link").data["arms"]
    (place.runs / "ppo").rename(place.runs / "moved")
    (place.runs / "ppo").symlink_to("moved")  # within the folder
    assert api.report(tmp_path / "link").data["arms"]


def test_plain_settings_are_no_places() -> None:
    here = Path("record.json")
    trust.check_recorded("task", {"name": "dialogsum", "settings": {"seed": 3, "words": 0.5}}, here)
    trust.check_recorded("task", {"name": "saferlhf", "settings": {"preference": "better", "data": ""}}, here)
    trust.check_recorded("task", {"name": "tldr", "settings": {"data": "hub"}}, here)
    trust.check_recorded("reward-model", {"name": "scalar", "settings": {"spread": "uniform"}}, here)
    trust.check_recorded("task", {"name": "tldr", "settings": {"data": "/mine"}}, here, ["/mine"])
