"""Rows of any preference data as (prompt, chosen, rejected): which columns hold what, recognised or named.

    bench run --task preferences --data FILE --set preferences.prompt=question ...

The answers' layout is one of answers.py.  The prompt is a column of its own with what stands beside it (instructions,
earlier turns, an input), or the turns that both conversations begin with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.text.turns import Conversation, Turn, as_prompt
from rlhf_bench.tasks.answers import Answers, Cell, cell_of, find_answers, named
from rlhf_bench.tasks.messages import (
    Value,
    asked,
    check_question,
    decoded,
    is_python_array,
    mostly,
    shared,
    split_conversations,
    transcript,
    turns_of,
)
from rlhf_bench.tasks.sources import BadRows, Row, check_unicode, text

# Columns that hold a prompt, the surest first.  Where two of the others are there, one has to be named.
PROMPTS = ("prompt",)
TURNS = ("conversations", "conversation", "messages", "trajectory", "conversation_input", "turns", "dialog")
QUESTIONS = (
    *("instruction", "question", "query", "problem", "user_prompt", "user_input", "prompt_text", "orig_instruction"),
    *("input", "post", "info", "history", "context", "text", "article", "dialogue", "user", "goal", "Goal", "Behavior"),
)
# What stands beside the question: instructions, earlier turns, and more of the question.
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction")
HISTORIES, INPUTS = ("history",), ("input", "context")

# Columns of other matters, which hold no prompt.
METADATA = frozenset(
    (
        *("id", "idx", "index", "uid", "uuid", "prompt_id", "question_id", "conversation_id", "session_id", "hash"),
        *("source", "dataset", "category", "subset", "split", "task", "topic", "domain", "type", "language", "lang"),
        *("model", "models", "chosen_model", "rejected_model", "model_a", "model_b", "model_name", "generator"),
        *("chosen_policy", "rejected_policy", "annotator", "judge", "date", "timestamp", "tstamp", "created_at", "url"),
        *("license", "version", "difficulty", "score", "rating", "chosen_rating", "rejected_rating", "score_chosen"),
        *("score_rejected", "margin", "feedback", "rationale", "reason", "critique"),
    )
)
IMPLICIT = "-"
"""Of the setting `prompt`: no column holds it, both answers begin with it."""


class Names(NamedTuple):
    """Columns that the user names; "" for one that is recognised."""

    prompt: str = ""
    chosen: str = ""
    rejected: str = ""
    system: str = ""


NO_NAMES = Names()


class Triple(NamedTuple):
    """One pair of a row.  `rejected` None: the row has a liked answer alone."""

    number: int
    prompt: str
    chosen: str
    rejected: str | None


@dataclass
class Layout:
    """How the rows of one data set are read.  `ties` and `alone` count rows that give no pair."""

    answers: Answers
    question: str  # the column of the prompt; "" for none
    beside: tuple[str, ...]  # columns that add to it
    unused: tuple[str, ...]
    messages: frozenset[str]  # columns of texts that hold messages
    transcripts: frozenset[str]  # columns of texts that hold transcripts
    repeated: bool = False  # both answers begin with the prompt's text
    ties: int = field(default=0)
    alone: int = field(default=0)

    @property
    def description(self) -> str:
        """The layout in words, with the columns that it does not use."""
        prompt = " with ".join(filter(None, [self.question, ", ".join(self.beside)])) or "what both answers begin with"
        said = f"Layout: {self.answers.layout}, prompt: {prompt}"
        said += ", taken off both answers" if self.repeated else ""
        left = f"; columns not used: {', '.join(self.unused)}" if self.unused else ""
        return f"{said}{left}."

    def triples(self, rows: Sequence[Row], bad: BadRows, unpaired: bool = False) -> Iterator[Triple]:
        """The pairs of all rows, in order.  A row that cannot be read goes to `bad`."""
        if self.answers.label is not None:
            yield from self._labelled(rows, bad, unpaired)
            return
        for number, row in enumerate(rows):
            try:
                pairs = self.answers.read(row) if self.answers.read else []
                self.ties += not pairs
                found = [Triple(number, *self._texts(row, *pair)) for pair in pairs]
            except BenchError as error:
                bad.add(error)
            else:
                yield from found

    def _labelled(self, rows: Sequence[Row], bad: BadRows, unpaired: bool) -> Iterator[Triple]:
        """Rows of one prompt as pairs: the best with the worst, the second best with the second worst, and so on."""
        by_prompt: dict[str, list[tuple[float, int, str]]] = {}
        for number, row in enumerate(rows):
            try:
                assert self.answers.label is not None
                (name, value), score = self.answers.label(row)
                prompt, answer = self._answered(row, (name, value))
                by_prompt.setdefault(prompt, []).append((score, number, answer))
            except BenchError as error:
                bad.add(error)
        for prompt, answers in by_prompt.items():
            ranked = sorted(answers, key=lambda one: -one[0])
            pairs = [(a, b) for a, b in zip(ranked, ranked[: len(ranked) // 2 - 1 : -1], strict=False) if a[0] > b[0]]
            for (_, number, chosen), (_, _, rejected) in pairs[: len(ranked) // 2]:
                yield Triple(number, prompt, chosen, rejected)
            if not pairs and unpaired and ranked[0][0] > 0:
                yield Triple(ranked[0][1], prompt, ranked[0][2], None)
            elif not pairs:
                self.alone += 1

    def _answered(self, row: Row, cell: Cell) -> tuple[str, str]:
        """(prompt, answer) of a row with one answer: a text, or the last turn of a conversation."""
        value = self._value(row, *cell)
        if isinstance(value, str):
            given = self.asked(row)
            prompt, answer = given, value
        else:
            if not value or value[-1].role != "assistant":
                raise BenchError(
                    f"{row.where}: {cell[0]!r} does not end with a turn of the assistant.", "Correct the row."
                )
            given = self.asked(row) if self.question else None
            turns = [Turn("user", given)] if isinstance(given, str) else given or []
            prompt, answer = [*turns, *value[:-1]], value[-1].content
        return _checked(row, prompt, answer)

    def _texts(self, row: Row, chosen: Cell, rejected: Cell) -> tuple[str, str, str]:
        """(prompt, chosen, rejected); raises BenchError, with the row's place, for an unusable row."""
        good, bad = self._value(row, *chosen), self._value(row, *rejected)
        given = self.asked(row)
        if isinstance(good, str) and isinstance(bad, str):
            if given is None:
                given, good, bad = split_lines(row, good, bad)
            elif self.repeated and isinstance(given, str):
                good, bad = good[len(given) :].strip(), bad[len(given) :].strip()
        elif isinstance(good, list) and isinstance(bad, list):
            given, good, bad = split_conversations(row, self._bare(row) if self.beside else given, good, bad)
            given = self._with_beside(row, given)
        else:
            raise BenchError(f"{row.where}: one response is text, the other a list of messages.", "Give both alike.")
        prompt, answer = _checked(row, given, good)
        return prompt, answer, bad

    def _value(self, row: Row, column: str, value: object) -> Value:
        """A cell's text, or its turns; raises BenchError for anything else."""
        if value is None:
            raise BenchError(f"{row.where}: {column!r} is null.", "Fill it in or drop the row.")
        if isinstance(value, Mapping) and isinstance(value.get("messages"), list):
            value = value["messages"]
        if isinstance(value, str):
            if column in self.messages:
                found = decoded(value)
                if found is None:
                    seen = f"{row.where}: {column!r} holds messages as Python prints them, which cannot be read back."
                    raise BenchError(seen, "Write them as JSON (json.dumps), or as .jsonl or .parquet.")
                return turns_of(row, column, found)
            check_unicode(row, column, value)
            turns = transcript(value) if column in self.transcripts else None
            if column in self.transcripts and column != self.question and turns is None:
                raise BenchError(f"{row.where}: {column!r} is no transcript, as others are.", "Begin it with 'Human:'.")
            return value if turns is None else asked(value) or turns if column == self.question else turns
        if isinstance(value, list) and value and all(isinstance(one, str) for one in value) and column == self.question:
            # the texts of a conversation in turn (Chatbot Arena, MT-Bench, LIMA)
            return [
                Turn(("user", "assistant")[at % 2], check_unicode(row, column, one)) for at, one in enumerate(value)
            ]
        return turns_of(row, column, value)

    def _bare(self, row: Row) -> Value | None:
        """The prompt's own column, without what stands beside it; None for none."""
        if not self.question:
            return None
        value = cell_of(row, self.question)
        if isinstance(value, Mapping) and "messages" not in value and "role" not in value and "from" not in value:
            # WebGPT's question, the post or the article of summarize-from-feedback
            inside = next((value[name] for name in ("full_text", "post", "article", "text") if value.get(name)), value)
            value = inside
        return self._value(row, self.question, value)

    def asked(self, row: Row) -> Value | None:
        """The prompt with what stands beside it; None where no column holds it and nothing does."""
        given = self._bare(row)
        if given is None or not self.beside:
            return given
        turns = self._with_beside(row, [Turn("user", given)] if isinstance(given, str) else given)
        return turns[0].content if len(turns) == 1 and isinstance(given, str) else turns

    def _with_beside(self, row: Row, turns: list[Turn]) -> list[Turn]:
        """The prompt's turns with instructions and earlier turns before them, and the input after the question."""
        before: list[Turn] = []
        for column in self.beside:
            value = row.values.get(column)
            if value is None or value in ("", []):
                continue
            if column in HISTORIES and isinstance(value, list):
                before += _history(row, column, value)
            elif not isinstance(value, str):
                seen = f"{row.where}: {column!r} is of type {type(value).__name__}, not text."
                raise BenchError(seen, "Give it as text, or name the prompt with --set preferences.prompt=COLUMN.")
            elif not check_unicode(row, column, value).strip():
                continue
            elif column in INPUTS or column in HISTORIES:
                if turns and turns[-1].role == "user":
                    joined = f"{turns[-1].content}\n{value}" if column in INPUTS else f"{value}\n{turns[-1].content}"
                    turns = [*turns[:-1], Turn("user", joined)]
            elif not any(turn == ("system", value) for turn in turns):
                before.insert(0, Turn("system", value))
        return [*before, *turns]


