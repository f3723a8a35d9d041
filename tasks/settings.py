"""The settings of task factories: signatures composed from dataclasses, and checks that factories share.

A task's settings are the parameters of its factory: `bench --set`, `bench list settings` and the keys of stored results
read them with `inspect.signature`.  A dataclass lists its settings already, so a factory declares `**settings` and
`settings_of` puts the fields in their place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, TypeVar

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.tasks.sources import SUFFIXES
from rlhf_bench.tasks.worlds.generated import SIZES

T = TypeVar("T")

# A text, a number or a truth value: what `--set` can write.
# Any and not a union, because factories pass settings on as keywords of dataclasses with fields of one type each.
Setting = Any

# Settings listed before and after all others.  A dataclass alone would put the fields of its base class first, so the
# length of a prompt would come after the error rates.
FIRST = ("seed", *SIZES, "dialogue_words", "words", "objects")
LAST = ("carelessness", "preference_noise")


def settings_of(group: type) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator: the factory's `**settings` become keyword parameters, one for each field of the dataclass `group`.

    Each keeps the field's default and type.  Fields that the factory names itself are its own, and fields whose default
    is no plain value are no settings.  A call with any other keyword raises TypeError, as for a plain function.
    """

    def decorate(factory: Callable[..., T]) -> Callable[..., T]:
        written = signature(factory)
        # The factory's own parameters stay in front, with the defaults that it gives them.
        own = {name: one for name, one in written.parameters.items() if one.kind is not Parameter.VAR_KEYWORD}
        added = [
            Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
            for field in sorted(fields(group), key=lambda field: (field.name in LAST) - (field.name in FIRST))
            # a default that is an object, such as the register of a world, is the factory's to choose
            if field.name not in own and isinstance(field.default, str | int | float)
        ]
        composed = written.replace(parameters=[*own.values(), *added])

        @wraps(factory)
        def checked(**settings: Setting) -> T:
            composed.bind(**settings)  # raises the TypeError; `**settings` of the factory would take any name
            return factory(**settings)

        checked.__signature__ = composed  # type: ignore[attr-defined]  # what inspect.signature returns
        return checked

    return decorate


def check_real_data(data: str, settings: Mapping[str, Setting], world: type) -> None:
    """Raises BenchError where settings of the synthetic task `world` come with real data, or `data` names nothing.

    The harness passes every setting, so one counts as set where it differs from its default.
    """
    given = [name for name, value in settings.items() if value != getattr(world, name)]
    if given:
        seen = f"{', '.join(given)} set together with data={data!r}."
        raise BenchError(seen, "These apply to the synthetic task only: leave them out, or leave out data.")
    check_data(data)


def check_data(data: str) -> None:
    """Raises BenchError at once for what is neither a path that exists nor a possible name on the hub.

    The hub is not asked: a name that may exist there passes.
    """
    # Owner and name, perhaps @REVISION.  A file that does not exist, as data/rows.jsonl, looks like that too.
    possible = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", data) and not data.endswith(SUFFIXES)
    if data != "hub" and not possible and not Path(data).expanduser().exists():
        fix = "Name a folder or file that exists, 'hub', or a hub dataset as 'owner/name'."
        raise BenchError(f"data={data!r}: there is no such file or folder, and it is no hub name.", fix)


def check_tokens(tokens: int) -> None:
    """Raises BenchError for a longest response of no tokens."""
    if tokens < 1:
        raise BenchError(f"response_tokens = {tokens}.", "Give at least 1, or 0 for the default.")


def refuse_prompts_only(prompts_only: bool) -> None:
    """Raises BenchError where a synthetic task is opened for its prompts only: it always has everything."""
    if prompts_only:
        raise BenchError("prompts_only is set without data.", "It applies to real data: add data, or leave it out.")
