"""Which judges a run has that names none: the general ones, and those that are made for its task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from plain_task import Plain
from small import bench, command

from rlhf_bench.harness import api
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.judges import DEFAULT_JUDGES, judge_spec
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.stages.judge import FLUENCY
from rlhf_bench.judges.stance import Stance
from rlhf_bench.tasks.saferlhf import RealSafeRLHF
from rlhf_bench.tasks.worlds.safety import SafetyWorld

HERE = "test_default_judges"
SHY = f"{HERE}:Shy"


class Shy(Stance):
    """A judge that is registered nowhere."""


class Own(Plain):
    judges = (SHY, "length")


class Misspelt(Plain):
    judges = ("stanse:Nothing",)


def judged(request: Request) -> list[str]:
    """The judges of a plan, in front of the harness's own measures, which every cell has."""
    (names,) = make_plan(request).judged.values()
    *judges, own = names
    assert own == FLUENCY
    return judges


def test_a_tasks_own_judges_join_the_default_ones() -> None:
    plain = Request(f"{HERE}:Plain", ("length-only",), (0,), "tiny", (), {})
    own = replace(plain, task=f"{HERE}:Own")
    assert judged(plain) == list(DEFAULT_JUDGES)
    assert judged(own) == [*DEFAULT_JUDGES, SHY]  # one that is a default already is not there twice
    assert judged(replace(own, judges=("empty",))) == ["empty"]  # who names judges gets those alone
    with pytest.raises(BenchError, match="stanse"):
        judged(replace(plain, task=f"{HERE}:Misspelt"))


def test_a_plus_adds_to_the_default_judges_and_a_plain_name_makes_the_list_plain() -> None:
    plain = Request(f"{HERE}:Plain", ("length-only",), (0,), "tiny", (), {})
    own = replace(plain, task=f"{HERE}:Own")
    assert judged(replace(plain, judges=("+refusal", f"+{SHY}"))) == [*DEFAULT_JUDGES, "refusal", SHY]
    assert judged(replace(own, judges=("+refusal",))) == [*DEFAULT_JUDGES, SHY, "refusal"]
    assert judged(replace(own, judges=("+empty",))) == [*DEFAULT_JUDGES, SHY]
    assert judged(replace(own, judges=("+refusal", "length", "+empty"))) == ["refusal", "length", "empty"]
    with pytest.raises(BenchError, match=r"Unknown judge 'refusel'\. Did you mean 'refusal'"):
        judged(replace(plain, judges=("+refusel",)))
    with pytest.raises(BenchError, match=r"'\+' has no name"):
        judged(replace(plain, judges=("+",)))
    settings = {"refusal-phrases": {"phrases": "nowhere.txt"}}  # read when the judge is built
    with pytest.raises(BenchError, match=r"nowhere\.txt"):
        judged(replace(plain, judges=("+refusal-phrases",), assignments=settings))


def test_a_plan_says_which_default_judges_a_plain_list_leaves_out() -> None:
    def notes(**more: object) -> list[str]:
        return api.plan(f"{HERE}:Own", "length-only", **more).notes  # type: ignore[arg-type]

    assert notes() == notes(judges=["+refusal"]) == []
    assert notes(judges=[*DEFAULT_JUDGES, SHY]) == []
    (note,) = notes(judges=["length", "refusal"])
    assert f"leave out the default winrate, utility, empty, {SHY};" in note
    assert "+NAME" in note


def test_the_command_says_it_in_one_line_on_stderr() -> None:
    small = [*command(Path("runs"), rms=("length-only",)), "--dry-run"]
    dropped = bench(*small, "--judge", "length", "--judge", "refusal")
    assert dropped.returncode == 0
    (note,) = dropped.stderr.splitlines()
    assert note.startswith("note: The judges named leave out the default winrate, utility, empty;")
    added = bench(*small, "--judge", "+refusal")
    assert (added.returncode, added.stderr) == (0, "")
    stages = {line.split("-dialogsum")[0] for line in added.stdout.splitlines()}
    assert {"verdicts winrate", "verdicts refusal"} <= stages


def test_the_synthetic_safety_task_has_its_judge_and_real_data_have_none() -> None:
    assert SafetyWorld.judges == ("stance",)
    assert not hasattr(RealSafeRLHF, "judges")


@pytest.mark.parametrize("text", ["# nothing yet\n", "\n\n# a = 'b'"])
def test_a_rubric_without_a_criterion_is_refused_at_planning(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(BenchError, match="has no criterion"):
        judge_spec("winrate-llm", {"model": "m", "rubric": str(tmp_path / "r.toml")})
    (tmp_path / "r.toml").write_text('kind = "Which is kinder?"')
    assert judge_spec("winrate-llm", {"model": "m", "rubric": str(tmp_path / "r.toml")}).name == "winrate-llm"
