"""Fuzzing of the readers of data: files of every format, layouts, transcripts and messages.

    python benchmarks/faults/fuzz_data.py --minutes 3 [--json FILE]

Properties: a file gives rows or one BenchError of one line, and no other exception; a text of a row is the text that
was written, but for the named rules (white space around a transcript's turns and a prompt that both answers repeat).
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from common import save
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.layouts import NO_NAMES, Names, prompt_layout, read_prompt, recognise
from rlhf_bench.tasks.messages import asked, decoded, transcript
from rlhf_bench.tasks.preferences import preferences
from rlhf_bench.tasks.sources import SUFFIXES, BadRows, Row, read_rows

# Names and words that layouts are made of, so that the generated data come near to them.
COLUMNS = st.sampled_from(
    (
        *(
            "prompt",
            "chosen",
            "rejected",
            "question",
            "instruction",
            "input",
            "system",
            "history",
            "messages",
            "answers",
        ),
        *("conversations", "response_1", "response_2", "preference_strength", "response_a", "response_b", "winner"),
        *("completion", "label", "output", "summaries", "choice", "info", "completions", "score", "labels", "turns"),
        *("human_ref_A", "human_ref_B", "rejected_response", "preferred_output", "non_preferred_output", "x.y"),
        *("winner_model_a", "winner_model_b", "generations", "ratings", "annotations", "response_0", "kto_tag"),
    )
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(("", " ", "\n\nHuman: a\n\nAssistant: b", "Human:", '[{"role": "user", "content": "a"}]',
                     "[{'a': 1}]",
                     "[{'role': 'user', 'content': 'a'}\n {'role': 'x'}]", "A", "tie", "1", "nan", "a\nb", "\ud800")),
)  # fmt: skip
ROLES = ("user", "assistant", "system", "tool", "gpt", "developer")
PART = st.dictionaries(st.sampled_from(("type", "text", "image_url")), TEXTS, max_size=3)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.one_of(st.sampled_from(ROLES), TEXTS, st.none()),
        "content": st.one_of(TEXTS, st.none(), st.lists(st.one_of(PART, TEXTS), max_size=3), st.integers()),
        "from": TEXTS,
        "value": TEXTS,
        "tool_calls": st.one_of(st.none(), st.lists(st.dictionaries(TEXTS, TEXTS, max_size=2), max_size=2)),
        "rank": st.one_of(st.integers(), st.floats(), TEXTS),
        "text": TEXTS,
    },
)
VALUES = st.one_of(
    TEXTS,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    MESSAGE,
    st.lists(MESSAGE, max_size=4),
    st.lists(TEXTS, max_size=3),
    st.lists(st.lists(TEXTS, max_size=3), max_size=3),
    st.dictionaries(
        st.sampled_from(("messages", "full_text", "post", "y")), st.one_of(TEXTS, st.lists(MESSAGE)), max_size=2
    ),
)
ROWS = st.lists(st.dictionaries(COLUMNS, VALUES, max_size=7), min_size=1, max_size=5)
LIKE = st.builds(  # rows of one layout, each with some value replaced
    lambda row, edits: [{**row, **edit} for edit in edits],
    st.dictionaries(COLUMNS, VALUES, min_size=2, max_size=6),
    st.lists(st.dictionaries(COLUMNS, VALUES, max_size=2), min_size=1, max_size=5),
)
NAMES = st.one_of(st.just(NO_NAMES), st.builds(Names, *[st.one_of(st.just(""), COLUMNS, st.just("-"))] * 4))
WORDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=30).filter(str.strip)


def fine(call: Callable[[], object]) -> object:
    """The result; None for a BenchError, whose text must be one line."""
    try:
        return call()
    except BenchError as error:
        said = str(error)
    assert "\n" not in said, f"an error of several lines: {said!r}"
    return None


def check_layouts(rows: list[dict[str, object]], names: Names) -> None:
    made = [Row(f"row {at}", values) for at, values in enumerate(rows)]
    layout = fine(lambda: recognise(made, names))
    if layout is not None:
        bad = BadRows()
        found = list(layout.triples(made, bad))  # type: ignore[attr-defined]
        assert all(isinstance(one.prompt, str) and one.prompt.strip() and one.chosen.strip() for one in found)
        for error in bad.faults:
            assert "\n" not in str(error)
    layout = fine(lambda: prompt_layout(made, "prompt", True))
    for row in made if layout is not None else []:
        fine(lambda row=row: read_prompt(layout, row))  # type: ignore[misc,arg-type]


def check_files(folder: Path, suffix: str, content: bytes, packed: bool, skip: bool) -> None:
    path = folder / f"rows{suffix}"
    path.write_bytes(gzip.compress(content, 1, mtime=0) if packed and suffix.endswith(".gz") else content)
    rows = fine(lambda: read_rows(path, BadRows(skip)))
    assert rows is None or (isinstance(rows, list) and rows)
    fine(lambda: preferences(data=str(path), bad_rows="skip" if skip else "refuse").pairs("train"))


def check_texts(prompt: str, chosen: str, rejected: str) -> None:
    """Three texts in their own columns come back as they are, whatever they look like."""
    rows = [Row(f"row {at}", {"prompt": "Plain?", "chosen": "Yes.", "rejected": "No."}) for at in range(3)]
    rows.append(Row("odd", {"prompt": prompt, "chosen": chosen, "rejected": rejected}))
    bad = BadRows()
    found = list(recognise(rows).triples(rows, bad))
    assert not bad.faults
    assert (found[-1].prompt, found[-1].chosen, found[-1].rejected) == (prompt, chosen, rejected)
    talk = {"prompt": [{"role": "user", "content": prompt}], "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}]}  # fmt: skip
    one = Row("talk", talk)
    (found_one,) = recognise([one]).triples([one], bad)
    assert (found_one.prompt, found_one.chosen, found_one.rejected) == (prompt, chosen, rejected)


def properties(folder: Path) -> Mapping[str, Callable[[], None]]:
    """Each property with its data, as hypothesis runs it."""
    nested = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2), max_leaves=4)
    lines = ROWS.map(lambda rows: b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    damaged = st.builds(
        lambda whole, at, more: whole[:at] + more + whole[at + 3 :], lines, st.integers(0, 200), st.binary(max_size=6)
    )
    contents = st.one_of(st.binary(max_size=200), lines, damaged, nested.map(lambda v: json.dumps(v).encode()))
    files = st.tuples(st.sampled_from(SUFFIXES), contents, st.booleans(), st.booleans())
    answers = st.one_of(WORDS, TEXTS.filter(str.strip).filter(lambda text: text.isprintable() or "\n" in text)).filter(
        lambda text: "\ud800" not in text
    )

    def parsers(text: str) -> None:
        for parse in (decoded, transcript, asked):
            parse(text)

    return {
        "layouts": given(st.one_of(ROWS, LIKE), NAMES)(check_layouts),
        "files": given(files)(lambda one: check_files(folder, *one)),
        "texts": given(answers, answers, answers)(check_texts),
        "parsers": given(st.one_of(TEXTS, st.text(st.sampled_from("[]{}'\":,\n Human Assistant role content"))))(
            parsers
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long to look for faults")
    parser.add_argument("--json", type=Path, help="write the counts and the faults here")
    asked_for = parser.parse_args()
    end = time.monotonic() + 60 * asked_for.minutes
    tried: Counter[str] = Counter()
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place:
        turn = 0
        while time.monotonic() < end:
            for name, run in properties(Path(place)).items():
                left = set(faults)
                if name in left or time.monotonic() >= end:
                    continue  # a property that failed is not run again: the first fault is the one to mend
                options = settings(
                    max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck)
                )
                try:
                    options(seed(turn)(run))()
                except Exception as error:  # an assertion of the property, or what the readers raised
                    faults[name] = f"{type(error).__name__}: {error}"[:600]
                tried[name] += 200
            turn += 1
    print("property  tried  fault")
    for name in tried:
        print(f"{name:8}  {tried[name]:5}  {faults.get(name, 'none')}")
    found = {"campaign": "fuzz_data", "minutes": asked_for.minutes, "processor_seconds": round(time.process_time())}
    save(asked_for.json, {**found, "tried": tried, "faults": faults})
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
