"""What a plan needs of a judge: its settings, and what its verdicts depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import HasVerdictSettings
from rlhf_bench.harness.stages.judge import load_judge


@dataclass(frozen=True)
class JudgeSpec:
    """A judge by name, all its settings, and what of them its verdicts depend on (which enters keys)."""

    name: str
    settings: Mapping[str, Any]
    content: Mapping[str, Any]


def judge_spec(name: str, given: Mapping[str, Any]) -> JudgeSpec:
    """Make the judge once, to learn what a plan needs of it.  Raises BenchError for anything wrong with it."""
    settings = factory_settings(name, plugins.find("judge", name).factory(), given)
    judge = load_judge(name, settings)
    content = dict(judge.verdict_settings) if isinstance(judge, HasVerdictSettings) else settings
    try:
        store.canonical(content)
    except (TypeError, ValueError) as error:
        seen = f"The settings of the judge {name!r} are not JSON: {one_line(error)}."
        raise BenchError(seen, "Settings are texts, numbers and truth values.") from None
    return JudgeSpec(name, settings, content)
