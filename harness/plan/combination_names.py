"""The names of combinations of reward models: mean(A,B), min(A,B), wsum(A:1,B:.3) and uwo(A*5:.1).

A member is the name of any reward model, with its source where it has one (hf:FOLDER).  NAME*K is an ensemble: the same
reward model, trained K times from different seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf_bench.harness.anchors import anchored
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.reward_models.combined import HOWS, MIN, PENALISED, SUM

FORMS = {
    "mean(A,B,...)": "the mean of the members' rewards, each in standard deviations of its own on SFT samples",
    "min(A,B,...)": "the rewards of the member whose sum over the response is lowest (worst case, arXiv 2310.02743)",
    "wsum(A:1,B:.3,...)": "the weighted sum of the members' rewards, each in standard deviations of its own",
    "uwo(A*K:C)": "mean over K trainings of A, less C times the variance of their sums (arXiv 2310.02743)",
    "mean(A*K), min(A*K)": "an ensemble: the same reward model, trained K times from different seeds",
}
"""What --rm takes beside names, with a description each."""
PLUGIN = "rlhf_bench.reward_models.combined:Combined"
"""The reward model that every combination is, with its members as settings.

It is not registered: the record of a stranger may name registered reward models, and this one builds whatever its
settings name (trust.py).
"""
MOST = 32
"""Members of one combination, counting the trainings of an ensemble: all are in memory at once."""
CALL = re.compile(r"\s*([\w-]*)\s*\(")
INNER = re.compile(r"(?:\A|,)\s*([\w-]+)\s*\(")
EXAMPLE = "For example: --rm 'mean(scalar,seq2seq-token)'."


@dataclass(frozen=True)
class Member:
    """A member by name; `copies` is the number of its trainings."""

    name: str
    weight: float = 1.0
    copies: int = 1


@dataclass(frozen=True)
class Combination:
    """A combination as it is written; `how` is one of HOWS, `penalty` the coefficient of uwo."""

    how: str
    members: tuple[Member, ...]
    penalty: float = 0.0

    def text(self, shown: Callable[[str], str] = lambda name: name) -> str:
        """It as a name without spaces; `shown` turns the names of members into labels."""
        parts = [shown(one.name) + (f"*{one.copies}" if one.copies > 1 else "") for one in self.members]
        if self.how == SUM:
            parts = [f"{part}:{short(one.weight)}" for part, one in zip(parts, self.members, strict=True)]
        if self.how == PENALISED:
            parts = [f"{parts[0]}:{short(self.penalty)}"]
        return f"{self.how}({','.join(parts)})"


def short(number: float) -> str:
    """A number as short as it is exact: 1, 0.3, -0.01."""
    return f"{number:g}" if float(f"{number:g}") == number else repr(number)


def is_combination(name: str) -> bool:
    """Whether a reward model's name is written as a combination, be it right or wrong."""
    # a path may have parentheses; NAME( has nothing of a path before it
    return bool(CALL.match(name)) or (name.rstrip().endswith(")") and not re.search(r"[(:/\\]", name))


def described(name: str) -> str:
    """What a combination pays, in words; "" for the name of a reward model, and for an unknown function."""
    found = CALL.match(name)
    return next((said for form, said in FORMS.items() if found and form.startswith(f"{found[1]}(")), "")


def names_of(text: str) -> list[str]:
    """The reward models that a name of --rm names: the members of a combination, or the name itself.  Raises BenchError
    as `parse`."""
    return [one.name for one in parse(text).members] if is_combination(text) else [text]


def names_at(text: str, place: str) -> list[str]:
    """Those of a name in a file; `place` (file and line) leads the message of an error."""
    try:
        return names_of(text)
    except BenchError as error:
        raise BenchError(f"{place}: {error.seen}", error.fix) from None


def all_names(texts: Sequence[str]) -> list[str]:
    """Those of several, each once."""
    return list(dict.fromkeys(name for text in texts for name in names_of(text)))


