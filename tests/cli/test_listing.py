"""`bench list`: names with a line about each, also for what is broken, and no torch."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from small import bench

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.listing import KINDS, LISTS, listing, setting_rows
from rlhf_bench.harness.cli.setting_texts import OURS, _described, sentences
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plugins import Plugin
from rlhf_bench.harness.settings import GROUPS, Settings
from rlhf_bench.reports import terminal
from rlhf_bench.reward_models.scalar import Scalar


def rows(capsys: pytest.CaptureFixture[str], what: str) -> list[list[str]]:
    """What a pipe gets, without the names of the columns."""
    assert listing(what) == 0
    lines = capsys.readouterr().out.splitlines()
    assert tuple(lines[0].split("\t")) == LISTS[what][0]
    return [line.split("\t") for line in lines[1:]]


@pytest.mark.parametrize("what", ["tasks", "reward-models", "judges"])
def test_every_plugin_of_ours_is_described(capsys: pytest.CaptureFixture[str], what: str) -> None:
    for name, description, reference, package in rows(capsys, what):
        if package == "rlhf-bench":
            assert len(description) > 20, name
            assert reference.startswith("rlhf_bench.")


def test_a_plugin_that_cannot_be_imported_shows_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Plugin("judge", "broken", "no_such_module:Judge", "theirs")
    known = plugins.registered("judge")
    monkeypatch.setattr(plugins, "registered", lambda _: [broken, *known])
    found = rows(capsys, "judges")
    assert found[0][0] == "broken"
    assert "cannot be imported: ModuleNotFoundError" in found[0][1]
    assert found[0][2:] == ["no_such_module:Judge", "theirs"]
    assert [row[0] for row in found[1:]] == [plugin.name for plugin in known]


def settings_of(capsys: pytest.CaptureFixture[str], group: str = "") -> dict[str, list[str]]:
    """(default, values, description) by setting, as a pipe gets them."""
    assert listing("settings", group) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert tuple(lines[0]) == LISTS["settings"][0]
    return {row[0]: row[1:] for row in lines[1:]}


def test_settings_have_defaults_values_and_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    found = settings_of(capsys)
    default, values, description = found["ppo.kl"]
    assert float(default) >= 0
    assert "number" in values
    assert len(description) > 10
    assert found["winrate-llm.model"][:2] == ["(needed)", ""]
    assert "which of two responses is better" in found["winrate-llm.model"][2]


def test_every_setting_of_ours_has_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    found = settings_of(capsys)
    ours = {p.name for kind in KINDS for p in plugins.registered(kind) if p.distribution == OURS} | {*GROUPS}
    of_ours = {name: row[2] for name, row in found.items() if name.rpartition(".")[0] in ours}
    assert len(of_ours) > 300
    assert {name: text for name, text in of_ours.items() if not text.endswith((".", ".)"))} == {}
    assert not [name for name, text in of_ours.items() if text.startswith(("of the", "Raises"))]


def test_the_described_settings_exist() -> None:
    """A sentence in setting_texts.toml for a setting that is gone would stay for ever."""
    for kind, described in _described().items():
        of_kind = [p for p in plugins.registered(kind) if p.distribution == OURS]  # type: ignore[arg-type]
        keys = {key for plugin in of_kind for key in plugins.parameters(plugin.factory())}
        assert set(described) <= keys, kind


def test_the_settings_of_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    ppo = settings_of(capsys, "ppo")
    assert list(ppo) == [f"ppo.{key}" for key in Settings().group("ppo")]
    assert len({row[2] for row in ppo.values()}) == len(ppo)  # a sentence of its own for each
    assert set(settings_of(capsys, "scalar")) == {f"scalar.{key}" for key in vars(Scalar())}
    assert {name.partition(".")[0] for name in settings_of(capsys, "seq2seq-f*")} == {"seq2seq-free"}
    with pytest.raises(BenchError, match=r"Unknown settings group 'pppo'\. Did you mean 'ppo'"):
        listing("settings", "pppo")
    with pytest.raises(BenchError, match="bench list judges takes no group"):
        listing("judges", "ppo")


def test_a_sentence_comes_from_a_docstring_of_anyone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        """A judge.  With `strict` a tie is a loss.

        `lenient_*` are the shares of cases that
        are not counted.  Raises ValueError without `odd`.
        """

    plugin = Plugin("judge", "theirs", "theirs:Theirs", "theirs")
    monkeypatch.setattr(Plugin, "target", lambda _: Theirs)
    assert sentences(plugin, ["strict", "lenient_a", "odd", "batch"]) == {
        "strict": "With `strict` a tie is a loss.",
        "lenient_a": "`lenient_*` are the shares of cases that are not counted.",
        "odd": "",
        "batch": "",  # setting_texts.toml is of our plugins alone
    }


def test_a_terminal_shows_a_setting_with_its_sentence_below() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    terminal.show_settings(console, LISTS["settings"][0], list(setting_rows("dpo")))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "dpo.epochs = 2  a whole number above 0\n    Passes over the training pairs." in shown


def test_without_a_word_the_lists_are_listed() -> None:
    listed = bench("list")
    assert listed.returncode == 0
    assert {line.split("\t")[0] for line in listed.stdout.splitlines()[1:]} == set(LISTS)


def test_experiments_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(row[2].strip() for row in rows(capsys, "experiments"))
    presets = rows(capsys, "presets")
    assert {"tiny", "small"} <= {row[0] for row in presets}


def test_no_list_imports_torch() -> None:
    for what in ("reward-models", "judges", "tasks", "settings"):
        listed = bench("list", what, PYTHONPROFILEIMPORTTIME="1")
        assert listed.returncode == 0, listed.stderr
        assert " torch\n" not in listed.stderr
