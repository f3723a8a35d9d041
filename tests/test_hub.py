"""Names on the hub, and the one-line error for what cannot be loaded: the cause that libraries wrap, and its fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.hub import is_hub_id, load_error, split_revision
from rlhf_bench.harness.models.identity import policy_identity
from rlhf_bench.harness.settings import Settings


def test_a_revision_stands_behind_an_at_sign(tmp_path: Path) -> None:
    assert split_revision("org/name") == ("org/name", None)
    assert split_revision("org/name@abc123") == ("org/name", "abc123")
    (tmp_path / "odd@name").mkdir()
    assert split_revision(tmp_path / "odd@name") == (str(tmp_path / "odd@name"), None)
    for wrong in ("org/name@", "@main"):
        with pytest.raises(BenchError, match="ID@REVISION"):
            split_revision(wrong)


def test_what_can_be_a_hub_id(tmp_path: Path) -> None:
    assert is_hub_id("org/name")
    assert is_hub_id("org/name@main")
    assert not any(map(is_hub_id, ("name", "./a/b", "/a", "~/b", "a/b/c", tmp_path)))


def wrapped(kind: str) -> OSError:
    """A library's OSError around the hub client's own error, as transformers raises it."""
    outer = OSError("We couldn't connect to the hub.\nMore advice.")
    outer.__cause__ = type(kind, (Exception,), {})("inner")
    return outer


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("GatedRepoError", "gated"),
        ("RepositoryNotFoundError", "no such repository"),
        ("RevisionNotFoundError", "no revision 'v9'"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("OddError", "OSError: We couldn't connect"),
    ],
)
def test_the_cause_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, kind: str, said: str) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    error = load_error(wrapped(kind), "org/name@v9", "model")
    assert said in error.seen
    assert "org/name@v9" in error.seen
    assert error.fix
    assert "\n" not in str(error)


def test_offline_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in load_error(wrapped("LocalEntryNotFoundError"), "org/name", "model").seen


def test_a_pinned_policy_is_another_one() -> None:
    settings = Settings()
    plain, pinned = (policy_identity(source, settings) for source in ("org/name", "org/name@0123456789abcdef"))
    assert plain["name"] == "org--name"
    assert pinned["name"] == "org--name@0123456789ab"
    assert plain != pinned
    assert pinned["source"] == "org/name@0123456789abcdef"
