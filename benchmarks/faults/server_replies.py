"""Servers whose messages have another shape or other words, for servers.py."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from fault_server import verdict
from server_answers import DECIDED, Behaviour, Behaviours, judged, shaped, worded

HARMONY = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>"
THOUGHTS = {
    "<think>": "<think>B? {no}</think>\n",
    "<thinking>": "<thinking>hm</thinking>\n",
    "<reasoning>": "<reasoning>hm</reasoning>",
    "<thought>": "<thought>\nhm\n</thought>\n\n",
    "capitals": "<THINK>hm</THINK>",
    "two blocks": "<think>a</think>\n<think>b</think>\n",
    "no opening tag": "I compare both.\n</think>\n\n",
    "draft before a closing tag": '{"verdict": "tie"} No.\n</think>\n',
    "[THINK]": "[THINK]hm[/THINK]",
    "harmony channels": HARMONY,
    "Kimi": "◁think▷hm◁/think▷",
    "Cohere": "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>",
}
NEAR: dict[str, Callable[[str], str]] = {
    "a fence": lambda t: f"```json\n{t}\n```",
    "a fence without a language": lambda t: f"```\n{t}\n```",
    "words before a fence": lambda t: f"My evaluation:\n\n```json\n{t}\n```",
    "words after a fence": lambda t: f"```json\n{t}\n```\n\nAnything else?",
    "words before": lambda t: f"Here is my evaluation: {t}",
    "words after": lambda t: f"{t}\n\nI hope this helps!",
    "a raw line break": lambda t: t.replace("because", "Line one.\nLine two."),
    "a comma too many": lambda t: t[:-1] + ",}",
    "single quotes": lambda t: t.replace('"', "'"),
    "unescaped quotes": lambda t: t.replace("because", 'it says "more"'),
    "typographic quotes": lambda t: t.replace('"', "\u201d"),
    "keys in capitals": lambda t: t.replace("verdict", "Verdict"),
    "a byte-order mark": lambda t: "\ufeff" + t,
    "<answer>": lambda t: f"<answer>{t}</answer>",
    "Answer A": lambda t: re.sub(r'"(A|B)"', r'"Answer \1"', t),
    "more keys": lambda t: t[:-1] + ', "confidence": 0.9}',
}
UNCLEAR: dict[str, tuple[Callable[[str], str], str]] = {
    "two objects": (lambda t: f'{t}\n{{"verdict": "tie"}}', "invalid JSON"),
    "two fences": (lambda t: f'```\n{t}\n```\n```\n{{"verdict": "tie"}}\n```', "invalid JSON"),
    "a line against the object": (lambda t: f"Verdict: tie\n{t}", "conflicting verdicts"),
    "second thoughts": (lambda t: f"{t}\nWait, the other one is better.", "words after the verdict"),
    "a quotation": (lambda t: f"One answer reads:\n{t}\nI am not swayed.", "words after the verdict"),
    "half an object": (lambda t: t[:-3], "invalid JSON"),
    "no verdict": (lambda _: "Both have merits.", "no verdict"),
    "a refusal in words": (lambda _: "I'm sorry, I cannot compare these.", "refusal"),
    "another key": (lambda t: t.replace("verdict", "winner"), "wrong schema"),
    "thoughts without an end": (lambda t: f"<think>{t}", "truncated reasoning"),
    "thoughts alone": (lambda _: "<think>hm</think>", "empty reply"),
}


def message(**fields: Any) -> Callable[[str], dict[str, Any]]:
    return lambda _: fields


def replies() -> list[Behaviour]:
    """Shape of the message, thoughts before the verdict, near JSON, unclear verdicts."""
    made = Behaviours()
    add = made.add
    text = {"text parts": lambda t: [{"type": "text", "text": t[:9]}, {"type": "text", "text": t[9:]}]}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    text["a thinking part"] = lambda t: [thought, {"type": "text", "text": t}]
    text["an unknown part"] = lambda t: [{"type": "new", "x": 1}, {"type": "output_text", "text": t}]
    for name, parts in text.items():
        add("shape", name, shaped(lambda t, p=parts: {"content": p(t)}), DECIDED)
    add("shape", "reasoning beside", shaped(lambda t: {"content": t, "reasoning_content": "Verdict: tie"}), DECIDED)
    hidden = {"reasoning_content": "hm", "content": None}
    spent = "undecided: max_tokens spent on reasoning: raise winrate-llm.max_tokens"
    unanswered = "undecided: reasoning without an answer: raise winrate-llm.max_tokens"
    add("shape", "reasoning_content alone", shaped(message(**hidden)), unanswered)
    add("shape", "reasoning alone", shaped(message(reasoning="hm", content="")), unanswered)
    add("shape", "a thinking part alone", shaped(message(content=[thought])), unanswered)
    add("shape", "reasoning cut off", shaped(message(**hidden), "length"), spent)
    add("shape", "<think> cut off", shaped(message(content="<think>hm"), "length"), spent)
    cut = "undecided: truncated at max_tokens"
    add("shape", "verdict cut off", shaped(lambda t: {"content": t}, "length"), cut)
    add("shape", "null", shaped(message(content=None)), "undecided: empty reply")
    add("shape", "a number", shaped(message(content=3)), "undecided: no chat completion")
    add("shape", "parts that are none", shaped(message(content=["A"])), "undecided: no chat completion")
    add("shape", "a refusal", shaped(message(content=None, refusal="I will not.")), "undecided: refusal")
    add(
        "shape", "a refusal part", shaped(message(content=[{"type": "refusal", "refusal": "no"}])), "undecided: refusal"
    )
    add("shape", "content_filter", shaped(lambda t: {"content": t}, "content_filter"), "undecided: refusal")
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    add("shape", "a tool call", shaped(message(content=None, tool_calls=call), "tool_calls"), "undecided: a tool call")
    add("shape", "another model", judged(verdict("A", model="other")), "undecided: another model answered")

    for name, before in THOUGHTS.items():
        add("thoughts", name, worded(lambda t, b=before: b + t), DECIDED)
    for name, words in NEAR.items():
        add("near JSON", name, worded(words), DECIDED)
    for name, (words, reason) in UNCLEAR.items():
        add("unclear", name, worded(words), f"undecided: {reason}")
    return made
