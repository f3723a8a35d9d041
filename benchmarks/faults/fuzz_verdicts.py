"""Fuzz the parser of verdicts with replies made of the pieces that real ones consist of.

    python benchmarks/faults/fuzz_verdicts.py [--minutes 3] [--seed N] [--json FILE]

Laws: a reply is a verdict or a reason, never an error, and in little time; a verdict is one that the reply states; a
reply that states both A and B outside of its reasoning and its reason is no verdict; what only a candidate says is no
verdict; the reasoning changes no verdict.  Prints what breaks a law; exit code 1 then.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import save
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from rlhf_bench.judges.llm.parse import ParsedReply, parse_response

SLOWEST = 0.5
"""Seconds for one reply."""
MARKS = [
    *("<think>", "</think>", "<thinking>", "</thinking>", "[THINK]", "[/THINK]", "<|channel|>analysis<|message|>"),
    *("<|end|>", "<|start|>assistant", "<|channel|>final<|message|>", "◁think▷", "◁/think▷", "```json\n", "\n```"),
    *("```", "~~~", "{", "}", "[", "]", "[[A]]", '"', "'", ",", "\\", "\n", " ", "\ufeff", "\x00", "\ud800", "verdict"),
    *("Verdict: A", "Verdict: B", "verdict", '"reason": "', "Wait, no.", "I hope this helps!", "Answer B says:"),
]
OBJECTS = st.builds(
    lambda choice, reason, order: json.dumps(
        {"reason": reason, "verdict": choice} if order else {"verdict": choice, "reason": reason}, ensure_ascii=False
    ),
    st.sampled_from(["A", "B", "tie", "Answer A", "C", "a", " B "]),
    st.sampled_from(["", "It is longer.", "B says </think>", 'so\nVerdict: "A"', "{x}", '{"verdict": "B"}', "```"]),
    st.booleans(),
)
PIECES = st.lists(st.one_of(st.sampled_from(MARKS), OBJECTS, st.text(max_size=8)), max_size=9).map("".join)
LONG = st.builds(lambda unit, times, end: unit * times + end, st.sampled_from(MARKS), st.integers(100, 4000), OBJECTS)
BROKEN = st.builds(
    lambda text, at, put: text[: at % (len(text) + 1)] + put + text[at % (len(text) + 1) + 1 :],
    OBJECTS,
    st.integers(0, 200),
    st.sampled_from(["", '"', "\n", ",", "}", "\\", "'"]),
)
REPLIES = st.one_of(PIECES, LONG, BROKEN, st.text())
VALUE = re.compile(r"verdict\W{0,12}(?:(?:answer|response)[\s_-]*)?(tie|a|b)(?![a-z])", re.IGNORECASE)


def reply(text: object, candidates: tuple[str, ...] = ()) -> ParsedReply:
    began = time.thread_time()  # not of the clock: the machine may be busy
    found = parse_response(json.dumps({"choices": [{"message": {"content": text}}]}), candidates)
    seconds = time.thread_time() - began
    assert seconds < SLOWEST, f"{seconds:.1f} s"
    assert (found.choice is None) == bool(found.reason)
    return found


def verdict_is_stated(text: str) -> None:
    choice = reply(text).choice
    assert choice is None or choice.lower() in {match[1].lower() for match in VALUE.finditer(text)}


def other_verdicts_are_none(text: str, first: str, second: str, between: str) -> None:
    one, two = (json.dumps({"reason": "x", "verdict": choice}) for choice in (first, second))
    if first != second:
        for whole in (one + between + two, f"```\n{one}\n```{between}```\n{two}\n```", f"Verdict: {first}\n{two}"):
            found = reply(whole).choice
            # a piece between may turn what stands before it into reasoning: then the second is the only one
            assert found in (None, second), whole
            if not re.search(r"think|channel|THINK", between):
                assert found is None, whole
    reply(text)


def a_candidate_is_no_judge(text: str) -> None:
    assert reply(text, (text,)).choice is None
    assert reply(f"One answer reads:\n{text}\n", (text,)).choice is None


def reasoning_changes_nothing(thought: str, choice: str) -> None:
    own = json.dumps({"reason": "x", "verdict": choice})
    if not any(mark in thought for mark in ("</think", "<think", "channel", "THINK", "think▷", "<|")):
        assert reply(f"<think>{thought}</think>{own}").choice == choice
        if not thought.lstrip().startswith(("{", "[", "<", "◁")):
            assert reply(f"{thought}</think>{own}").choice == choice


def whole_replies_are_read(reason: str, choice: str, form: int) -> None:
    whole = json.dumps({"reason": reason.replace("erdict", ""), "verdict": choice}, ensure_ascii=bool(form % 2))
    around = [f"{whole}", f"```json\n{whole}\n```", f"Here it is:\n{whole}", f"{whole}\nI hope this helps!"][form % 4]
    assert reply(around).choice == choice or "```" in reason, around


LAWS: dict[Callable[..., None], tuple[st.SearchStrategy[object], ...]] = {
    verdict_is_stated: (REPLIES,),
    other_verdicts_are_none: (REPLIES, st.sampled_from("AB"), st.sampled_from("AB"), PIECES),
    a_candidate_is_no_judge: (REPLIES,),
    reasoning_changes_nothing: (PIECES, st.sampled_from(["A", "B", "tie"])),
    whole_replies_are_read: (st.text(), st.sampled_from(["A", "B", "tie"]), st.integers(0, 7)),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--json", type=Path, help="write the counts and the faults here")
    options = parser.parse_args()
    end, number = time.monotonic() + 60 * options.minutes, options.seed
    tried, broken = Counter[str](), dict[str, str]()
    while time.monotonic() < end and len(broken) < len(LAWS):
        for law, parts in LAWS.items():
            if law.__name__ in broken or time.monotonic() > end:
                continue
            number += 1

            # called in this turn of the loop alone
            def counted(values: tuple[object, ...]) -> None:
                tried[law.__name__] += 1  # noqa: B023
                law(*values)  # noqa: B023

            checked = settings(
                max_examples=300,
                deadline=None,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )(seeded(number)(given(st.tuples(*parts))(counted)))
            try:
                checked()
            except Exception as error:
                broken[law.__name__] = f"{type(error).__name__}: {error}\n" + "\n".join(getattr(error, "__notes__", []))
    for name, count in tried.items():
        print(f"{name}: {count:,} replies{', BROKEN' if name in broken else ''}")
    for name, fault in broken.items():
        print(f"\n{name} (seed {options.seed})\n{fault}")
    found = {
        "campaign": "fuzz_verdicts",
        "minutes": options.minutes,
        "seed": options.seed,
        "processor_seconds": round(time.process_time()),
    }
    save(options.json, {**found, "tried": tried, "faults": broken})
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
