"""Preference data of many shapes mean the same; a text that looks like structure is a text; bad rows are counted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "faults"))
import fuzz_data
import layout_rows
import layouts

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.layouts import Names, recognise
from rlhf_bench.tasks.preferences import preferences
from rlhf_bench.tasks.prompts import prompts
from rlhf_bench.tasks.sources import BadRows, Row

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"
Values = dict[str, object]


def read(*rows: Values, names: Names | None = None) -> list[tuple[str, str, str | None]]:
    """The triples of rows; raises where a row is bad."""
    made, bad = [Row(f"row {at}", values) for at, values in enumerate(rows)], BadRows()
    found = [(one.prompt, one.chosen, one.rejected) for one in recognise(made, names or Names()).triples(made, bad)]
    bad.check(len(found))
    return found


def write(path: Path, rows: list[Values]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_every_layout_of_the_campaign_is_read_right(tmp_path: Path) -> None:
    found = layouts.pair_cases(tmp_path) | layouts.prompt_cases(tmp_path)
    assert {name: why for name, why in found.items() if why} == {}
    assert len(found) >= 60


@pytest.mark.parametrize("prompt", ["", "\n\nHuman: a\n\nAssistant: b", '[{"role": "user", "content": "x"}]'])
def test_texts_in_columns_of_their_own_come_back_as_they_are(prompt: str) -> None:
    for text in ('[{"item": "x"}]', "Human: a\n\nAssistant: b", "A: [{'role': 'user'}]", "A>B"):
        fuzz_data.check_texts(prompt or text, text, f"{text}?")


def test_answers_in_json_are_texts() -> None:
    row = {"prompt": "Give JSON.", "chosen": '[{"item": 1}]', "rejected": '[{"item": 2}]'}
    assert read(row) == [("Give JSON.", '[{"item": 1}]', '[{"item": 2}]')]


def test_no_prompt_is_guessed_while_an_unused_column_could_hold_it() -> None:
    row: Values = {"frage": "Where?", "id": "7", "chosen": "Well:\nHere.", "rejected": "Well:\nThere."}
    with pytest.raises(BenchError, match=r"'frage' may hold it.*preferences.prompt=frage"):
        read(row)
    assert read(row, names=Names(prompt="frage")) == [("Where?", "Well:\nHere.", "Well:\nThere.")]
    assert read(row, names=Names(prompt="-")) == [("Well:", "Here.", "There.")]
    with pytest.raises(BenchError, match="could each be the prompt"):
        read({"question": "a", "problem": "b", "chosen": "c", "rejected": "d"})


def test_transcripts_that_part_early_are_refused_as_conversations_are() -> None:
    texts = {name: layout_rows.hh("Hi?", f"{name}.", "Why?", "So.") for name in ("chosen", "rejected")}
    with pytest.raises(BenchError, match="after the prompt 'chosen' holds assistant, user, assistant"):
        read(texts)


def test_an_empty_system_turn_or_column_is_none() -> None:
    answers = {"chosen": "a", "rejected": "b"}
    plain = read({"prompt": "Hi?", **answers})
    assert (
        read({"prompt": "Hi?", "system": "", **answers}) == read({"prompt": "Hi?", "system": None, **answers}) == plain
    )
    assert read({"prompt": [{"role": "system", "content": " "}, {"role": "user", "content": "Hi?"}],
                 "chosen": [layout_rows.said("a")], "rejected": [layout_rows.said("b")]}) == plain  # fmt: skip


def test_bad_rows_are_named_together_or_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[Values] = [{"prompt": f"Q{i}?", "chosen": f"Yes {i}.", "rejected": f"No {i}."} for i in range(60)]
    for at, change in ((7, {"chosen": ""}), (9, {"rejected": None}), (20, {"chosen": "\ud800"}), (30, {"prompt": 3})):
        rows[at] |= change
    path = write(tmp_path / "p.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n[1]\n")
    with pytest.raises(BenchError) as caught:
        _ = preferences(data=str(path)).origin
    assert "6 of 62 rows cannot be used" in str(caught.value)
    assert "line 61: malformed JSON" in str(caught.value)
    assert "And 3 more." in str(caught.value)
    assert "--set data.bad_rows=skip" in caught.value.fix
    task = preferences(data=str(path), bad_rows="skip")
    assert "6 of 62 rows cannot be used" in task.origin.description
    assert sum(map(len, task._parts.values())) == 56
    with pytest.raises(BenchError, match="Did you mean 'skip'"):
        preferences(data=str(path), bad_rows="skp")
    asked = prompts(data=str(path), bad_rows="skip")
    assert "59, 0 repeated ones left out. Left out: 3 of 62" in asked.origin.description


def test_rows_without_a_better_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    rows: list[Values] = [
        {"prompt": f"Q{i}?", "response_1": "a", "response_2": "b", "preference_strength": (i % 3) - 1}
        for i in range(90)
    ]
    task = preferences(data=str(write(tmp_path / "p.jsonl", rows)))
    assert "30 rows without a better answer left out" in task.origin.description
    liked: list[Values] = [{"prompt": f"Q{i}?", "completion": "a", "label": True} for i in range(90)]
    path = write(tmp_path / "kto.jsonl", liked)
    with pytest.raises(BenchError, match="unpaired=sample"):
        _ = preferences(data=str(path)).origin
    assert {pair.rejected for pair in preferences(data=str(path), unpaired="sample").pairs("train")} == {None}


ARENA: Values = {"prompt": '["Where?"]', "response_a": '["Here."]', "response_b": '["There."]', "winner_model_a": 1,
                 "winner_model_b": 0, "winner_tie": 0}  # fmt: skip
SHAPES: list[Values] = [
    ARENA,
    {"instruction": "Where?", "input": "", "output": ["Here.", "There."]},
    {"messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}],
     "rejected_response": "There."},
    {"question": "Where?", "response_1": "Here.", "response_2": "There.", "preference_strength": -1},
    {"prompt": "Where?", "completion": "Here.", "label": True},
]  # fmt: skip


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("row", "lacks"), [(row, name) for row in SHAPES for name in row])
def test_a_row_without_one_of_the_columns_is_one_line(row: Values, lacks: str, first: bool) -> None:
    """Found by the fuzzer: a layout looked at columns that the first row did not have."""
    short = {name: value for name, value in row.items() if name != lacks}
    rows = (short, row) if first else (row, short)
    found = fuzz_data.fine(lambda: read(*rows))  # None for a BenchError of one line
    assert found is None or all(prompt and chosen for prompt, chosen, _ in found)  # type: ignore[attr-defined]


def test_columns_that_are_not_used_are_named(tmp_path: Path) -> None:
    rows: list[Values] = [{"prompt": f"Q{i}?", "chosen": "a", "rejected": "b", "tools": "t"} for i in range(60)]
    assert "columns not used: tools" in preferences(data=str(write(tmp_path / "p.jsonl", rows))).origin.description


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases of shared/ are not here")
def test_the_same_conversation_in_two_files_is_one_prompt() -> None:
    place = CASES / "transcripts-lose-first-label"
    one, other = (preferences(data=str(place / name)) for name in ("data.jsonl", "messages.jsonl"))
    assert list(one.pairs("train")) == list(other.pairs("train"))
    assert [p.prompt.turns for p in one.pairs("train")] == [p.prompt.turns for p in other.pairs("train")]  # type: ignore[attr-defined]


def test_the_fuzzer_finds_what_it_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="several lines"):
        fuzz_data.fine(lambda: (_ for _ in ()).throw(BenchError("a\nb")))
    monkeypatch.setattr(fuzz_data, "recognise", lambda *_: [][0])
    with pytest.raises(IndexError):
        fuzz_data.check_layouts([{"a": 1}], Names())
