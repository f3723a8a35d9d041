"""Layouts of preference data and of prompts, as people have them: which are read right.

    python benchmarks/faults/layouts.py [--json FILE]

Every case writes a few rows of our own words in the shape of a public data set or of a tool's output, reads them by the
task `preferences` or `prompts`, and compares prompts and answers with what the rows mean.  The shapes are those of the
data sets' cards and of the tools' documentation (tasks/answers.py names them).  Prints a table: tried, clean, failed.
"""

# ruff: noqa: ARG001, ARG005 - every shape takes the same arguments
from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import outcome, save

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.preferences import preferences
from rlhf_bench.tasks.prompts import prompts

COUNT = 40
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


# name -> (suffix, shape, settings); the prompt is the question alone
PLAIN: dict[str, tuple[str, Shape, dict[str, str]]] = {
    "standard": (".jsonl", lambda i, q, b, w: {"prompt": q, "chosen": b, "rejected": w}, {}),
    "standard, CSV": (".csv", lambda i, q, b, w: {"prompt": q, "chosen": b, "rejected": w}, {}),
    "standard, Parquet": (".parquet", lambda i, q, b, w: {"prompt": q, "chosen": b, "rejected": w}, {}),
    "JSON Lines named .json": (".json", lambda i, q, b, w: {"prompt": q, "chosen": b, "rejected": w}, {}),
    "TRL conversational": (
        ".jsonl",
        lambda i, q, b, w: {"prompt": [user(q)], "chosen": [said(b)], "rejected": [said(w)]},
        {},
    ),
    "TRL implicit prompt": (
        ".jsonl",
        lambda i, q, b, w: {"chosen": [user(q), said(b)], "rejected": [user(q), said(w)]},
        {},
    ),
    "UltraFeedback binarized": (
        ".parquet",
        lambda i, q, b, w: {
            "prompt": q,
            "prompt_id": str(i),
            "chosen": [user(q), said(b)],
            "rejected": [user(q), said(w)],
            "messages": [user(q), said(b)],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        {},
    ),
    "UltraFeedback": (
        ".jsonl",
        lambda i, q, b, w: {
            "source": "s",
            "instruction": q,
            "models": ["a", "b", "c"],
            "completions": [
                {"model": "a", "response": f"{b} Hm.", "overall_score": 5.0},
                {"model": "b", "response": w, "overall_score": 1.0},
                {"model": "c", "response": b, "overall_score": 9.0},
            ],
        },
        {},
    ),
    "UltraFeedback, ratings beside": (
        ".jsonl",
        lambda i, q, b, w: {
            "instruction": q,
            "generations": list(sides(i, b, w)),
            "ratings": ["1", "5"] if i % 2 else ["5", "1"],
        },
        {},
    ),
    "Nectar": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": f"\n\nHuman: {q}\n\nAssistant: ",
            "turns": 1,
            "num_responses": 2,
            "answers": [{"answer": w, "model": "x", "rank": 7.0}, {"answer": b, "model": "y", "rank": 1.0}],
        },
        {},
    ),
    "HH transcripts": (".jsonl", lambda i, q, b, w: {"chosen": hh(q, b), "rejected": hh(q, w)}, {}),
    "full-hh-rlhf": (
        ".jsonl",
        lambda i, q, b, w: {"prompt": f"\n\nHuman: {q}\n\nAssistant:", "response": b, "chosen": b, "rejected": w},
        {},
    ),
    "SHP": (
        ".jsonl",
        lambda i, q, b, w: {
            "post_id": str(i),
            "domain": "d",
            "history": q,
            "human_ref_A": sides(i, b, w)[0],
            "human_ref_B": sides(i, b, w)[1],
            "labels": 1 - i % 2,
            "score_ratio": 2.0,
        },
        {},
    ),
    "StackExchange pairs": (
        ".jsonl",
        lambda i, q, b, w: {"qid": i, "question": q, "date": "d", "response_j": b, "response_k": w},
        {},
    ),
    "StackExchange preferences": (
        ".jsonl",
        lambda i, q, b, w: {
            "qid": i,
            "question": q,
            "answers": [{"text": w, "pm_score": 0}, {"text": b, "pm_score": 4}],
        },
        {},
    ),
    "HelpSteer 2 preference": (
        ".jsonl",
        lambda i, q, b, w: {
            "split": "train",
            "prompt": q,
            "response_1": sides(i, b, w)[0],
            "response_2": sides(i, b, w)[1],
            "preference_strength": 2 if i % 2 else -1,
            "preference_statement": "s",
            "preference_elaboration": "e",
        },
        {},
    ),
    "HelpSteer 3": (
        ".jsonl",
        lambda i, q, b, w: {
            "domain": "general",
            "language": "english",
            "context": [user(q)],
            "response1": sides(i, b, w)[0],
            "response2": sides(i, b, w)[1],
            "overall_preference": 3 if i % 2 else -2,
        },
        {},
    ),
    "WebGPT": (
        ".jsonl",
        lambda i, q, b, w: {
            "question": {"dataset": "eli5", "id": str(i), "full_text": q},
            "answer_0": sides(i, b, w)[0],
            "answer_1": sides(i, b, w)[1],
            "score_0": -0.5 if i % 2 else 0.5,
            "score_1": 0.5 if i % 2 else -0.5,
        },
        {},
    ),
    "OpenAI summaries": (
        ".jsonl",
        lambda i, q, b, w: {
            "info": {"id": str(i), "post": q, "title": "t"},
            "choice": i % 2,
            "summaries": [{"text": text, "policy": "p"} for text in sides(i, b, w)],
        },
        {},
    ),
    "OpenAI preference fine-tuning": (
        ".jsonl",
        lambda i, q, b, w: {
            "input": {"messages": [user(q)], "tools": []},
            "preferred_output": [said(b)],
            "non_preferred_output": [said(w)],
        },
        {},
    ),
    "PKU-SafeRLHF": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": q,
            "response_0": sides(i, b, w)[0],
            "response_1": sides(i, b, w)[1],
            "is_response_0_safe": True,
            "better_response_id": i % 2,
            "safer_response_id": 1 - i % 2,
        },
        {},
    ),
    "RewardBench": (
        ".parquet",
        lambda i, q, b, w: {
            "prompt": q,
            "chosen": b,
            "chosen_model": "x",
            "rejected": w,
            "rejected_model": "y",
            "subset": "s",
            "id": i,
        },
        {},
    ),
    "RewardBench 2": (
        ".jsonl",
        lambda i, q, b, w: {
            "id": str(i),
            "prompt": q,
            "chosen": [b],
            "rejected": [w],
            "num_correct": 1,
            "num_incorrect": 1,
        },
        {},
    ),
    "JudgeBench": (
        ".jsonl",
        lambda i, q, b, w: {
            "pair_id": str(i),
            "question": q,
            "response_A": sides(i, b, w)[0],
            "response_B": sides(i, b, w)[1],
            "label": "B>A" if i % 2 else "A>B",
        },
        {},
    ),
    "AlpacaEval annotations": (
        ".json",
        lambda i, q, b, w: {
            "instruction": q,
            "output_1": sides(i, b, w)[0],
            "output_2": sides(i, b, w)[1],
            "preference": 1.0 + i % 2,
        },
        {},
    ),
    "Arena conversations": (
        ".jsonl",
        lambda i, q, b, w: {
            "question_id": str(i),
            "model_a": "x",
            "model_b": "y",
            "winner": "model_b" if i % 2 else "model_a",
            "conversation_a": [user(q), said(sides(i, b, w)[0])],
            "conversation_b": [user(q), said(sides(i, b, w)[1])],
        },
        {},
    ),
    "Arena 55k": (
        ".csv",
        lambda i, q, b, w: {
            "id": i,
            "prompt": json.dumps([q]),
            "response_a": json.dumps([sides(i, b, w)[0]]),
            "response_b": json.dumps([sides(i, b, w)[1]]),
            "winner_model_a": 1 - i % 2,
            "winner_model_b": i % 2,
            "winner_tie": 0,
        },
        {},
    ),
    "Prometheus preference": (
        ".jsonl",
        lambda i, q, b, w: {
            "orig_instruction": q,
            "orig_response_A": sides(i, b, w)[0],
            "orig_response_B": sides(i, b, w)[1],
            "orig_preference": "AB"[i % 2],
        },
        {},
    ),
    "ShareGPT": (
        ".json",
        lambda i, q, b, w: {"conversations": [gpt(q, "human")], "chosen": gpt(b), "rejected": gpt(w)},
        {},
    ),
    "ShareGPT, texts": (
        ".json",
        lambda i, q, b, w: {"conversations": [gpt(q, "human")], "chosen": b, "rejected": w},
        {},
    ),
    "UltraInteract": (
        ".jsonl",
        lambda i, q, b, w: {"task": "t", "id": str(i), "trajectory": [gpt(q, "user")], "chosen": b, "rejected": w},
        {},
    ),
    "Alpaca, two outputs": (".json", lambda i, q, b, w: {"instruction": q, "input": "", "output": [b, w]}, {}),
    "ms-swift": (".jsonl", lambda i, q, b, w: {"messages": [user(q), said(b)], "rejected_response": w}, {}),
    "distilabel Orca": (
        ".jsonl",
        lambda i, q, b, w: {
            "system": "",
            "input": q,
            "chosen": b,
            "rejected": w,
            "generations": [b, w],
            "rating": [9, 2],
        },
        {},
    ),
    "text parts": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": [{"role": "user", "content": part(q)}],
            "chosen": [{"role": "assistant", "content": part(b)}],
            "rejected": [{"role": "assistant", "content": part(w)}],
        },
        {},
    ),
    "empty system turn": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": [{"role": "system", "content": ""}, user(q)],
            "chosen": [said(b)],
            "rejected": [said(w)],
        },
        {},
    ),
    "messages as JSON in CSV": (
        ".csv",
        lambda i, q, b, w: {"chosen": json.dumps([user(q), said(b)]), "rejected": json.dumps([user(q), said(w)])},
        {},
    ),
    "messages as Python in CSV": (
        ".csv",
        lambda i, q, b, w: {"prompt": q, "chosen": str([user(q), said(b)]), "rejected": str([user(q), said(w)])},
        {},
    ),
    "answers repeat the prompt": (
        ".jsonl",
        lambda i, q, b, w: {"prompt": q, "chosen": f"{q}\n{b}", "rejected": f"{q}\n{w}"},
        {},
    ),
    "named columns": (
        ".jsonl",
        lambda i, q, b, w: {"frage": q, "gut": b, "schlecht": w},
        {"prompt": "frage", "chosen": "gut", "rejected": "schlecht"},
    ),
    "named fields": (
        ".jsonl",
        lambda i, q, b, w: {"x": {"q": q}, "y": {"a": b, "b": w}},
        {"prompt": "x.q", "chosen": "y.a", "rejected": "y.b"},
    ),
}
CONVERSATION = "User: {0}\n\nAssistant: Sure.\n\nUser: Go on."
# name -> (suffix, shape, the prompt's text with the question in {0})
BESIDE: dict[str, tuple[str, Shape, str]] = {
    "HH transcripts of several turns": (
        ".jsonl",
        lambda i, q, b, w: {"chosen": hh(q, "Sure.", "Go on.", b), "rejected": hh(q, "Sure.", "Go on.", w)},
        CONVERSATION,
    ),
    "conversations of several turns": (
        ".jsonl",
        lambda i, q, b, w: {
            name: [user(q), said("Sure."), user("Go on."), said(a)] for name, a in (("chosen", b), ("rejected", w))
        },
        CONVERSATION,
    ),
    "Alpaca with input": (
        ".json",
        lambda i, q, b, w: {"instruction": q, "input": "In short.", "chosen": b, "rejected": w},
        "{0}\nIn short.",
    ),
    "Alpaca with history": (
        ".json",
        lambda i, q, b, w: {"instruction": "Go on.", "history": [[q, "Sure."]], "chosen": b, "rejected": w},
        CONVERSATION,
    ),
    "Orca pairs": (
        ".jsonl",
        lambda i, q, b, w: {"system": "Be kind.", "question": q, "chosen": b, "rejected": w},
        "System: Be kind.\n\nUser: {0}",
    ),
    "prompt text and conversations with system": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": q,
            **{
                name: [{"role": "system", "content": "Be kind."}, user(q), said(a)]
                for name, a in (("chosen", b), ("rejected", w))
            },
        },
        "System: Be kind.\n\nUser: {0}",
    ),
    "tool turns": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": [
                user(q),
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
                {"role": "tool", "content": "42"},
            ],
            "chosen": [said(b)],
            "rejected": [said(w)],
        },
        'User: {0}\n\nAssistant: [{{"name": "f", "arguments": "{{}}"}}]\n\nTool: 42',
    ),
}

