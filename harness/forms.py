"""The forms of stored values: which types a report, a plan or a ledger relies on.

A hash says that a file is what was written, not who wrote it: a results folder of someone else, or of a version without
hashes, may hold any JSON.  Values are checked once, where they are read, so that what computes with them need not ask.

A form is a type; a list of one form, for lists of any length; a dict by name, "name?" where it may be missing (other
names may hold anything, and none are allowed in an `Only`); under `str` in it, the form that all values have, whatever
their names; or a tuple of forms, one of which fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.store import is_plain_name

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

MOST = 1e75
"""The largest number that is computed with: fourth powers of it are finite, in float64."""


class Number:
    """A form: an integer or a float between -MOST and MOST, neither NaN nor infinite."""


class Count:
    """A form: an integer from 0 to 2^53, above which float64 skips integers."""


class Span:
    """A form: a list of two counts, [start, end)."""


class Place:
    """A form: kind, label and short key, which name the folder of a stage."""


class Only(dict[Any, Any]):
    """A form: an object with these names and no others."""


Form = Any
"""As the module's docstring says; the types of Python have no recursive one for it."""
KNOWN_OR_NOT = (Number, type(None))

OF_JSON: Mapping[str, Form] = {
    "string": str,
    "number": Number,
    "integer": Count,
    "boolean": bool,
    "null": type(None),
}
"""The forms of JSON Schema's types."""

