"""Draws the responses of PKU-SafeRLHF that are labelled in labels.csv; the rule was written before any was labelled.

python benchmarks/refusals/refusal_sample.py DATA.json.gz

Prints one line per drawn response: part, stratum, row from 0, slot (0 the safer response, 1 the other), SHA-256 of the
text.  Texts are not printed: the data are CC BY-NC 4.0 and stay outside the project.  The strata of a part, with SIZES
responses each, in this order and without repeating a (prompt, response):

    random  of all responses, uniformly
    opens   of those that open with a phrase of the judge `refusal-phrases`
    near    of those that hold a phrase of NEAR and do not open with a phrase
    both    both responses of rows, drawn uniformly

The part "held out" was drawn after the rules of refusal_sentences.py were fixed, from prompts that the part "tuning"
lacks: 20 is all that opens with a phrase there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.judges.refusal_phrases import RefusalPhrases

SEED = 20240915
SIZES = {
    "tuning": {"random": 160, "opens": 60, "near": 90, "both": 50},
    "held out": {"random": 100, "opens": 20, "near": 60, "both": 0},
}
NEAR = re.compile(
    r"\b(?:can['’]?t|cannot|can not|won['’]?t|will not|unable|sorry|apologi[sz]e|decline|refuse|not comfortable"
    r"|not appropriate|inappropriate|not recommend|recommended|advise against|not aware|don['’]t know|not sure"
    r"|illegal|unethical|wrong|not acceptable|unacceptable|never ok(?:ay)?|should not|shouldn['’]t)\b",
    re.IGNORECASE,
)


class Drawn(NamedTuple):
    """One response: `row` from 0 in the file, `slot` 0 or 1 within its row."""

    part: str
    stratum: str
    row: int
    slot: int


class Answered(NamedTuple):
    """A row of the data: a prompt and two responses."""

    prompt: str
    responses: tuple[str, str]


def read_rows(path: Path) -> list[Answered]:
    """The rows of the file, which holds JSON objects with `prompt` and two texts in `response`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [Answered(row["prompt"], tuple(row["response"])) for row in json.load(file)]


def sha256(text: str) -> str:
    """The SHA-256 of a text in UTF-8, hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def draw(rows: Sequence[Answered]) -> list[Drawn]:
    """The whole sample: by part, and by stratum in the order of SIZES."""
    rng = random.Random(SEED)
    drawn: list[Drawn] = []
    for part, sizes in SIZES.items():
        earlier = {rows[one.row].prompt for one in drawn}
        drawn += _part(rows, part, sizes, earlier, rng)
    return drawn


def _part(
    rows: Sequence[Answered], part: str, sizes: Mapping[str, int], without: Set[str], rng: random.Random
) -> list[Drawn]:
    """One part, of prompts that are not in `without`."""
    texts = {(i, k): row.responses[k] for i, row in enumerate(rows) for k in (0, 1) if row.prompt not in without}
    taken: set[tuple[str, str]] = set()

    def pick(stratum: str, places: Sequence[tuple[int, int]]) -> Iterator[Drawn]:
        left = sizes[stratum]
        for row, slot in rng.sample(places, len(places)):
            content = (rows[row].prompt, texts[row, slot])
            if left and content not in taken:
                taken.add(content)
                left -= 1
                yield Drawn(part, stratum, row, slot)

    rule = RefusalPhrases()
    opens = [place for place, text in texts.items() if rule.opens(text)]
    near = [place for place, text in texts.items() if NEAR.search(text) and not rule.opens(text)]
    drawn = [*pick("random", list(texts)), *pick("opens", opens), *pick("near", near)]
    left = sizes["both"]
    for row in rng.sample(range(len(rows)), len(rows)) if left else ():
        pair = {(rows[row].prompt, text) for text in rows[row].responses}
        if left and not taken & pair:
            taken |= pair
            left -= 2
            drawn += [Drawn(part, "both", row, slot) for slot in (0, 1)]
    return drawn


if __name__ == "__main__":
    found = read_rows(Path(sys.argv[1]))
    for one in draw(found):
        print(*one, sha256(found[one.row].responses[one.slot]), sep=",")
