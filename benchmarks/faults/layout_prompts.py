"""Layouts of pairs with more in the prompt than the question, and of files of prompts, for layouts.py."""

# ruff: noqa: ARG005 - every shape takes the same arguments

from __future__ import annotations

from collections.abc import Callable

from layout_rows import Shape, hh, said, user

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