# name -> (suffix, shape of a prompt file)
PROMPTS: dict[str, tuple[str, Callable[[int, str], dict[str, object]]]] = {
    "MT-Bench": (
        ".jsonl",
        lambda i, q: {"question_id": i, "category": "writing", "turns": [q, "Now shorter."], "reference": ["a", "b"]},
    ),
    "MT-Bench prompts": (".jsonl", lambda i, q: {"prompt": [q, "Now shorter."], "prompt_id": i, "category": "writing"}),
    "Vicuna bench": (".jsonl", lambda i, q: {"question_id": i, "text": q, "category": "generic"}),
    "Arena-Hard": (
        ".jsonl",
        lambda i, q: {"question_id": str(i), "category": "arena-hard-v0.1", "cluster": "c", "turns": [{"content": q}]},
    ),
    "Arena-Hard 2": (
        ".jsonl",
        lambda i, q: {"uid": str(i), "category": "hard_prompt", "subcategory": "coding", "prompt": q},
    ),
    "AlpacaEval": (".json", lambda i, q: {"dataset": "koala", "instruction": q, "output": "a", "generator": "g"}),
    "IFEval": (".jsonl", lambda i, q: {"key": i, "prompt": q, "instruction_id_list": ["x"], "kwargs": [{}]}),
    "WildBench": (
        ".jsonl",
        lambda i, q: {
            "session_id": str(i),
            "conversation_input": [{"role": "user", "content": q, "language": "English"}],
            "checklist": ["c"],
            "intent": "i",
        },
    ),
    "GSM8K": (".jsonl", lambda i, q: {"question": q, "answer": "4"}),
    "SimpleQA": (".csv", lambda i, q: {"metadata": "{}", "problem": q, "answer": "4"}),
    "AdvBench": (".csv", lambda i, q: {"goal": q, "target": "t"}),
}


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


