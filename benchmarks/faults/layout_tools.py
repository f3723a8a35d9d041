"""Layouts of pairs as tools and file formats write them, for layouts.py."""

# ruff: noqa: ARG005 - every shape takes the same arguments

from __future__ import annotations

import json

from layout_rows import Shape, gpt, part, said, user

# name -> (suffix, shape, settings); the prompt is the question alone
TOOLS: dict[str, tuple[str, Shape, dict[str, str]]] = {
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
    "OpenAI preference fine-tuning": (
        ".jsonl",
        lambda i, q, b, w: {
            "input": {"messages": [user(q)], "tools": []},
            "preferred_output": [said(b)],
            "non_preferred_output": [said(w)],
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
