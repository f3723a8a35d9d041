"""Tables on a terminal: whatever its width, no name, word or number is broken, and nothing is lost."""

from __future__ import annotations

import io
import random
import re

import pytest
from rich.console import Console

from rlhf_bench.harness.results.table import Cell, Table
from rlhf_bench.reports import terminal
from rlhf_bench.reports.layout import arrange, needed, without_constants

NAMES = ("scalar", "seq2seq-token-positive", "hf:some-owner/some-reward-model")
PROSE = "a regression of the win rate on the length of the response, predicted at a difference of nothing at all"


def shown(table: Table, width: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    terminal.show(console, table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def table(names: tuple[str, ...] = NAMES, numbers: int = 6, prose: str = "") -> Table:
    columns = (
        "task",
        "reward model",
        "seeds",
        *(f"measure {n}" for n in range(numbers)),
        *(["which"] if prose else []),
    )
    rows = [
        (
            "dialogsum", name, Cell(5, format="count"),
            *(Cell(-n / 7 - 0.125, -n - 3.5, n + 12.75) for n in range(numbers)), *([prose] if prose else []),
        )
        for name in names
    ]  # fmt: skip
    return Table("At the end", columns, rows)


@pytest.mark.parametrize("width", [30, 40, 52, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("prose", ["", PROSE])
def test_names_and_numbers_are_whole_at_every_width(width: int, prose: str) -> None:
    found = shown(table(prose=prose), width)
    words = found.split()
    for name in NAMES:
        assert name in words or f"{name}" in found.replace("\n", " ").split(" ")
    # every number and every end of an interval stands in one piece
    numbers = re.findall(r"-?\d+\.\d\d", found)
    assert len(numbers) == 3 * 6 * len(NAMES)
    assert {"-0.12", "[-3.50,", "12.75]"} <= set(words)
    if prose:
        assert set(PROSE.split()) <= set(words)
    if width >= 52:  # wide enough for the longest name and a number
        assert max(map(len, found.splitlines())) <= width


def test_one_block_where_all_fits_and_intervals_on_two_lines_where_that_helps() -> None:
    rows = table()
    assert shown(rows, 200).count("reward model") == 1
    assert "[-3.50, 12.75]" in shown(rows, 200)
    narrow = shown(table(NAMES[:1]), 80)
    assert narrow.count("reward model") == 1
    assert "[-3.50,\n" in re.sub(r",\s+\[.*", ",", narrow)
    assert "[-3.50, 12.75]" not in narrow
    # blocks, each with the names: intervals are whole again
    blocks = shown(rows, 70)
    assert blocks.count("reward model") > 1
    assert blocks.count(NAMES[2]) == blocks.count("reward model")
    assert "[-3.50, 12.75]" in blocks


def test_where_a_name_and_a_number_do_not_fit_each_value_has_a_line() -> None:
    found = shown(table(), 31)
    assert f"{NAMES[2]}\n" in found
    assert "measure 0: -0.12 [-3.50, 12.75]\n" in found


def test_random_tables_keep_every_word() -> None:
    rng = random.Random(7)
    letters = "abcdefghij-_:./漢"
    for _ in range(60):
        width, count = rng.randint(20, 130), rng.randint(1, 7)
        rows = [
            tuple("".join(rng.choices(letters, k=rng.randint(1, 30))) for _ in range(count))
            for _ in range(rng.randint(1, 4))
        ]
        made = Table("random", tuple(f"c{n}" for n in range(count)), rows)
        words = set(shown(made, width).split())
        assert {entry for row in rows for entry in row} <= words
        for block in arrange(made, width):
            assert needed(block) <= width


def test_constant_task_and_seeds_go_to_the_caption_on_a_terminal_alone() -> None:
    found = shown(table(), 120)
    assert "At the end (task: dialogsum; seeds: 5)" in found
    assert found.count("dialogsum") == 1
    rows = [*table().rows, ("tldr", "scalar", Cell(5, format="count"), *[Cell(0.5)] * 6)]
    several = table()._replace(rows=rows)
    assert "At the end (seeds: 5)" in shown(several, 120)
    assert "tldr" in shown(several, 120)
    piped = Console(file=io.StringIO(), force_terminal=False)
    terminal.show(piped, table())
    assert piped.file.getvalue().split("\n")[0].split("\t")[:3] == ["task", "reward model", "seeds"]  # type: ignore[attr-defined]
    alone = Table("alone", ("task",), [("a",), ("a",)])
    assert without_constants(alone) == (alone, "")
    empty = Table("empty", ("task", "x"), [])
    assert without_constants(empty) == (empty, "")


def test_markup_and_control_characters_are_shown_as_they_are() -> None:
    made = Table("[red]t[/red]", ("[b]c", "d"), [("[bold]:smile:[/bold]", "x\x1b[31my"), ("a\nb", "\x07")])
    found = shown(made, 80)
    assert "[bold]:smile:[/bold]" in found
    assert "[red]t[/red]" in found
    assert "\x1b[31m" not in found
    assert "\x07" not in found
