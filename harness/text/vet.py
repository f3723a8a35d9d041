"""Chat templates and tokenizers of strangers run in a child process first, within bounds of time and memory.

A template is a program that may loop for ever or write gigabytes, and the regular expressions of a tokenizer may take
time without end on a text.  Neither can be stopped inside this process.  So they are tried on short, long and
repetitive texts in a child; what exceeds a bound there is refused, and nothing of it has run here.

Without a template and with the expressions of the common models alone there is nothing to try.

    python -m rlhf_bench.harness.text.vet < JSON      # the child
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from rlhf_bench.harness.errors import BenchError

if TYPE_CHECKING:
    from jinja2 import Environment

    from rlhf_bench.harness.text.types import JsonObject, Tokenizer

CPU_SECONDS = 5
"""Of the child's processor time; sound tokenizers take less than one."""
SECONDS = 60.0
"""Until the child is ended in any case: the machine may be busy."""
MEMORY = 3 * 2**30
"""Bytes of the child's address space.  A vocabulary of 250,000 pieces takes less than 1 GiB."""
WRITTEN = 200_000
"""Characters that a template may add to a prompt."""
SLOW, LARGE, LONG, PANIC = 3, 4, 5, 6
"""Exit codes of the child."""

TEXTS = (
    *("a b", "Hello there, how are you?\nI am 3.5 metres tall.", "好的。مرحبا नमस्ते 🙂", "{{ x }} <think> [INST]"),
    *(one * 3000 for one in ("a", " ", "1", "!", "\n", "_", "\t", "A", ".", "-", "é", "好")),
    *(two * 1500 for two in ("a ", "aA", " \t", "a1", "a.", "ab", "\r\n", "x'", "Aa ")),
    *(one * 3000 + end for one in ("a", " ", "1", "A", "好", "\n") for end in ("!", "a\x00", "\u2028b")),
)
"""What is tried: a regular expression that backtracks does so on a long repetition with another end."""
# Of Qwen 2, Llama 3 and the tokenizers of GPT-4: those of most models.
KNOWN = frozenset(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for digits in ("", "{1,3}")
)
_checked: set[str] = set()
"""Hashes of what passed in this process."""


def check_bounded(tokenizer: Tokenizer, source: object) -> None:
    """Raises BenchError for a tokenizer whose chat template or expressions exceed the bounds; `source` names it."""
    template = tokenizer.chat_template
    templates = list(template.values()) if isinstance(template, dict) else [template] if template else []
    pipeline = tokenizer.backend_tokenizer.to_str() if getattr(tokenizer, "is_fast", False) else ""
    expressions = set(map(json.loads, re.findall(r'"Regex"\s*:\s*("(?:[^"\\]|\\.)*")', pipeline)))
    if not templates and expressions <= KNOWN:
        return
    bounds = {"seconds": CPU_SECONDS, "memory": MEMORY}
    tried = json.dumps({"templates": templates, "pipeline": "" if expressions <= KNOWN else pipeline, **bounds})
    name = hashlib.sha256(tried.encode()).hexdigest()
    if name in _checked:
        return
    fault = _fault_of(tried)
    if fault:
        fix = "Take a model whose files you trust, or mend them (a template: chat_template in tokenizer_config.json)."
        raise BenchError(f"The {fault} of {source} was stopped: it exceeds the bounds.", fix)
    _checked.add(name)


def _fault_of(tried: str) -> str:
    """What the child found: "" or the part that exceeds a bound, and how."""
    # the import path of this process, also where the package is not installed
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "rlhf_bench.harness.text.vet"]
    try:
        done = subprocess.run(
            command, input=tried, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        stage = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return f"{_part(stage)} ({SECONDS:g} s)"
    if done.returncode == LARGE or "memory allocation" in done.stderr:
        return f"{_part(done.stdout)} ({MEMORY >> 30} GiB of memory)"
    if done.returncode == LONG:
        return f"{_part(done.stdout)} ({WRITTEN:,} characters for one prompt)"
    if done.returncode == PANIC:
        return "tokenizer (ten million steps of an expression at one place of a text)"
    # the kernel ends a process at its limit of processor time by SIGXCPU, or by SIGKILL
    if done.returncode in (SLOW, -24, -9):
        return f"{_part(done.stdout)} ({CPU_SECONDS} s)"
    return ""  # another error is no question of bounds: it comes again, with its own message, where it matters


def _part(stdout: str) -> str:
    return "tokenizer" if "tokenizer" in stdout else "chat template"


# ---- the child -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Try what stands on stdin: {"templates": [...], "pipeline": JSON of a tokenizer or "", "seconds", "memory"}."""
    import resource

    tried = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (tried["seconds"], tried["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (tried["memory"], tried["memory"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        print("template", flush=True)
        longest = max((_rendered(template) for template in tried["templates"]), default=0)
        if longest > WRITTEN:
            return LONG
        print("tokenizer", flush=True)
        return PANIC if _panics(tried["pipeline"]) else 0
    except MemoryError:
        return LARGE


def _rendered(template: str) -> int:
    """The most characters that a template adds to one of TEXTS.  Errors of the template count as nothing written."""
    most = 0
    try:
        made = _environment().from_string(template)
    except MemoryError:
        raise
    except Exception:
        return 0
    for text in TEXTS:
        user, system = {"role": "user", "content": text}, {"role": "system", "content": text}
        for turns in ([user], [system, user], [user, {"role": "assistant", "content": text}]):
            variables: JsonObject = {"messages": turns, "add_generation_prompt": turns[-1] is user}
            try:
                shown = made.render(
                    **variables, bos_token="<s>", eos_token="</s>", date_string="26 Jul 2024", tools=None
                )
            except MemoryError:
                raise
            except Exception:  # a template may refuse roles; the stage that needs it says so
                continue
            most = max(most, len(shown) - len(text) * len(turns))
    return most


def _environment() -> Environment:
    """As transformers renders templates (utils/chat_template_utils.py), without importing it."""
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """The block that marks an assistant's words: here its content alone."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser):  # type: ignore[no-untyped-def]
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def refuse(message: str) -> None:
        raise ValueError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    made.globals["raise_exception"] = refuse
    made.globals["strftime_now"] = lambda _: "26 Jul 2024"
    return made


def _panics(pipeline: str) -> bool:
    """Encode and decode TEXTS with a tokenizer of this JSON ("" for none); whether the library gives one up.

    It does where an expression takes ten million steps at one place of a text.  Other errors count as nothing.
    """
    if not pipeline:
        return False
    import tokenizers

    try:
        made = tokenizers.Tokenizer.from_str(pipeline)
        for text in TEXTS:
            made.decode(made.encode(text).ids)
    except MemoryError:
        raise
    except Exception:
        return False
    except BaseException as error:  # a panic of the library's is no Exception
        return type(error).__name__ == "PanicException"
    return False


if __name__ == "__main__":
    sys.exit(main())