def _history(row: Row, column: str, value: list[object]) -> list[Turn]:
    """Earlier turns: messages, or a list of (question, answer)."""
    if all(isinstance(one, list) and len(one) == 2 and all(isinstance(t, str) for t in one) for one in value):
        texts = [check_unicode(row, column, text) for one in value for text in one]  # type: ignore[attr-defined]
        return [Turn(("user", "assistant")[at % 2], text) for at, text in enumerate(texts)]
    return turns_of(row, column, value)


def _checked(row: Row, given: Value | None, answer: str) -> tuple[str, str]:
    """(prompt, answer); raises BenchError where one is empty, or the prompt does not end with a question."""
    prompt = given if isinstance(given, str) else as_prompt(check_question(row, given or []))
    # of several turns the last must ask something
    last = prompt.turns[-1].content if isinstance(prompt, Conversation) and prompt.turns[-1].role == "user" else prompt
    if not last.strip() or not answer.strip():
        empty = "chosen response" if last.strip() else "prompt"
        raise BenchError(f"{row.where}: the {empty} is empty.", "Fill it in or drop the row.")
    return prompt, answer


def split_lines(row: Row, chosen: str, rejected: str) -> tuple[str, str, str]:
    """(prompt, chosen, rejected) of two texts: the prompt is what both begin with, up to the end of a line.

    Raises BenchError where they have no line in common.
    """
    # letter by letter, so it may end inside a word that both answers begin with
    same = chosen[: shared(chosen, rejected)]
    cut = same.rfind("\n") + 1
    if not same[:cut].strip():
        raise BenchError(f"{row.where}: no column 'prompt', and both responses begin differently.", "Add the prompt.")
    return same[:cut].strip(), chosen[cut:].strip(), rejected[cut:].strip()