ORIGIN: Form = {"kind": str, "description": str, "sha256": str, "license": str}
CELL: Form = {
    **dict.fromkeys(("task", "home", "reward_model", "arm", "policy"), str),
    "seed": Count,
    "differing": {str: str},
    "preset?": str,
    "cut_off?": str,
    "origin": ORIGIN,
    "home_origin?": ORIGIN,
    "optimizer?": str,
    "stages": {str: Place},
    "judges": {str: Place},
    "layers?": {str: Count},
    "gold?": {"name": str, "relabel": bool},
}
"""cells/NAME.json."""
MARKER: Form = {
    **dict.fromkeys(("kind", "label", "key", "machine"), str),
    "seconds": Number,
    "cpu_seconds": Number,
    "device": (str, type(None)),
    "versions": {str: str},
    "figures": {str: (Number, str, type(None), list, dict)},
    "peak_memory_mb?": KNOWN_OR_NOT,
    "cost?": Number,
    "family?": str,
    "params?": dict,
    "inputs?": dict,
}
"""stage.json."""
JUDGED: Form = {
    **MARKER,
    "figures": {"cases": Count, "undecided": Count, "threshold?": Number},
    "params": {"judge": dict},
}
"""stage.json of verdicts."""
COUNTED = ("train_pairs", "test_pairs", "train_too_long", "test_too_long", "train_equal", "test_equal")
SOURCES: Mapping[str, Form] = {
    "pairs": {**MARKER, "figures": {str: Number, **dict.fromkeys((*COUNTED, "train_chosen_longer"), Number)}},
    "prompts": {**MARKER, "figures": {str: Number}},
    "gold_pairs": {**MARKER, "figures": {"pairs": Count, "pair_accuracy": KNOWN_OR_NOT, "undecided": Count}},
    "sft": {
        **MARKER,
        "figures": {
            **MARKER["figures"],
            "clipped_demonstrations": Number,
            **dict.fromkeys(("sft_examples?", "sft_dropped?", "sft_without_room?"), Number),
        },
    },
}
"""stage.json of the stages whose figures a report computes with, by role."""
FILES: Form = {str: {"bytes": Count, "sha256": str}}
"""The list of files in stage.json."""
FIGURES: Form = {str: KNOWN_OR_NOT}
SCALE: Form = {
    "scale": KNOWN_OR_NOT,
    "pair_accuracy": KNOWN_OR_NOT,
    "sft_samples": {**FIGURES, "within_prompt_variance": KNOWN_OR_NOT, "negative_share": KNOWN_OR_NOT},
    "rejected": FIGURES,
    "pair_accuracy_by_overlap?": FIGURES,
    "chosen?": FIGURES,
}
"""scale.json."""
SANITY: Form = {
    "prompts": Count,
    "samples": Count,
    "within_prompt_sd": KNOWN_OR_NOT,
    "within_prompt_correlation_with_length": KNOWN_OR_NOT,
    "most_rewarded": [{"example_id": str, "prompt": str, "response": str, "reward": Number, "tokens": Count}],
    "trained?": dict,
}
"""sanity.json."""
TRAINED: Form = {
    "recipe": str,
    "seed": Count,
    "head_std": KNOWN_OR_NOT,
    "settings": dict,
    "policy": {"sha256": str, "base": str},
    "adapters": Count,
    "pairs": {"count": Count, "sha256": str, "sample": [str]},
}
"""What a reward model was trained with, in reward_model.json and in the account of a judge that scores by it."""
AGREEMENT: Form = {
    **dict.fromkeys(("pairs", "samples"), Count),
    **dict.fromkeys(("agreement", "proxy_accuracy", "gold_accuracy", "correlation"), KNOWN_OR_NOT),
}
"""agreement.json of the stage gold_agreement."""
EXPERIMENT: Form = {
    "name": str,
    "question": str,
    "seeds": [(Count, str)],
    "command": str,
    "runs": {str: [str]},
    "analyses": {str: [{"reward_model": str, "seed": (Count, str), "place": Place}]},
    "left_out": {str: str},
}
"""experiments/NAME.json."""
MEASURES: Form = [
    Only(
        {
            "name": str,
            "kind": str,
            "description": str,
            "before?": str,
            "limit?": KNOWN_OR_NOT,
            "title?": str,
            "reference?": KNOWN_OR_NOT,
            "format?": str,
            "better?": str,
            "shown?": ([str], type(None)),
            "reliability?": str,
        }
    )
]
"""measures.json."""
CASE: Form = {"example_id": str, "iteration": Count, "decoding": str}
EXAMPLE: Form = Only(
    {
        "id": str,
        "prompt": str,
        "turns?": [[str]],
        **{f"{name}?": str for name in ("completion", "source")},
        **{f"{name}?": [str] for name in ("references", "slices")},
        "facts?": dict,
        "sample?": Count,
    }
)
PAIR: Form = Only(
    {
        **dict.fromkeys(("id", "prompt", "chosen"), str),
        "rejected?": str,
        "turns?": [[str]],
        **{f"{name}_flaws?": ([Span], type(None)) for name in ("chosen", "rejected")},
    }
)
ROWS: Mapping[str, Form] = {
    "examples.test.jsonl": EXAMPLE,
    "examples.train.jsonl": EXAMPLE,
    "pairs.test.jsonl": PAIR,
    "pairs.train.jsonl": PAIR,
    "generations.jsonl": Only(
        {
            **CASE,
            "turns?": [[str]],
            "tokens": Count,
            "finished": bool,
            "response?": str,
            "prompt?": str,
            "slices?": [str],
            "source?": str,
            **{f"{name}?": KNOWN_OR_NOT for name in ("kl", "reward", "logprob", "drawn")},
            "spans?": [Span],
            "token_rewards?": [Number],
            "correction?": str,
            "sample?": Count,
        }
    ),
    "verdicts.jsonl": {
        **CASE,
        "sample?": Count,
        "slices": [str],
        "source?": str,
        "values": FIGURES,
        "reason?": str,
        "notes?": dict,
    },
    "steps.jsonl": {str: KNOWN_OR_NOT, "explained_variance": Number, "clip_share": Number, "kl": Number},
    "proxy.jsonl": {"example_id": str, "iteration": Count, "figures": FIGURES, "reward?": KNOWN_OR_NOT},
    "pool.jsonl": {
        "example_id": str,
        "rewards": [Number],
        "figures": {str: [KNOWN_OR_NOT]},
        "tokens?": [Count],
        "finished?": [bool],
        "gold?": [KNOWN_OR_NOT],
    },
}
"""The rows of a file, by its name."""
FILE: Mapping[str, Form] = {
    "scale.json": {**SCALE, "offset": Number, "token_offset": Number},  # which PPO reads, and no report
    "measures.json": MEASURES,
}
"""The object of a JSON file that a stage reads, by its name."""


def problem(value: object, form: Form, where: str = "") -> str:
    """What of the value has another form, as words such as "'seconds' is a str"; "" for nothing."""
    if isinstance(form, tuple):
        found = [problem(value, one, where) for one in form]
        return "" if "" in found else found[0]
    if form is Number or form is Count:
        return _number_problem(value, form is Count, where)
    if form is Span:
        fits = isinstance(value, list) and len(value) == 2 and not any(problem(one, Count) for one in value)
        return "" if fits else f"{where!r} is no span [start, end): {shorter(value)}"
    if form is Place:
        fits = isinstance(value, list) and len(value) == 3 and all(map(is_plain_name, value))
        return "" if fits else f"the place {shorter(value)} is not three names of folders"
    if isinstance(form, type):
        # True is an int for Python
        fits = isinstance(value, form) and (form is not int or not isinstance(value, bool))
        return "" if fits else _named(value, where)
    if not isinstance(value, list if isinstance(form, list) else dict):
        return _named(value, where)
    if isinstance(value, list):
        return next(filter(None, (problem(one, form[0], f"{where}[{at}]") for at, one in enumerate(value))), "")
    assert isinstance(value, dict)
    return next(filter(None, _of_object(value, form, where)), "")


