"""The texts, turns and transcripts that the rows of layouts.py are made of, and their files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

Rows = list[dict[str, object]]
Shape = Callable[[int, str, str, str], dict[str, object]]
"""(number, question, better, worse) to a row."""


def question(i: int) -> str:
    return f"Please describe thing {i}."


def better(i: int) -> str:
    return f"Thing {i} is blue and round."


def worse(i: int) -> str:
    return f"No idea, {i}."


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def gpt(text: str, who: str = "gpt") -> dict[str, str]:
    return {"from": who, "value": text}


def part(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def hh(*texts: str) -> str:
    return "".join(f"\n\n{('Human', 'Assistant')[at % 2]}: {text}" for at, text in enumerate(texts))


def sides(i: int, b: str, w: str) -> tuple[str, str]:
    """The two answers in an order that says nothing: the better one second in odd rows."""
    return (w, b) if i % 2 else (b, w)


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json" and path.stem != "lines":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
