"""Where preference data of the usual layouts hold the two answers of a row, and which one is the better.

Each layout is recognised by its columns.  Sources: the data sets' cards on the hub (HelpSteer 2 and 3, Nectar,
UltraFeedback, SHP, WebGPT, RewardBench 2, PKU-SafeRLHF, Chatbot Arena), the repositories of summarize-from-feedback,
LLaMA-Factory (`data/README.md`), ms-swift, AlpacaEval and TRL, and OpenAI's guide to preference fine-tuning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.sources import Row

Cell = tuple[str, object]
"""The name of a column, for messages, and what it holds."""


class Answers(NamedTuple):
    """How a row holds its answers.

    `read` gives pairs of cells (better, worse), none for a tie.  `columns` are those that it uses.  `label` reads rows
    with one answer each, where others complete the pair: (the answer, its score).
    """

    layout: str
    columns: Collection[str]
    read: Callable[[Row], list[tuple[Cell, Cell]]] | None = None
    label: Callable[[Row], tuple[Cell, float]] | None = None


# (better, worse) by name.
PAIRS = {
    ("chosen", "rejected"): "chosen and rejected",
    ("response_j", "response_k"): "StackExchange pairs",
    ("preferred_output", "non_preferred_output"): "OpenAI preference",
    ("chosen_response", "rejected_response"): "chosen and rejected",
    ("response_chosen", "response_rejected"): "chosen and rejected",
    ("answer_chosen", "answer_rejected"): "chosen and rejected",
    ("preferred", "dispreferred"): "chosen and rejected",
    ("accepted", "rejected"): "chosen and rejected",
    ("better", "worse"): "chosen and rejected",
    ("positive", "negative"): "chosen and rejected",
    ("win", "lose"): "chosen and rejected",
    ("winner", "loser"): "chosen and rejected",
}

# (first, second) of answers whose order says nothing.
SIDES = (
    *(("response_0", "response_1"), ("response_1", "response_2"), ("response1", "response2"), ("answer_0", "answer_1")),
    *(("response_a", "response_b"), ("response_A", "response_B"), ("answer_a", "answer_b"), ("output_1", "output_2")),
    *(("human_ref_A", "human_ref_B"), ("completion_a", "completion_b"), ("conversation_a", "conversation_b")),
    *(("orig_response_A", "orig_response_B"), ("completion_1", "completion_2"), ("answer_1", "answer_2")),
    *(("output_a", "output_b"), ("text_1", "text_2"), ("responseA", "responseB")),
)

# Columns that state the better one of two answers.
STATED = (*("winner", "preference", "orig_preference", "choice", "label", "better", "preferred", "chosen", "verdict"),)

# Lists of answers, the answer's text in an item, and what orders them: a rank (1 is best), a score (higher is better).
LISTS = ("answers", "completions", "responses", "candidates", "generations", "outputs", "candidates_completions")
TEXTS = ("answer", "response", "text", "completion", "output", "content", "generation")
RANKS, SCORES = (
    ("rank", "ranks"),
    ("overall_score", "pm_score", "score", "scores", "rating", "ratings", "reward", "rewards"),
)
# Scores of rows with one answer each: HelpSteer's, and others'.
LABELS, ROW_SCORES = ("label", "kto_tag"), ("helpfulness", "score", "rating", "reward")
ONE = ("completion", "response", "output", "answer")

SCALES = {"preference_strength": "HelpSteer 2 preference", "overall_preference": "HelpSteer 3"}
"""Numbers below 0 where the first answer is better, above 0 where the second is."""


def find_answers(rows: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """The layout of the answers among `columns`; None for an unknown one."""
    two = any({first, second} <= set(columns) for first, second in SIDES)
    for (better, worse), layout in PAIRS.items():
        # beside two answers, `chosen` may say which of them is the better one
        if {better, worse} <= set(columns) and not (two and _names_a_side(rows, better)):
            return named(better, worse, layout)
    finders = (_swift, _arena, _sides, _summaries, _lists, _two_outputs, _labelled)
    return next((found for find in finders if (found := find(rows, columns))), None)


def named(better: str, worse: str, layout: str = "named columns") -> Answers:
    """Two columns; each may hold a list of answers, of which every pair counts (RewardBench 2)."""

    def read(row: Row) -> list[tuple[Cell, Cell]]:
        good, bad = (cell_of(row, name) for name in (better, worse))
        if not (_texts(good) and _texts(bad)):
            return [((better, good), (worse, bad))]
        return [((better, a), (worse, b)) for a in good for b in bad]  # type: ignore[attr-defined]  # lists of texts

    return Answers(layout, (better.partition(".")[0], worse.partition(".")[0]), read)


def cell_of(row: Row, column: str) -> object:
    """What a column holds, or with dots a field inside it.  Raises BenchError where the row has none."""
    if column in row.values:
        return row.values[column]
    value: object = row.values
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise BenchError(
                f"{row.where}: no column {column!r}, only {', '.join(map(repr, row.values))}.",
                "Name the columns: --set preferences.prompt=NAME, and .chosen and .rejected likewise.",
            )
        value = value[part]
    return value


def _texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _names_a_side(rows: Sequence[Row], column: str) -> bool:
    """Whether a column says which answer is better (A, response_b) instead of holding one."""
    values = [row.values.get(column) for row in rows]
    return all(isinstance(value, str) and len(value) <= 12 and _side(value) is not None for value in values)


def _swift(_: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """ms-swift: the conversation with the better answer, and the other answer, or conversation, beside it."""
    for worse in ("rejected_response", "rejected_messages"):
        if {"messages", worse} <= set(columns):

            def read(row: Row, worse: str = worse) -> list[tuple[Cell, Cell]]:
                good, bad = cell_of(row, "messages"), cell_of(row, worse)
                if isinstance(bad, str) and isinstance(good, list):  # one answer: it follows the same turns
                    bad = [*good[:-1], {"role": "assistant", "content": bad}]
                return [(("messages", good), (worse, bad))]

            return Answers("ms-swift", ("messages", worse), read)
    return None


def _arena(rows: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """Chatbot Arena's file for Kaggle: questions and both models' answers, each a list as JSON text."""
    needed = ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b")
    if not set(needed) <= set(columns) or not all(
        _json_texts(row.values.get(name)) for row in rows[:9] for name in needed[:3]
    ):
        return None
    choose = partial(_larger, "winner_model_a", "winner_model_b")

    def read(row: Row) -> list[tuple[Cell, Cell]]:
        asked, *answers = (_json_texts(cell_of(row, name)) for name in needed[:3])
        if not asked or not all(answers) or len({len(asked), *map(len, answers)}) > 1:
            raise BenchError(f"{row.where}: the lists of questions and answers differ.", "Correct the row.")
        talks: list[Cell] = []
        for name, said in zip(needed[1:3], answers, strict=True):
            turns = [(("user", q), ("assistant", a)) for q, a in zip(asked, said, strict=True)]
            talks.append((name, [{"role": role, "content": text} for both in turns for role, text in both]))
        better = choose(row)
        return [] if better is None else [(talks[better], talks[1 - better])]

    return Answers("Chatbot Arena", (*needed, "winner_tie"), read)


def _json_texts(value: object) -> list[str]:
    """The texts of a list as JSON; [] for anything else."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return []
    return [str(one) for one in found] if isinstance(found, list) and _texts(found) else []


