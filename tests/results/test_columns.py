"""Columns hold the same numbers as rows; a file is read once, and read again after it was replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import cache, store
from rlhf_bench.harness.results import columns
from rlhf_bench.harness.results.columns import align, checkpoints

cells = st.builds(
    lambda i, at, greedy, values, slices, reason: {
        "example_id": f"e{i}", "iteration": at, "decoding": "greedy" if greedy else "sample", "slices": slices,
        "source": f"s{i % 2}", "values": values, **({"reason": "no answer"} if reason else {}),
    },
    st.integers(0, 5), st.integers(1, 2), st.booleans(),
    st.dictionaries(st.sampled_from("ab"), st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1)),
    st.lists(st.sampled_from(("x", "y")), unique=True), st.booleans(),
)  # fmt: skip


def by_rows(tables: list[list[dict[str, Any]]], place: tuple[str, int], slice_name: str, name: str) -> list[list[Any]]:
    """A matrix by its definition: rows of the checkpoint and slice, on the prompts of every seed, in order of id."""
    found = []
    for rows in tables:
        last = {r["example_id"]: r for r in rows if (r["decoding"], r["iteration"]) == place}
        found.append({i: r for i, r in last.items() if not slice_name or slice_name in r["slices"]})
    ids = sorted(set.intersection(*map(set, found)))
    return [[table[i]["values"].get(name) for i in ids] for table in found]


@given(st.lists(st.lists(cells, min_size=1, max_size=12), min_size=1, max_size=3), st.sampled_from(("", "x", "y")))
def test_columns_equal_rows(tables: list[list[dict[str, Any]]], slice_name: str) -> None:
    made = [columns.keep(Path(f"/nowhere/{k}"), [dict(row) for row in rows]) for k, rows in enumerate(tables)]
    for place in checkpoints(made):
        part = align([one.groups[place] for one in made], slice_name)
        for name in "ab":
            wanted = np.array(by_rows(tables, place, slice_name, name), dtype=np.float64)
            np.testing.assert_array_equal(part.matrix(name), wanted.reshape(len(tables), -1))
        for one, rows in zip(made, tables, strict=True):
            own = {r["example_id"]: r for r in rows if (r["decoding"], r["iteration"]) == place}
            group = one.groups[place]
            for at, i in enumerate(group.ids):
                row = group.row(at)
                assert (row["example_id"], list(row["slices"]), row["source"]) == (
                    i,
                    own[i]["slices"],
                    own[i]["source"],
                )
                assert row.get("reason") == own[i].get("reason")
                assert all(row["values"].get(name) == own[i]["values"].get(name) for name in "ab")


@given(st.lists(cells, min_size=1, max_size=12), st.sampled_from(("", "\ud800 é\u2028", "plain")))
def test_what_is_kept_gives_the_same_columns(rows: list[dict[str, Any]], source: str) -> None:
    made = columns.keep(Path("/nowhere/0"), [{**row, "source": source} for row in rows])
    found = columns.unpacked(made.path, json.loads(json.dumps(columns.packed(made))))
    assert list(found.groups) == list(made.groups)
    for place, group in made.groups.items():
        other = found.groups[place]
        assert (other.ids, other.slices, other.sources, other.reasons) == (
            group.ids,
            group.slices,
            group.sources,
            group.reasons,
        )
        assert list(other.values) == list(group.values)
        assert all(other.column(name).tobytes() == one.tobytes() for name, one in group.values.items())


def test_responses_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    row = {"example_id": "e", "iteration": 1, "decoding": "sample", "tokens": 3, "finished": True, "response": "Yes."}
    path = tmp_path / "generations.jsonl"
    store.write_rows(path, [row])
    for kept in (False, True):  # the second time without the file's rows
        columns._READ.clear()
        with cache.using(tmp_path / "kept"):
            assert columns.read(path).groups["sample", 1].column("tokens").tolist() == [3.0]
            assert columns.read(path).whole is not kept
            assert columns.read(path, texts=True).groups["sample", 1].texts == ("Yes.",)
            assert columns.read(path).whole


def test_prompts_of_one_seed_alone_and_reasons_are_counted() -> None:
    row = {"iteration": 1, "decoding": "sample", "slices": [], "values": {"a": None}}
    first = [{**row, "example_id": "p", "reason": "no answer"}, {**row, "example_id": "q"}]
    made = [columns.keep(Path(f"/nowhere/{k}"), rows) for k, rows in enumerate((first, [{**row, "example_id": "p"}]))]
    part = align([one.groups["sample", 1] for one in made])
    assert (part.ids, part.left_out) == (("p",), 1)
    assert list(part.reasons(np.isnan(part.matrix("a")))) == ["no answer", "not measured"]


def test_whole_rows_and_a_replaced_file_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    rows = [
        {"example_id": "p", "iteration": i, "decoding": "sample", "slices": [], "values": {"a": float(i)}}
        for i in (1, 2)
    ]
    store.write_rows(path, rows)
    found = columns.read(path)
    assert columns.read(path) is found
    assert found.final("sample", "greedy") == [{"p": rows[1]}, {}]
    store.write_rows(path, rows[:1])
    assert columns.read(path).last("sample") == 1