def _of_object(value: Row, form: Mapping[Any, Form], where: str) -> Iterator[str]:
    for name, inner in form.items():
        if name is str:
            for key, one in value.items():
                yield problem(one, inner, f"{where}.{key}" if where else str(key))
            continue
        plain = name.removesuffix("?")
        place = f"{where}.{plain}" if where else plain
        if plain in value:
            yield problem(value[plain], inner, place)
        elif plain == name:
            yield f"no {place!r}"
    if isinstance(form, Only):
        yield from (f"{shorter(name)} is unknown{f' in {where!r}' if where else ''}" for name in _others(value, form))


def _others(value: Row, form: Only) -> list[str]:
    known = {name.removesuffix("?") for name in form}
    return [name for name in value if name not in known]


def _number_problem(value: object, count: bool, where: str) -> str:
    if not isinstance(value, int if count else int | float):
        return _named(value, where)
    low, high = (0, 2**53) if count else (-MOST, MOST)
    if low <= value <= high:
        return ""
    return f"{where!r} is no number that is computed with"  # not shown: it may have thousands of digits


def _named(value: object, where: str) -> str:
    return f"{where!r} is a {type(value).__name__}" if where else f"a {type(value).__name__}"


def misfit(path: object, problem: str) -> str:
    """The sentence, without a full stop, about a file with such a problem."""
    return f"{path} is damaged or of another version of this program ({problem})"


def shorter(value: object) -> str:
    """A value as it is shown in one line: at most 80 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def of_schema(schema: Row, root: Row) -> Form:
    """The form that a JSON Schema describes, without its constants and bounds; `root` holds its definitions."""
    if "$ref" in schema:
        found: Row = root
        for name in schema["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        return of_schema(found, root)
    if "anyOf" in schema:
        return tuple(of_schema(one, root) for one in schema["anyOf"])
    match schema.get("type", ""):
        case list() as kinds:
            return tuple(of_schema({**schema, "type": kind}, root) for kind in kinds)
        case "object":
            named = {
                name if name in schema.get("required", ()) else f"{name}?": of_schema(one, root)
                for name, one in schema.get("properties", {}).items()
            }
            named |= {name: object for name in schema.get("required", ()) if name not in named}
            others = schema.get("additionalProperties")
            if isinstance(others, dict) and not named:
                return {str: of_schema(others, root)}
            return Only(named) if others is False else named
        case "array":
            return [of_schema(schema.get("items", {}), root)]
        case kind:
            return OF_JSON.get(kind, object)


def row_problem(rows: Sequence[Row], name: str) -> tuple[int, str] | None:
    """(line from 1, what is wrong) of the first row of a file that has another form; None for a name without any."""
    form = ROWS.get(name)
    # all rows at once first: one by one they take longer than reading the file
    if form is None or _fit(rows, form):
        return None
    found = ((at, problem(row, form)) for at, row in enumerate(rows, 1))
    return next((one for one in found if one[1]), None)


def _fit(values: Sequence[Any], form: Form) -> bool:
    """Whether all values have the form; False also where only one by one tells."""
    if form is KNOWN_OR_NOT:
        return _fit([value for value in values if value is not None], Number)
    kinds = set(map(type, values))
    if form is Number or form is Count:
        low, high = (0, 2**53) if form is Count else (-MOST, MOST)
        fits = kinds <= ({int} if form is Count else {int, float})
        return fits and (not values or (low <= min(values) and max(values) <= high))
    if form is Span:
        return kinds <= {list} and set(map(len, values)) <= {2} and _fit(list(chain.from_iterable(values)), Count)
    if isinstance(form, type):
        return kinds <= {form}
    if isinstance(form, list):
        return kinds <= {list} and _fit(list(chain.from_iterable(values)), form[0])
    if not isinstance(form, dict) or not kinds <= {dict}:
        return False
    for name, inner in form.items():
        if name is str:
            fits = _fit([one for value in values for one in value.values()], inner)
        else:
            plain = name.removesuffix("?")
            own = [value[plain] for value in values if plain in value]
            fits = (len(own) == len(values) or plain != name) and _fit(own, inner)
        if not fits:
            return False
    # the names of all values at once: a set for each of thousands of rows takes as long as all other checks
    return not isinstance(form, Only) or not _others(dict.fromkeys(chain.from_iterable(values)), form)