def recognise(rows: Sequence[Row], names: Names = NO_NAMES) -> Layout:
    """The layout of rows; `names` are the columns that the user names.

    Raises BenchError for columns that are missing, unknown, or could hold the prompt and are not named.
    """
    columns = dict.fromkeys(name for row in rows for name in row.values)
    first = rows[0]
    if bool(names.chosen) != bool(names.rejected):
        raise BenchError("Of preferences.chosen and preferences.rejected one is set.", "Name both.")
    for name in filter(None, (names.prompt.removeprefix(IMPLICIT), names.chosen, names.rejected, names.system)):
        if name.partition(".")[0] not in columns and name not in columns:
            cell_of(first, name)  # raises, with the columns that there are
    answers = named(names.chosen, names.rejected) if names.chosen else find_answers(rows, columns)
    if answers is None:
        one = "rejected" if "chosen" in columns else "chosen"
        cell_of(Row(first.where, {name: None for name in columns if name != one}), one)  # raises
        raise AssertionError  # pragma: no cover
    used = set(answers.columns)
    texts = {name: [row.values.get(name) for row in rows] for name in columns}
    messages = frozenset(n for n in columns if mostly(texts[n], decoded) or mostly(texts[n], is_python_array))
    question = _question(rows, columns, used, names, messages)
    beside = _beside(columns, used | {question}, names, bool(question))
    transcripts = {n for n in used & set(columns) if mostly(texts[n], lambda t: _answered_transcript(t))}
    if question and any(isinstance(v, str) for v in texts.get(question, ())):
        transcripts = {n for n in transcripts if _repeats(rows, question, n)}
        transcripts |= {question} if mostly(texts[question], asked) else set()
    elif (
        not transcripts
        and not question
        and not any(_conversations(texts[n], n in messages) for n in used & set(columns))
    ):
        _refuse_guess(rows, columns, used | set(beside), names)
    repeated = bool(question) and not transcripts and not beside and _all_repeat(rows, answers.columns, question)
    taken = {*used, question, *beside, names.prompt.partition(".")[0], names.system}
    unused = tuple(n for n in columns if n not in taken and not _empty(texts[n]))
    return Layout(answers, question, beside, unused, messages, frozenset(transcripts), repeated)


