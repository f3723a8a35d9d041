"""Run files: what is read, what the command line replaces, what is refused with line and key, and what is written."""

from __future__ import annotations

import json
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import toml_files
from rlhf_bench.harness.cli import run_files
from rlhf_bench.harness.cli.main import bench, run
from rlhf_bench.harness.errors import BenchError, DamagedError
from rlhf_bench.harness.plan.request import Request
from rlhf_bench.harness.presets import parse_assignments, parse_seeds

SCHEMA = json.loads(files("rlhf_bench.harness.cli").joinpath("run_file_schema.json").read_text(encoding="utf-8"))
WHOLE = """# what is compared
task = "dialogsum"
rm = ["scalar", "seq2seq-token"]
optimizer = "best-of-n"
n = [1, 4]
judge = ["+similarity"]
seeds = "301-303"
data-seeds = [5]
policy = "folder"
gold = "scalar@half"
relabel = true
limit = 40

[set.ppo]
kl = 0.05
own_critic = false

[set."seq2seq-*"]
epochs = 4
"""


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[Request, dict[str, Any]]:
    """The request that `bench run` would compute."""
    found: list[Any] = []

    def take(request: Request, **machine: Any) -> int:
        found.extend((request, machine))
        if machine["save"]:
            machine["save"]()
        return 0

    monkeypatch.setattr("rlhf_bench.harness.cli.run.run", take)
    done = CliRunner().invoke(bench, ["run", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return found[0], found[1]


def refused(path: Path, text: str, *arguments: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError) as caught:
        CliRunner().invoke(bench, ["run", "--config", str(path), *arguments], catch_exceptions=False)
    return str(caught.value)


def test_a_file_says_what_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(WHOLE, encoding="utf-8")
    request, machine = asked(monkeypatch, "--config", str(path), "--out", str(tmp_path / "out"))
    same, _ = asked(
        monkeypatch, "--task", "dialogsum", "--rm", "scalar", "--rm", "seq2seq-token", "--optimizer", "best-of-n",
        "--n", "1,4", "--judge", "+similarity", "--seeds", "301-303", "--data-seeds", "5-5", "--policy", "folder",
        "--gold", "scalar@half", "--relabel", "--limit", "40", "--set", "ppo.kl=0.05", "--set", "ppo.own_critic=false",
        "--set", "seq2seq-*.epochs=4",
    )  # fmt: skip
    assert request == same
    assert machine["out"] == tmp_path / "out"


def test_the_command_line_replaces_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(WHOLE, encoding="utf-8")
    more = ["--rm", "gold", "--seeds", "2", "--set", "ppo.kl=0.2", "--set", "sft.steps=5"]
    request, _ = asked(monkeypatch, *more, "--config", str(path))
    assert (request.reward_models, request.seeds) == (("gold",), (0, 1))
    assert request.assignments["ppo"] == {"kl": "0.2", "own_critic": "false"}
    assert request.assignments["sft"] == {"steps": "5"}


def test_what_is_saved_asks_for_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, saved = tmp_path / "compare.toml", tmp_path / "saved.toml"
    path.write_text(WHOLE, encoding="utf-8")
    more = ["--config", str(path), "--set", "scalar.lr=1e-4", "--set", "dialogsum.data=a b='c'"]
    request, _ = asked(monkeypatch, *more, "--save", str(saved))
    assert asked(monkeypatch, "--config", str(saved))[0] == request
    jsonschema.validate(tomllib.loads(saved.read_text(encoding="utf-8")), SCHEMA)
    # the same content again is fine, another is not
    asked(monkeypatch, *more, "--save", str(saved))
    before = saved.read_bytes()
    with pytest.raises(BenchError, match="there already"):
        asked(monkeypatch, "--task", "dialogsum", "--rm", "scalar", "--save", str(saved))
    assert saved.read_bytes() == before


def test_a_command_that_is_refused_saves_nothing(tmp_path: Path) -> None:
    saved = tmp_path / "saved.toml"
    with pytest.raises(BenchError, match="scalr"):
        CliRunner().invoke(
            bench,
            ["run", "--task", "dialogsum", "--rm", "scalr", "--dry-run", "--save", str(saved)],
            catch_exceptions=False,
        )
    assert not saved.exists()


def test_an_error_that_is_not_of_the_file_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text(WHOLE, encoding="utf-8")
    file = run_files.read(path)
    for error in (
        DamagedError("cells/x.json of 'scalar' is damaged.", "Run it again."),
        BenchError("The reward model 'scalar' failed while scoring."),
        BenchError("Nothing of it."),
    ):
        assert file.located(error) is error
    assert "line 15" in file.located(BenchError("ppo.kl='x' is no number.")).seen


@given(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5, unique=True))
def test_seeds_come_back(seeds: list[int]) -> None:
    assert parse_seeds(run_files.seeds_text(seeds)) == tuple(seeds)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=20))
