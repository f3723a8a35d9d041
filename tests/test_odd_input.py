"""Input that is odd in one of many ways: one line, exit code 2, nothing is written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from stored import Stored, make

from rlhf_bench.harness import api, store
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.policies import pick_device
from rlhf_bench.harness.nouns import Measure, Verdict
from rlhf_bench.harness.presets import MOST_SEEDS, factory_settings, make_settings, parse_seeds
from rlhf_bench.harness.stages.judge import load_judge, measure

LONG = "x" * 300
RUN = ["run", "--task", "dialogsum", "--rm", "length-only"]


@pytest.fixture
def refused(capfd: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    """Run `bench` in an empty folder; it must exit with 2 or 3 and say why in one line, which is returned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main.main()
        error = capfd.readouterr().err
        assert stopped.value.code in (2, 3), error
        assert "Traceback" not in error
        lines = [line for line in error.splitlines() if not line.startswith(("Usage:", "Try ")) and line]
        assert len(lines) == 1, error
        assert lines[0].isprintable()
        return str(lines[0])

    return call


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [str(MOST_SEEDS + 1), "1000000000000", "9" * 4000, "0-99999999999999999999", ",".join(["1"] * 10_001), "5-20000"],
)
def test_seeds_beyond_sense_are_refused_before_they_are_made(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(BenchError, match=f"More than {MOST_SEEDS:,} seeds"):
        parse_seeds(text)
    assert time.monotonic() - began < 0.1


def test_as_many_seeds_as_are_allowed() -> None:
    assert len(parse_seeds(str(MOST_SEEDS))) == MOST_SEEDS
    assert parse_seeds("2147483647-2147483647") == (2**31 - 1,)
    for text in ("0", "-1", "5-4", "1,1", "", "a", "1-", "-1-3", "9" * 5000, str(2**31) + "-" + str(2**31)):
        with pytest.raises(ValueError):  # noqa: PT011 - a text of its own, or Python's
            parse_seeds(text)


@pytest.mark.parametrize("line", [[*RUN], ["experiment", "headline"]])
def test_many_seeds_need_a_yes(refused: Callable[..., str], line: list[str]) -> None:
    assert "Add --yes" in refused(*line, "--seeds", "101", "--dry-run")
    assert "seeds" in refused(*line, "--seeds", "20000", "--yes")
    assert "seeds" in refused(*line, "--seeds", "9" * 5000, "--yes")
    # with --yes, and without for up to 100, what is wrong next is said
    assert "abacus" in refused(*line, "--seeds", "100", "--policy", "abacus")
    assert "abacus" in refused(*line, "--seeds", "101", "--yes", "--policy", "abacus")
    with pytest.raises(BenchError, match="seeds"):
        api.plan("dialogsum", "length-only", 10**9)


# -- names and paths --------------------------------------------------------------------------------------------------

NAMED = [
    (command, option)
    for command in main.bench.commands.values()
    for option in command.params
    if not (isinstance(option, click.Option) and option.is_flag) and option.name not in ("prompt", "response")
]


@pytest.mark.parametrize(("command", "option"), NAMED, ids=[f"{c.name} {o.name}" for c, o in NAMED])
def test_every_name_that_is_empty_is_refused(
    refused: Callable[..., str], command: click.Command, option: click.Parameter
) -> None:
    given = [option.opts[0], ""] if isinstance(option, click.Option) else [""]
    assert "is empty" in refused(str(command.name), *given)


def test_an_empty_text_may_be_scored(refused: Callable[..., str]) -> None:
    assert "runs is not there" in refused("score", "--rm", "scalar", "--prompt", "", "--response", "")


LONG_LINES = [
    [*RUN, "--out", LONG],
    [*RUN, "--policy", LONG],
    [*RUN, "--policy", f"a/{LONG}"],
    [*RUN, "--data", LONG],
    ["run", "--task", LONG, "--rm", "scalar"],
    ["run", "--task", "dialogsum", "--rm", LONG],
    ["run", "--task", "dialogsum", "--rm", f"path:{LONG}"],
    ["run", "--task", "dialogsum", "--rm", f"hf:{LONG}"],
    [*RUN, "--judge", LONG],
    [*RUN, "--prompts", LONG],
    ["report", LONG, "--out", "r"],
    ["report", f"{LONG}.json", "--out", "r"],
    ["judge", LONG, "--judge", "length"],
    ["judge", "--calibrate", LONG, "--judge", "winrate"],
    ["score", "--rm", "scalar", "--prompt", f"@{LONG}", "--response", "b"],
    ["score", "--rm", "scalar", "--prompt", "a", "--response", "b", "--runs", LONG],
    ["export", LONG, "--format", "model-index", "--out", "x"],
    ["claims", LONG],
    ["claims", ".", "--intro", LONG],
    ["power", LONG, "--difference", "1"],
    ["check", "engine", "vllm", "--policy", LONG],
    ["experiment", "headline", "--out", LONG],
    ["experiment", "headline", "--policy", LONG],
]
"""Command lines with a name that no file system takes."""


@pytest.mark.parametrize("line", LONG_LINES, ids=lambda line: " ".join(line).replace(LONG, "LONG"))
def test_a_path_that_no_file_system_takes(refused: Callable[..., str], line: list[str]) -> None:
    refused(*line)


@pytest.mark.parametrize("text", [LONG, f"{'a/' * 3000}", "a\0b", ""])
def test_a_path_that_no_file_system_takes_in_python(text: str, tmp_path: Path) -> None:
    calls: list[Callable[[], object]] = [
        lambda: api.plan("dialogsum", "length-only", out=text),
        lambda: api.report(text),
        lambda: api.report(tmp_path, text),
        lambda: api.judge(text, "length"),
        lambda: api.score("scalar", "a", "b", runs=text),
        lambda: api.load_report(text),
        lambda: api.experiment("headline", out=text),
    ]
    if text:
        calls += [
            lambda: api.plan("dialogsum", "length-only", policy=text),
            lambda: api.plan("dialogsum", "length-only", data=text),
            lambda: api.plan("dialogsum", f"path:{text}"),
        ]
    for call in calls:
        with pytest.raises(BenchError) as caught:
            call()
        assert "\n" not in str(caught.value)


BYTE_LINES = [
    [*RUN, "--out", "\udcff", "--policy", "\udcff"],
    [*RUN, "--data", "\udcff"],
    ["run", "--task", "\udcff", "--rm", "scalar"],
    ["run", "--task", "dialogsum", "--rm", "path:\udcff"],
    ["run", "--task", "dialogsum", "--rm", "\udcff:x"],
    [*RUN, "--judge", "\udcff"],
    [*RUN, "--set", "ppo.kl=\udcff"],
    [*RUN, "--set", "\udcff.kl=1"],
    [*RUN, "--seeds", "\udcff"],
    ["report", "\udcff", "--out", "r"],
    ["export", "\udcff", "--format", "model-index", "--out", "x"],
    ["power", "\udcff", "--difference", "1"],
    ["score", "--rm", "\udcff", "--prompt", "\udcff", "--response", "\udcff"],
    ["score", "--rm", "scalar", "--prompt", "@\udcff", "--response", "b"],
    ["\udcff"],
]
"""Command lines with bytes that are no UTF-8, as Python hands them on."""


@pytest.mark.parametrize("line", BYTE_LINES, ids=ascii)
def test_bytes_that_are_no_text(refused: Callable[..., str], line: list[str]) -> None:
    refused(*line)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/random"])
@pytest.mark.parametrize("what", ["--prompt", "--response", "--intro", "rubric"])
def test_a_device_is_no_text(refused: Callable[..., str], device: str, what: str) -> None:
    name, scoring = "winrate-llm", {"--prompt": "a", "--response": "b", what: f"@{device}"}
    lines = {
        "--intro": ["claims", ".", "--intro", device],
        "rubric": [*RUN, "--judge", name, "--set", f"{name}.model=m", "--set", f"{name}.rubric={device}"],
    }
    score = ["score", "--rm", "scalar", *[text for item in scoring.items() for text in item]]
    assert f"Cannot read {device}" in refused(*lines.get(what, score))


def test_a_text_file_is_read_with_its_mark_and_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9")
    assert store.read_text(tmp_path / "a") == "café"
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(BenchError, match="not UTF-8"):
        store.read_text(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"x" * store.MOST_TEXT)
    assert len(store.read_text(tmp_path / "c")) == store.MOST_TEXT


# -- JSON that is nested too deeply -----------------------------------------------------------------------------------

DEEP = "[" * 200_000
CELL, ARM = "dialogsum-scalar-s1", "dialogsum-scalar-s1-000000000000"


@pytest.mark.parametrize(
    "file",
    [
        f"cells/{CELL}.json", f"ppo/{ARM}/stage.json", f"ppo/{ARM}/generations.jsonl", f"scale/{ARM}/scale.json",
        f"verdicts/winrate-{ARM}/measures.json", f"verdicts/winrate-{ARM}/verdicts.jsonl",
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", [DEEP, '{"a":' * 200_000, "\xff\xfe", "9" * 5000, ""], ids=range(5))
def test_damaged_files_of_a_run(
    tmp_path: Path, capfd: Any, file: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "runs", Stored(rms=("scalar",), seeds=(1,)))
    (tmp_path / "runs" / file).write_bytes(text.encode("latin-1"))
    monkeypatch.setattr(sys, "argv", ["bench", "report", str(tmp_path / "runs"), "--out", str(tmp_path / "r")])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert stopped.value.code == 3
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert ".." not in error
    if "verdicts" not in file:  # one judge's verdicts are a warning in the report
        assert CELL in error


@pytest.mark.parametrize(
    "text", [DEEP, "[]", "{}", '{"schema": []}', "\udcff", '{"schema": "rlhf-bench/report"}'], ids=range(6)
)
def test_damaged_reports_and_records(tmp_path: Path, refused: Callable[..., str], text: str) -> None:
    for name in ("report.json", "experiments/x.json", "reward_model.json", "m.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, errors="surrogateescape")
    refused("export", ".", "--format", "model-index", "--out", "x")
    refused("claims", ".")
    refused("run", "--task", "dialogsum", "--rm", "path:.")


# -- devices and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["meta", "cpu:3", "cpu:-1", "abacus", "cuda:77", "cpu:0x", " "])
def test_devices_that_compute_nothing(device: str) -> None:
    with pytest.raises(BenchError, match="cannot be used"):
        pick_device(device)


def test_the_cpu_has_one_name() -> None:
    assert pick_device("cpu") == pick_device("cpu:0") == "cpu"


@pytest.mark.parametrize("level", ["nan", "inf", "-inf", "0.4", "1", "0.9991", "x"])
@pytest.mark.parametrize("line", [["report", ".", "--out", "r"], ["claims", "."], ["power", ".", "--difference", "1"]])
def test_levels_out_of_range(refused: Callable[..., str], line: list[str], level: str) -> None:
    assert level in refused(*line, "--level", level)


@pytest.mark.parametrize("difference", ["nan", "inf", "-inf"])
def test_differences_that_are_no_number(refused: Callable[..., str], difference: str) -> None:
    assert "finite" in refused("power", ".", "--difference", difference)


@pytest.mark.parametrize(
    ("group", "key", "values"),
    [
        ("sft", "lr", ["0", "-1", "1.5"]), ("ppo", "lr", ["2"]), ("ppo", "critic_lr", ["2"]), ("dpo", "lr", ["2"]),
        ("sft_chosen", "lr", ["2"]), ("sft", "warmup", ["-0.1", "1.1"]), ("ppo", "gamma", ["1.1"]),
        ("ppo", "engine_memory", ["1.1"]), ("stats", "level", ["0", "1"]),
    ],
)  # fmt: skip
def test_rates_and_shares_of_the_harness(group: str, key: str, values: list[str]) -> None:
    for value in values:
        with pytest.raises(BenchError, match=f"{group}.{key} is"):
            make_settings("tiny", {group: {key: value}}, frozenset())


@pytest.mark.parametrize("key", ["warmup", "lr", "test_share", "error_rate", "threshold"])
def test_rates_and_shares_of_plugins(key: str) -> None:
    def factory(warmup: float = 0.1, lr: float = 0.1, test_share: float = 0.1, error_rate: float = 0.1,
                threshold: float = 0.1, length: float = 9.0, late: str = "") -> None: ...  # fmt: skip

    for value in ("1.5", "-0.5", 2.0):
        with pytest.raises(BenchError, match=f"mine.{key} is"):
            factory_settings("mine", factory, {key: value})
    assert factory_settings("mine", factory, {key: "0.25", "length": "-7", "late": "x"})[key] == 0.25


def test_a_width_that_no_number_of_heads_divides(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused(*RUN, "--set", "policy.width=30", "--set", "policy.heads=4")
    assert "not a multiple of policy.heads=4" in said
    assert list(tmp_path.iterdir()) == []


# -- judges with odd returns ------------------------------------------------------------------------------------------

ONE = Measure("x", "level")


class Odd:
    """A judge with one odd thing."""

    def __init__(self, measures: Any = (ONE,), verdicts: Any = None, **more: Any) -> None:
        self.__dict__.update(more)
        self.measures, self.verdicts = measures, verdicts

    def measure(self, cases: Any, task: Any) -> Any:  # noqa: ARG002
        if callable(self.verdicts):
            return self.verdicts()
        return [self.verdicts] * len(cases) if self.verdicts is not None else [Verdict({"x": 1.0})] * len(cases)


def fails() -> Any:
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        (Odd(measures=(ONE, ONE)), "two measures called x"),
        (Odd(measures=(Measure("x", "speed"),)), "'speed', not one of"),  # type: ignore[arg-type]
        (Odd(measures=(Measure("x", []),)), "not one of"),  # type: ignore[arg-type]
        (Odd(measures=(Measure("", "level"),)), "a measure called ''"),
        (Odd(measures=(Measure(3, "level"),)), "a measure called 3"),  # type: ignore[arg-type]
        (Odd(measures=("x",)), "lists str 'x'"),
        (Odd(measures=()), "has no measure"),
        (Odd(measures=None), "TypeError"),
        (Odd(verdicts=1.0), "float 1.0 is no Verdict"),
        (Odd(verdicts={"x": 1.0}), "is no Verdict"),
        (Odd(verdicts=Verdict(None)), "values are None"),  # type: ignore[arg-type]
        (Odd(verdicts=Verdict([("x", 1.0)])), "values are"),  # type: ignore[arg-type]
        (Odd(verdicts=Verdict({1: 1.0})), "values are"),  # type: ignore[dict-item]
        (Odd(verdicts=Verdict({"x": True})), "x is True"),
        (Odd(verdicts=Verdict({"x": "1"})), "x is '1'"),  # type: ignore[dict-item]
        (Odd(verdicts=Verdict({"x": 10**400})), "x is 1000"),
        (Odd(verdicts=Verdict({"x": float("nan")})), "x is nan"),
        (Odd(verdicts=Verdict({"x": 1j})), "x is 1j"),  # type: ignore[dict-item]
        (Odd(verdicts=Verdict({"x": None})), "undecided without a reason"),
        (Odd(verdicts=Verdict({"x": None}, reason=3)), "reason is 3"),  # type: ignore[arg-type]
        (Odd(verdicts=Verdict({"x": 1.0}, notes={"a": {1, 2}})), "notes are not JSON"),
        (Odd(verdicts=Verdict({"x": 1.0}, notes=None)), "notes are not JSON"),  # type: ignore[arg-type]
        (Odd(verdicts=Verdict({"x": 1.0}, notes={"a": float("nan")})), "notes are not JSON"),
        (Odd(verdicts=lambda: None), "TypeError"),
        (Odd(verdicts=lambda: 3), "TypeError"),
        (Odd(verdicts=list), "0 verdicts for 1 cases"),
        (Odd(verdicts=lambda: "ab"), "2 verdicts for 1 cases"),
        (Odd(verdicts=lambda: "a"), "'a' is no Verdict"),
        (Odd(verdicts=fails), "KeyError: 'gone'"),
    ],
)
def test_a_judge_with_odd_returns_is_one_line(judge: Any, said: str) -> None:
    from fault_server import CASES, Plain

    with pytest.raises(BenchError) as caught:
        measure("odd", judge, CASES[:1], Plain())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("measures = property(lambda self: 1 / 0)", "ZeroDivisionError"),
        ("measures = (); threshold = 'high'", "threshold 'high'"),
        ("measures = (); threshold = float('nan')", "threshold nan"),
        ("measures = (); threshold = 3", "threshold 3"),
        ("measures = (); threshold = property(lambda self: [][0])", "IndexError"),
        ("pass", "lacks members"),
    ],
)
def test_a_judge_with_odd_members_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    name = f"odd_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"class J:\n    def measure(self, cases, task): ...\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BenchError) as caught:
        load_judge(f"{name}:J", {})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_account_that_is_no_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fault_server import CASES, Plain

    from rlhf_bench.harness.stages import judge as stage

    odd = Odd(account={"a": {1}})
    monkeypatch.setattr(stage, "load_judge", lambda *_: odd)
    monkeypatch.setattr(stage, "read_cases", lambda _: CASES[:1])
    monkeypatch.setattr(stage, "load_task", lambda _: Plain())
    context: Any = type("C", (), {"params": {"judge": {"name": "odd"}, "judge_settings": {}}, "work": tmp_path})
    with pytest.raises(BenchError, match="no JSON object"):
        stage.verdicts(context)


def test_json_files_that_are_folders(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(BenchError, match="cannot be read"):
        store.read_json(tmp_path / "a.json")