def _question(
    rows: Sequence[Row], columns: Collection[str], used: Collection[str], names: Names, messages: Collection[str]
) -> str:
    """The column that holds the prompt; "" for none.  Raises BenchError where two could."""
    if names.prompt:
        return "" if names.prompt == IMPLICIT else names.prompt
    free = [name for name in columns if name not in used and name != names.system]
    for name in (*PROMPTS, *TURNS):
        if name in free and (
            name in PROMPTS or _conversations([row.values.get(name) for row in rows], name in messages)
        ):
            return name
    found = [name for name in QUESTIONS if name in free and not _empty([row.values.get(name) for row in rows])]
    if "instruction" in found or "question" in found:
        found = [name for name in found if name not in (*INPUTS, *HISTORIES, "text")]
    elif len(found) > 1:
        found = [name for name in found if name not in (*HISTORIES, "context")] or found
    if len(found) > 1:
        seen = f"{rows[0].where}: {' and '.join(map(repr, found))} could each be the prompt."
        raise BenchError(seen, f"Name it: --set preferences.prompt={found[0]}")
    return found[0] if found else ""


def _beside(columns: Collection[str], used: Collection[str], names: Names, asked_in_column: bool) -> tuple[str, ...]:
    """The columns that add to the prompt."""
    systems = (names.system,) if names.system else tuple(n for n in SYSTEMS if n in columns and n not in used)[:1]
    others = (*HISTORIES, *INPUTS) if asked_in_column else ()
    return (*systems, *(name for name in others if name in columns and name not in used))