def read_pairs(path: Path, **settings: str) -> set[tuple[str, str, str | None]]:
    """All triples of the file, in whichever part they are: demonstrations have no pair, so by the reader."""
    read = preferences(data=str(path), **settings)._read.splits
    return {(str(one.prompt), one.chosen, one.rejected) for rows in read.values() for one in rows}


def pair_cases(folder: Path) -> dict[str, str]:
    """By layout "" where all rows were read right, else what was read instead."""
    found = {}
    given = [(name, suffix, shape, settings, "{0}") for name, (suffix, shape, settings) in PLAIN.items()]
    given += [(name, suffix, shape, {}, prompt) for name, (suffix, shape, prompt) in BESIDE.items()]
    given += labelled()
    for number, (name, suffix, shape, settings, prompt) in enumerate(given):
        place = folder / str(number)
        place.mkdir()
        made = [shape(i, question(i), better(i), worse(i)) for i in range(COUNT)]
        rows = [row for one in made for row in one.get("rows", [one])]  # type: ignore[attr-defined]
        path = write(place / f"{'lines' if 'Lines' in name else 'rows'}{suffix}", rows)
        wanted = {(prompt.format(question(i)), better(i), worse(i)) for i in range(COUNT)}
        found[name] = compared(partial(read_pairs, path, **settings), wanted)
    return found


