"""Hostile chat templates and tokenizers, for hostile.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hostile_folders import TERMINAL, Folder
from hostile_place import Place
from hostile_stock import Change, both, edited, written

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "a loop": LOOP,
    "a loop on long prompts": "{% if messages[0]['content']|length > 2000 %}" + LOOP + "{% endif %}",
    "a recursive macro": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "a text of ten gigabytes": "{{ 'a' * 10000000000 }}",
    "a text of ten megabytes": "{{ 'a' * 10000000 }}",
    "a width of a billion": "{{ '%1000000000d' % 1 }}",
    "a power tower": "{{ 9 ** 9 ** 9 ** 9 }}",
    "classes of Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ raise_exception.__globals__['os'].system('touch sentinel') }}",
    "globals of cycler": "{{ cycler.__init__.__globals__.os.system('touch sentinel') }}",
    "globals of lipsum": "{{ lipsum.__globals__['os'].popen('touch sentinel').read() }}",
    "a format string": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "attr": "{{ ''|attr('__class__')|attr('__mro__') }}",
    "include": "{% include '../outside/secret' %}",
    "import": "{% import '/proc/self/environ' as x %}{{ x }}",
    "self": "{{ self.__init__.__globals__.__builtins__.open('../outside/secret').read() }}",
    "the environment": "{{ namespace.__init__.__globals__ }}",
    "changing messages": "{% set _ = messages.append({'role': 'user', 'content': 'x'}) %}{{ messages }}",
    "escapes": TERMINAL,
    "no template": "{% for",
    "nesting": "{% if 1 %}" * 500 + "{% endif %}" * 500,
}
EXPRESSIONS = {
    "nested repetition": "(a+)+$",
    "alternatives": "(a|aa)+b",
    "classes": r"(\w+\s?)+\x00",
    "a lookbehind": r"(?<=(a+)+)b",
    "a repetition of a billion": "(a{1,60000}){1,60000}",
    "a reference": r"(a*)*\1b",
    "a million alternatives": "|".join(f"a{i}" for i in range(10**5)),
    "no expression": "(((",
}


def pattern(expression: str, where: str) -> Change:
    """An expression in one part of a tokenizer's pipeline."""
    made = {"Regex": expression}
    parts = {
        "pre_tokenizer": {"type": "Split", "pattern": made, "behavior": "Isolated", "invert": False},
        "normalizer": {"type": "Replace", "pattern": made, "content": "x"},
        "decoder": {"type": "Replace", "pattern": made, "content": "x"},
    }

    def change(_: Place, folder: Path) -> None:
        found = json.loads((folder / "tokenizer.json").read_text())
        own = found.get(where)
        inner = {"pre_tokenizer": "pretokenizers", "normalizer": "normalizers", "decoder": "decoders"}[where]
        found[where] = {"type": "Sequence", inner: [parts[where], *([own] if own else [])]}
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return change


def templates_and_tokenizers() -> Iterator[Folder]:
    for name, text in TEMPLATES.items():
        yield from both("a chat template", name, edited("tokenizer_config.json", chat_template=text))
    yield from both(
        "a chat template",
        "several, one a loop",
        edited(
            "tokenizer_config.json",
            chat_template=[{"name": "default", "template": "{{ 1 }}"}, {"name": "rag", "template": LOOP}],
        ),
    )
    yield from both("a chat template", "a file of its own", written(**{"chat_template.jinja": LOOP}))
    for name, expression in EXPRESSIONS.items():
        yield from both("an expression in a tokenizer", name, pattern(expression, "pre_tokenizer"))
    for where in ("normalizer", "decoder"):
        yield from both("an expression in a tokenizer", f"in the {where}", pattern("(a+)+$", where))
    added = {
        "id": 10**12,
        "content": "x" * 10**6,
        "special": True,
        "single_word": False,
        "lstrip": True,
        "rstrip": True,
        "normalized": False,
    }
    for name, more in {
        "an id of a trillion": {"added_tokens": [added]},
        "a vocabulary of negative ids": {"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}},
        "a prefix of a megabyte": {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}},
        "truncation to nothing": {
            "truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10**6}
        },
        "padding to a billion": {
            "padding": {
                "strategy": {"Fixed": 10**9},
                "direction": "Right",
                "pad_to_multiple_of": None,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        },
    }.items():
        yield from both("sizes in a tokenizer", name, edited("tokenizer.json", **more))
