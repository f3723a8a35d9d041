"""What a plan needs of a judge: its settings, and what its verdicts depend on."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_bench.harness import plugins, store
from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.plan.named import check_named, texts_of
from rlhf_bench.harness.presets import factory_settings
from rlhf_bench.harness.seams import HasVerdictSettings
from rlhf_bench.harness.stages.judge import load_judge
from rlhf_bench.harness.text.types import Row


@dataclass(frozen=True)
class JudgeSpec:
    """A judge by name with all its settings; `content` is what its verdicts depend on, and enters keys.

    `content` is the judge's `verdict_settings` where it has any (`seams.HasVerdictSettings`), else all settings.
    """

    name: str
    settings: Row
    content: Row


def judge_spec(name: str, given: Row) -> JudgeSpec:
    """Build the judge once and read what a plan needs of it.

    Raises BenchError for an unknown name, a wrong setting, and settings that are no JSON.
    """
    settings = factory_settings(name, plugins.find("judge", name).factory(), given)
    check_named(texts_of(settings))
    judge = load_judge(name, settings)
    content = dict(judge.verdict_settings) if isinstance(judge, HasVerdictSettings) else settings
    # tried here, where the judge's name is known: a stage's key would raise the same error without it
    try:
        store.canonical(content)
    except (TypeError, ValueError) as error:
        seen = f"The settings of the judge {name!r} are not JSON: {one_line(error)}."
        raise BenchError(seen, "Settings are texts, numbers and truth values.") from None
    return JudgeSpec(name, settings, content)