def _refuse_guess(rows: Sequence[Row], columns: Collection[str], used: Collection[str], names: Names) -> None:
    """Raises BenchError where an unused column could hold the prompt that would be guessed from the answers."""
    if names.prompt == IMPLICIT:
        return
    left = [n for n in columns if n not in used and n.lower().replace("-", "_") not in METADATA]
    could = [n for n in left if any(isinstance(v := row.values.get(n), str | list | dict) and v for row in rows)]
    if could:
        seen = f"{rows[0].where}: no column 'prompt', and {', '.join(map(repr, could))} may hold it."
        fix = f"Name it: --set preferences.prompt={could[0]}, or {IMPLICIT} for what both answers begin with."
        raise BenchError(seen, fix)


def _answered_transcript(text: str) -> bool:
    turns = transcript(text)
    return bool(turns) and any(turn.role == "assistant" for turn in turns)  # type: ignore[union-attr]


def _repeats(rows: Sequence[Row], question: str, column: str) -> bool:
    """Whether transcripts of a column hold the prompt of their rows: else they are answers that look like one."""
    pairs = [(row.values.get(question), row.values.get(column)) for row in rows]
    texts = [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str) and a.strip()]
    held = sum((asked(a) or [Turn("user", a)])[-1].content.strip() in b for a, b in texts)
    return bool(texts) and 2 * held >= len(texts)


def _all_repeat(rows: Sequence[Row], columns: Collection[str], question: str) -> bool:
    """Whether both answers of every row begin with its prompt: one answer that does is an answer."""

    def repeats(row: Row) -> bool:
        prompt, answers = row.values.get(question), [row.values.get(name) for name in columns]
        if not isinstance(prompt, str) or not prompt.strip():
            return False
        return all(isinstance(a, str) and a.startswith(prompt) and len(a) > len(prompt) for a in answers)

    return len(rows) > 1 and all(map(repeats, rows))


def _conversations(values: Sequence[object], as_text: bool) -> bool:
    """Whether a column holds lists of messages or texts, or messages as text."""
    return as_text or any(isinstance(value, list | dict) and value for value in values)


def _empty(values: Sequence[object]) -> bool:
    return all(value is None or value in ("", []) for value in values)


def prompt_layout(rows: Sequence[Row], column: str, guess: bool) -> Layout:
    """How prompts are read where there are no answers: from `column`; "" finds one.

    `guess`: a column that the data lack stands for "", too.  Raises BenchError where no column is known.
    """
    columns = dict.fromkeys(name for row in rows for name in row.values)
    texts = {name: [row.values.get(name) for row in rows] for name in columns}
    messages = frozenset(n for n in columns if mostly(texts[n], decoded))
    found = column if column in columns or not (guess or not column) else ""
    chosen = found or _question(rows, columns, (), NO_NAMES, messages) or column or PROMPTS[0]
    beside = () if found and not guess else _beside(columns, {chosen}, NO_NAMES, True)
    transcripts = frozenset({chosen} if mostly(texts.get(chosen, []), asked) else ())
    return Layout(Answers("", ()), chosen, beside, (), messages, transcripts)


def read_prompt(layout: Layout, row: Row) -> str:
    """The prompt of a row without answers.  Raises BenchError, with the row's place, for an unusable row.

    Of MT-Bench's questions it is the first: the later ones ask about an answer.  Of a conversation that was answered it
    is what comes before the last answer.
    """
    value = row.values.get(layout.question)
    if isinstance(value, list) and value:
        if all(isinstance(one, str) for one in value):
            value = value[0]
        elif all(isinstance(one, Mapping) and "role" not in one and "from" not in one for one in value):
            value = value[0].get("content")  # Arena-Hard's turns
        row = Row(row.where, {**row.values, layout.question: value})
    if not isinstance(value, list | dict):
        text(row, layout.question)  # raises where it is missing, blank or no valid text
    given = layout.asked(row)
    while isinstance(given, list) and given and given[-1].role == "assistant":
        given = given[:-1]
    return _checked(row, given, "-")[0]