def parse(text: str) -> Combination:
    """The combination that `text` names.

    Raises BenchError for an unknown function, a parenthesis too few or too many, a combination inside another, an empty
    member, one that is given twice, fewer than two members or more than MOST, and a weight, a coefficient or a number
    of members that is missing or no number.
    """
    found = CALL.match(text)
    if not found:
        raise BenchError(f"--rm {text!r} has no opening parenthesis.", EXAMPLE)
    how, inner = found[1], text[found.end() :].rstrip()
    if how not in HOWS:
        raise BenchError(f"Unknown function {how!r} in --rm {text!r}.", did_you_mean(how, HOWS))
    if not inner.endswith(")"):
        raise BenchError(f"--rm {text!r} has no closing parenthesis at its end.", EXAMPLE)
    inner = inner[:-1]
    if nested := INNER.search(inner):
        seen = f"--rm {text!r} has {nested[1]}(...) inside of {how}(...)."
        raise BenchError(seen, "Name reward models alone: combinations of combinations are not supported.")
    if inner.count("(") != inner.count(")"):
        raise BenchError(f"--rm {text!r} has a parenthesis too many.", EXAMPLE)
    parts = [part.strip() for part in inner.split(",")]
    if "" in parts:
        raise BenchError(f"--rm {text!r} has an empty member.", EXAMPLE)
    if how == PENALISED:
        return _penalised(text, parts)
    members = tuple(_weighted(text, part) if how == SUM else _copied(text, part) for part in parts)
    _check(text, how, members)
    return Combination(how, members)


def _penalised(text: str, parts: Sequence[str]) -> Combination:
    form = "Write --rm 'uwo(NAME*K:COEFFICIENT)', for example 'uwo(scalar*5:.1)'."
    if len(parts) != 1:
        raise BenchError(f"--rm {text!r} has {len(parts)} members; uwo takes one ensemble.", form)
    name, colon, number = parts[0].rpartition(":")
    if not colon or not name or _number(number) is None:
        raise BenchError(f"--rm {text!r} has no coefficient.", form)
    penalty, member = _finite(text, "coefficient", number), _copied(text, name.strip())
    if penalty < 0:
        raise BenchError(f"--rm {text!r}: the coefficient is below 0, which would pay for uncertainty.", form)
    if member.copies == 1:
        raise BenchError(f"--rm {text!r} has one member, which has no variance.", form)
    return Combination(PENALISED, (member,), penalty)


def _weighted(text: str, part: str) -> Member:
    name, colon, number = part.rpartition(":")
    if not colon or not name.strip() or _number(number) is None:
        raise BenchError(f"--rm {text!r}: {part!r} has no weight.", f"Write {part}:WEIGHT, for example {part}:1.")
    member = _copied(text, name.strip())
    if member.copies > 1:
        seen = f"--rm {text!r} has the ensemble {name.strip()} inside of wsum(...)."
        raise BenchError(seen, "Ensembles go into mean, min and uwo.")
    return Member(member.name, _finite(text, f"weight of {member.name}", number))


def _copied(text: str, part: str) -> Member:
    name, star, number = part.rpartition("*")
    # hf:a*b is a path; what follows the star of an ensemble is a number
    if not star or "/" in number:
        return Member(part)
    copies = int(number) if re.fullmatch(r"\s*[0-9]{1,4}\s*", number) else 0
    if copies < 2 or not name.strip():
        raise BenchError(f"--rm {text!r}: {part!r} is no ensemble.", f"Write NAME*K with a K from 2 to {MOST}.")
    return Member(name.strip(), copies=copies)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _finite(text: str, what: str, number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise BenchError(f"--rm {text!r}: the {what} is {number.strip()}, no finite number.", "Give a finite one.")
    return value + 0.0  # no -0.0, which would be another name for the same


def _check(text: str, how: str, members: Sequence[Member]) -> None:
    names = [anchored(one.name) if ":" in one.name else one.name for one in members]
    twice = next((one.name for one, name in zip(members, names, strict=True) if names.count(name) > 1), None)
    if twice is not None:
        fix = f"For several trainings of it: {MIN if how == MIN else 'mean'}({twice}*2)."
        raise BenchError(f"--rm {text!r} has {twice!r} twice.", fix if how != SUM else "Add up its weights.")
    count = sum(one.copies for one in members)
    if count < 2:
        raise BenchError(f"--rm {text!r} has one member, {members[0].name!r}.", f"Write --rm {members[0].name} for it.")
    if count > MOST:
        raise BenchError(f"--rm {text!r} has {count} members.", f"At most {MOST} are in memory at once.")
    if how == SUM and not any(one.weight for one in members):
        raise BenchError(f"--rm {text!r} has no weight but 0.", "Give one member a weight.")