def _sides(_: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """Two answers, and a column that says which one is better."""
    for first, second in SIDES:
        for chosen_by, choose in _choices(first, second):
            if {first, second, *chosen_by} <= set(columns):
                layout = SCALES.get(chosen_by[0], f"{first}, {second} and {', '.join(chosen_by)}")
                return Answers(layout, (first, second, *chosen_by), partial(_read_sides, (first, second), choose))
    return None


def _read_sides(sides: tuple[str, str], choose: Callable[[Row], int | None], row: Row) -> list[tuple[Cell, Cell]]:
    cells: list[Cell] = [(name, cell_of(row, name)) for name in sides]
    better = choose(row)
    return [] if better is None else [(cells[better], cells[1 - better])]


def _choices(first: str, second: str) -> Iterable[tuple[tuple[str, ...], Callable[[Row], int | None]]]:
    """(columns, the function that gives 0 for the first answer, 1 for the second and None for a tie)."""
    for column in SCALES:
        yield (column,), partial(_below_zero, column)
    yield ("better_response_id",), partial(_index, column="better_response_id", sides=(0, 1))
    yield ("labels",), partial(_index, column="labels", sides=(1, 0))  # SHP: 1 where the first is better
    yield ("winner_model_a", "winner_model_b"), partial(_larger, "winner_model_a", "winner_model_b")
    for name in ("score", "rating", "reward"):
        # as the answers end: score_0 of answer_0 (WebGPT), score_a of response_a
        a, b = (f"{name}_{re.sub('.*(?=[^_]$)', '', side)}" for side in (first, second))
        yield (a, b), partial(_larger, a, b)
    for column in STATED:
        yield (column,), partial(_stated, column, first, second)


def _below_zero(column: str, row: Row) -> int | None:
    return _sign(-_number(row, column))


def _larger(a: str, b: str, row: Row) -> int | None:
    return _sign(_number(row, a) - _number(row, b))


def _number(row: Row, column: str) -> float:
    value = row.values.get(column)
    try:
        number = float(value) if isinstance(value, str | Real) else float("nan")  # CSV files hold texts
    except ValueError:
        number = float("nan")
    if number != number:
        raise BenchError(f"{row.where}: {column!r} holds {str(value)[:40]!r}, not a number.", "Correct the row.")
    return number


def _sign(difference: float) -> int | None:
    return None if difference == 0 else 0 if difference > 0 else 1


def _index(row: Row, column: str, sides: tuple[float, float]) -> int:
    """0 or 1: which of the two numbers the column holds."""
    number = _number(row, column)
    if number not in sides:
        seen = f"{row.where}: {column!r} holds {row.values[column]!r}."
        raise BenchError(seen, f"Known: {sides[0]} for the first answer, {sides[1]} for the second.")
    return sides.index(number)


def _side(value: str) -> int | None:
    """0 or 1 for a text that names the first or the second answer, None for another."""
    word = value.strip().strip("[]").lower()
    if re.fullmatch(r"a\s*>{1,2}\s*b|(?:model|response|answer|assistant|output)?[_ ]?(?:a|1)", word):
        return 0
    return 1 if re.fullmatch(r"b\s*>{1,2}\s*a|(?:model|response|answer|assistant|output)?[_ ]?(?:b|2)", word) else None


def _stated(column: str, first: str, second: str, row: Row) -> int | None:
    """The better answer as a letter, a name, a comparison (A>B) or a number; None for a tie."""
    value = row.values.get(column)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in (first.lower(), second.lower()):
            return int(word == second.lower())
        if "tie" in word or word in ("=", "a=b", "[[c]]", "same", "equal", "none"):
            return None
        # a number in a CSV file is read as a number
        if not word.removesuffix(".0").isdigit() and (side := _side(value)) is not None:
            return side
    # numbers count as the columns do: AlpacaEval's output_1 and output_2 from 1, response_0 and response_1 from 0
    base = 1.0 if first.endswith("1") else 0.0
    if not (first[-1] + second[-1]).isdigit():
        seen = f"{row.where}: {column!r} holds {value!r}, which names neither {first!r} nor {second!r}."
        raise BenchError(seen, "Give a, b or tie.")
    number = _number(row, column)
    if number == base + 0.5 or number < base == 1:  # AlpacaEval's draws are 1.5, and 0 in older files
        return None
    return _index(row, column, (base, base + 1))


def _summaries(_: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """summarize-from-feedback: two summaries, and the index of the better one."""
    if not {"summaries", "choice"} <= set(columns):
        return None

    def read(row: Row) -> list[tuple[Cell, Cell]]:
        both, side = cell_of(row, "summaries"), _index(row, "choice", (0, 1))
        if not isinstance(both, list) or len(both) != 2:
            raise BenchError(f"{row.where}: 'summaries' does not hold two texts.", "Correct the row.")
        cells: list[Cell] = [("summaries", _text_in(one)) for one in both]
        return [(cells[side], cells[1 - side])]

    return Answers("OpenAI comparisons of summaries", ("summaries", "choice"), read)


def _text_in(item: object) -> object:
    """The text of an item of a list of answers; messages stay messages."""
    if isinstance(item, Mapping) and "role" not in item and "from" not in item:
        return next((item[name] for name in TEXTS if isinstance(item.get(name), str | list)), item)
    return item


def _lists(rows: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """A list of answers with ranks or scores, inside its items or beside it: the best against the worst."""
    for column in (name for name in LISTS if name in columns):
        items = [one for row in rows if isinstance(row.values.get(column), list) for one in row.values[column]]
        inside = {name for one in items if isinstance(one, Mapping) for name in one}
        for name in (*RANKS, *SCORES):
            if name in inside or (name in columns and items):
                scored = column if name in inside else name
                return Answers(_ranking(column, name), (column, scored), partial(_extremes, column, scored, name))
        if "annotations" in columns:  # CodeUltraFeedback
            read = partial(_extremes, column, "annotations", "rating")
            return Answers("ranked answers", (column, "annotations"), read)
    return None


def _ranking(column: str, name: str) -> str:
    known = {
        ("answers", "rank"): "Nectar",
        ("completions", "overall_score"): "UltraFeedback",
        ("answers", "pm_score"): "StackExchange",
    }
    return known.get((column, name), "ranked answers")


def _extremes(column: str, scored: str, name: str, row: Row) -> list[tuple[Cell, Cell]]:
    """The best and the worst answer of a list; none for a tie.  Answers without a score are left out."""
    answers, marks = cell_of(row, column), cell_of(row, scored)
    if not isinstance(answers, list) or not isinstance(marks, list) or len(answers) != len(marks):
        raise BenchError(f"{row.where}: {column!r} and {scored!r} are no lists of one length.", "Correct the row.")
    found = []
    for at, (answer, mark) in enumerate(zip(answers, marks, strict=True)):
        value = mark.get(name) if isinstance(mark, Mapping) else mark
        if value is None or value in ("", "N/A"):
            continue
        found.append((_number(Row(f"{row.where}, answer {at}", {name: value}), name), answer))
    if len(found) < 2:
        raise BenchError(f"{row.where}: {column!r} holds {len(found)} answers with a {name}.", "It needs two.")
    best, worst = max(found, key=lambda one: one[0]), min(found, key=lambda one: one[0])
    if best[0] == worst[0]:
        return []
    if name in RANKS:
        best, worst = worst, best
    return [((column, _text_in(best[1])), (column, _text_in(worst[1])))]


def _two_outputs(rows: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """LLaMA-Factory's earlier form: `output` lists the better answer and the worse one."""
    if "output" not in columns or not all(_texts(row.values.get("output")) for row in rows):
        return None

    def read(row: Row) -> list[tuple[Cell, Cell]]:
        both = cell_of(row, "output")
        if not isinstance(both, list) or len(both) != 2:
            raise BenchError(
                f"{row.where}: 'output' does not hold two answers.", "It needs the better and the worse one."
            )
        return [(("output", both[0]), ("output", both[1]))]

    return Answers("Alpaca with two outputs", ("output",), read)


def _labelled(_: Sequence[Row], columns: Collection[str]) -> Answers | None:
    """A row for each answer: liked or not (KTO), or with a score (HelpSteer): rows of one prompt make a pair."""
    label = next((name for name in (*LABELS, *ROW_SCORES) if name in columns), None)
    answer = next((name for name in (*ONE, "messages", "conversations", "conversation") if name in columns), None)
    if label is None or answer is None:
        return None

    def read(row: Row) -> tuple[Cell, float]:
        value = row.values.get(label)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):  # in a CSV file
            value = value.strip().lower() == "true"
        return (answer, cell_of(row, answer)), _number(Row(row.where, {label: value}), label)

    return Answers("KTO" if label in LABELS else "scored answers", (answer, label), label=read)