def test_settings_come_back(value: str) -> None:
    texts = parse_assignments((f"ppo.x={value}",))
    made = tomllib.loads(run_files.content({}, [f"ppo.x={value}"]))
    assert run_files._shown(made["set"]["ppo"]["x"]) == texts["ppo"]["x"]


@pytest.mark.parametrize(
    ("line", "text", "named"),
    [
        (2, 'task = "dialogsum"\nrms = ["scalar"]', "Did you mean 'rm'"),
        (1, "task = 3", "Give a text"),
        (1, 'task = ""', "is empty"),
        (2, 'task = "dialogsum"\nrm = [1]', "a list of texts"),
        (2, 'task = "dialogsum"\nrm = []', "a list of texts"),
        (2, 'task = "dialogsum"\nrelabel = "yes"', "true or false"),
        (2, 'task = "dialogsum"\nlimit = true', "a number"),
        (3, 'task = "dialogsum"\nrm = "scalar"\nlimit = 0', "limit"),
        (3, 'task = "dialogsum"\nrm = "scalar"\nseeds = "x"', "seeds"),
        (3, 'task = "dialogsum"\nrm = "scalar"\nset = 3', "[set.ppo]"),
        (4, 'task = "dialogsum"\nrm = "scalar"\n[set]\nkl = 3', "no setting"),
        (4, 'task = "dialogsum"\nrm = "scalar"\n[set.ppo]\nkl = 1979-05-27', "ppo.kl"),
        (5, 'task = "dialogsum"\nrm = "scalar"\n\n[set.ppo]\nkll = 3', "kll"),
        (3, 'task = "dialogsum"\nrm = "scalar"\nset."ppo".kl = "x"', "ppo.kl"),
        (2, 'task = "dialogsum"\nrm = ["scalr"]', "Did you mean 'scalar'"),
        (1, 'task = "dialogsumm"\nrm = ["scalar"]', "dialogsum"),
        (1, "task = \n", "no TOML"),
        (1, "a" * 3 + "[" * 3, "no TOML"),
    ],
)
def test_an_error_names_file_line_and_key(tmp_path: Path, line: int, text: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    said = refused(path, text, "--dry-run", "--no-measure", "--out", str(tmp_path / "out"))
    assert str(path) in said
    assert f"line {line}" in said
    assert named in said


def test_an_error_of_the_command_line_is_not_the_files(tmp_path: Path) -> None:
    path = tmp_path / "compare.toml"
    path.write_text('task = "dialogsum"\nrm = "scalar"\nseeds = "3"\n', encoding="utf-8")
    done = CliRunner().invoke(bench, ["run", "--config", str(path), "--seeds", "x"])
    assert done.exit_code == 2
    assert str(path) not in done.output


@pytest.mark.parametrize(
    "text",
    [
        'task = "os:getcwd"\nrm = "scalar"',
        'task = "dialogsum"\nrm = ["scalar", "function:os:getcwd"]',
        'task = "dialogsum"\nrm = ["scalar", "mean(scalar, os:getcwd)"]',
        'task = "dialogsum"\nrm = "wsum(os:getcwd:1,scalar:.5)"',
        'task = "dialogsum"\nrm = "scalar"\njudge = "+os:getcwd"',
        'task = "dialogsum"\nrm = "scalar"\ngold = "os:getcwd@half"',
        'task = "dialogsum"\nrm = "function"\n[set.function]\nsource = "os:getcwd"',
        'task = "dialogsum"\nrm = "scalar"\n[set.utility]\nscorer = "os:getcwd"',
        'task = "dialogsum"\nrm = "scalar"\ntrain-prompts = "os:getcwd"',
    ],
)
def test_a_file_names_no_code(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("os.getcwd", lambda: called.append("called") or "/")
    said = refused(tmp_path / "theirs.toml", text)
    assert "--trust" in said
    assert not called


def test_a_name_that_the_user_trusts_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('task = "my_task:make"\nrm = ["hf:org/name", "path:runs/rm"]\n', encoding="utf-8")
    request, _ = asked(monkeypatch, "--config", str(path), "--trust", "my_task:make")
    assert (request.task, request.reward_models) == ("my_task:make", ("hf:org/name", "path:runs/rm"))


def test_a_combination_is_taken_and_its_members_are_trusted_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.toml"
    rms = ("wsum(scalar:1,length-only:-.01)", "mean(my_rm:make,uwo)", "uwo(scalar*3:.1)")
    path.write_text(f'task = "dialogsum"\nrm = {list(rms)}\n', encoding="utf-8")
    request, _ = asked(monkeypatch, "--config", str(path), "--trust", "my_rm:make")
    assert request.reward_models == rms
    assert "line 2: --rm 'mean(scalar' has no closing" in refused(path, 'task = "dialogsum"\nrm = "mean(scalar"')


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    for content, named in ((b"\xff\xfe", "UTF-8"), (b"# " + b"x" * toml_files.LARGEST, "bytes")):
        path.write_bytes(content)
        with pytest.raises(BenchError, match=named):
            run_files.read(path)
    for other in (tmp_path, tmp_path / "missing.toml"):
        with pytest.raises(BenchError, match="cannot be read"):
            run_files.read(other)
    path.write_bytes(b'\xef\xbb\xbftask = "dialogsum"\r\n\r\nrms = 1\r\n')
    with pytest.raises(BenchError, match="line 3"):
        run_files.read(path)


def test_keys_are_the_options_and_the_schema_has_them() -> None:
    options = {opt.removeprefix("--"): param.name for param in run.params for opt in param.opts}
    assert {key: options[key] for key in run_files.KEYS} == {key: name for key, (name, _) in run_files.KEYS.items()}
    # every option of the command is part of a comparison, or says how to compute
    how = {
        "config", "save", "trust", "yes", "out", "jobs", "threads", "device", "track", "repair", "dry-run", "plan-on",
        "no-measure", "no-cache", "set", "quiet", "-q",
    }  # fmt: skip
    assert set(options) - set(run_files.KEYS) == how
    assert set(SCHEMA["properties"]) == {*run_files.KEYS, "set"}
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tomllib.loads(WHOLE), SCHEMA)
    for wrong in ("rms = 1", "task = 3", "rm = []", 'relabel = "yes"'):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(tomllib.loads(wrong), SCHEMA)


def test_the_page_has_the_example_and_every_key() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs" / "run-files.md").read_text(encoding="utf-8")
    path = root / "examples" / "compare.toml"
    assert page.split("```toml\n")[1].split("```")[0] == path.read_text(encoding="utf-8")
    found = run_files.read(path)
    assert found.values["task"] == "dialogsum"
    assert "seq2seq-*.epochs=4" in found.assignments
    for key in run_files.KEYS:
        assert f"`{key}`" in page
    own = (root / "examples" / "lengths.toml").read_text(encoding="utf-8")
    assert page.split("```toml\n")[2].split("```")[0] == own