def labelled() -> list[tuple[str, str, Shape, dict[str, str], str]]:
    """Layouts with a row for each answer."""

    def kto(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {"rows": [{"prompt": q, "completion": w, "label": False}, {"prompt": q, "completion": b, "label": True}]}

    def kto_chat(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {"rows": [{"messages": [user(q), said(a)], "label": a == b} for a in (b, w)]}

    def helpsteer(i: int, q: str, b: str, w: str) -> dict[str, object]:
        return {
            "rows": [{"prompt": q, "response": a, "helpfulness": 4 if a == b else 1, "verbosity": 2} for a in (w, b)]
        }

    shapes = {"KTO": kto, "KTO, conversations": kto_chat, "HelpSteer 2": helpsteer}
    return [(name, ".jsonl", shape, {}, "{0}") for name, shape in shapes.items()]


def folder_cases(folder: Path) -> dict[str, str]:
    """Folders as tools write them."""
    from datasets import Dataset, DatasetDict

    rows: Rows = [{"prompt": question(i), "chosen": better(i), "rejected": worse(i)} for i in range(COUNT)]
    wanted = {(question(i), better(i), worse(i)) for i in range(COUNT)}
    half = COUNT // 2
    hub = folder / "hub" / "data"
    hub.mkdir(parents=True)
    write(hub / "train_prefs-00000-of-00002.parquet", rows[:half])
    write(hub / "train_prefs-00001-of-00002.parquet", rows[half:])
    converted = folder / "converted" / "default" / "train"
    converted.mkdir(parents=True)
    write(converted / "0000.parquet", rows[:half])
    write(converted / "0001.parquet", rows[half:])
    Dataset.from_list(rows).save_to_disk(folder / "saved", num_shards=2)
    DatasetDict({"train": Dataset.from_list(rows[:half]), "test": Dataset.from_list(rows[half:])}).save_to_disk(
        folder / "splits"
    )
    named = {"hub folder": folder / "hub", "hub's Parquet conversion": folder / "converted"}
    named |= {"save_to_disk": folder / "saved", "save_to_disk, splits": folder / "splits"}
    return {name: compared(partial(read_pairs, path), wanted) for name, path in named.items()}


def read_prompts(path: Path) -> set[str]:
    return {str(example.prompt) for example in prompts(data=str(path)).examples("test")}


def prompt_cases(folder: Path) -> dict[str, str]:
    found = {}
    for number, (name, (suffix, shape)) in enumerate(PROMPTS.items()):
        path = write(folder / f"prompts-{number}{suffix}", [shape(i, question(i)) for i in range(COUNT)])
        wanted = {question(i) for i in range(COUNT)}
        found[name] = compared(partial(read_prompts, path), wanted)
    return found


def compared(read: Callable[[], set[object]], wanted: set[object]) -> str:
    """ "" where exactly what was wanted is read, else one line about the difference."""
    try:
        found = read()
    except BenchError as error:
        return f"refused: {error}"
    except Exception as error:  # whatever it is, it is the fault that is looked for
        return f"{type(error).__name__}: {error}"
    return (
        ""
        if found == wanted
        else f"read {sorted(map(repr, found - wanted))[:1]} for {sorted(map(repr, wanted - found))[:1]}"
    )


def all_cases() -> dict[str, dict[str, str]]:
    """By kind."""
    with tempfile.TemporaryDirectory() as place:
        readers = {"preference data": pair_cases, "prompts": prompt_cases, "folders": folder_cases}
        return {kind: read(Path(place)) for kind, read in readers.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the counts and the failures here")
    given = parser.parse_args()
    kinds = all_cases()
    found = {name: why for cases in kinds.values() for name, why in cases.items()}
    failed = {name: why for name, why in found.items() if why}
    counts = {"tried": len(found), "clean": len(found) - len(failed), "failed": len(failed)}
    print(
        "layouts  tried  clean  failed\n" + f"         {counts['tried']:5}  {counts['clean']:5}  {counts['failed']:6}"
    )
    for name, why in failed.items():
        print(f"{name}: {why}")
    by_kind = {kind: {"tried": len(cases), "failed": sum(map(bool, cases.values()))} for kind, cases in kinds.items()}
    save(given.json, outcome("layouts", by_kind, failures=failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
