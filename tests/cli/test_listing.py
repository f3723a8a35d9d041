"""`bench list`: names with a line about each, also for what is broken, and no torch."""

from __future__ import annotations

import pytest
from small import bench

from rlhf_bench.harness import plugins
from rlhf_bench.harness.cli.listing import LISTS, listing
from rlhf_bench.harness.plugins import Plugin


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


def test_settings_have_defaults_values_and_descriptions(capsys: pytest.CaptureFixture[str]) -> None:
    found = {row[0]: row[1:] for row in rows(capsys, "settings")}
    default, values, description = found["ppo.kl"]
    assert float(default) >= 0
    assert "number" in values
    assert len(description) > 10
    assert found["winrate-llm.model"] == ["(needed)", "", "of the judge"]


def test_experiments_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    assert all(row[2].strip() for row in rows(capsys, "experiments"))
    presets = rows(capsys, "presets")
    assert {"tiny", "small"} <= {row[0] for row in presets}


def test_no_list_imports_torch() -> None:
    for what in ("reward-models", "judges", "tasks", "settings"):
        listed = bench("list", what, PYTHONPROFILEIMPORTTIME="1")
        assert listed.returncode == 0, listed.stderr
        assert " torch\n" not in listed.stderr
