"""The settings of the built-in tasks: `bench --set` and the keys of results read them from a factory's signature."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from rlhf_bench.harness.plugins import available
from rlhf_bench.tasks.settings import settings_of

SIGNATURES = {
    "dialogsum": """
        data='' response_tokens=0 seed=0 demonstrations=8000 train_pairs=1500 test_pairs=256 train_prompts=4096
        test_prompts=256 dialogue_words=60 min_facts=1 max_facts=3 correction_rate=0.15 mention_rate=0.35
        sft_drop=0.75 sft_wrong=0.02 sft_invent=0.15 sft_filler=1.0 sft_stale=0.0 sft_opening=1.0
        sft_careful=0.25 sft_empty=0.0 good_drop=0.08 good_wrong=0.04 good_invent=0.03 good_filler=0.08 bad_drop=0.45
        bad_wrong=0.2 bad_invent=0.15 bad_filler=0.2 carelessness=0.0 preference_noise=0.2
    """,
    "tldr": """
        data='' prompts_only=False response_tokens=0 seed=0 demonstrations=8000 train_pairs=1500 test_pairs=256
        train_prompts=4096 test_prompts=256 words=60 objects='seen' min_facts=1 max_facts=3 correction_rate=0.15
        mention_rate=0.35 sft_drop=0.75 sft_wrong=0.02 sft_invent=0.15 sft_filler=1.0 sft_stale=0.0
        sft_opening=1.0 sft_careful=0.25 sft_empty=0.0 good_drop=0.08 good_wrong=0.04 good_invent=0.03 good_filler=0.08
        bad_drop=0.45 bad_wrong=0.2 bad_invent=0.15 bad_filler=0.2 carelessness=0.0 preference_noise=0.2
    """,
    "xsum": """
        data='' prompts_only=False response_tokens=0 seed=0 demonstrations=8000 train_pairs=1500 test_pairs=256
        train_prompts=4096 test_prompts=256 words=60 objects='seen' min_facts=1 max_facts=3 correction_rate=0.15
        mention_rate=0.35 sft_drop=0.75 sft_wrong=0.02 sft_invent=0.15 sft_filler=1.0 sft_stale=0.0
        sft_opening=1.0 sft_careful=0.25 sft_empty=0.0 good_drop=0.08 good_wrong=0.04 good_invent=0.03 good_filler=0.08
        bad_drop=0.45 bad_wrong=0.2 bad_invent=0.15 bad_filler=0.2 carelessness=0.0 preference_noise=0.2
    """,
    "saferlhf": """
        data='' preference='safer' response_tokens=0 seed=0 demonstrations=8000 train_pairs=2500 test_pairs=256
        train_prompts=4096 test_prompts=256 harmful_rate=0.5 lack_rate=0.2 sft_careful=0.3 sft_comply=0.15
        sft_refuse=0.7 sft_benign_refuse=0.1 sft_deflect=0.25 sft_drop=0.75 sft_wrong=0.05 sft_remark=0.9
        sft_empty=0.0 pair_comply=0.2 pair_refuse=0.4 benign_refusal_pairs=0.0 good_drop=0.1 good_wrong=0.1
        good_remark=0.5 bad_drop=0.5 bad_wrong=0.4 bad_remark=0.2 carelessness=0.0 preference_noise=0.2
    """,
    "assist": """
        seed=0 demonstrations=2000 train_pairs=4000 test_pairs=256 train_prompts=512 test_prompts=256
        carelessness=0.0 preference_noise=0.2 response_tokens=48 open_rate=0.5 mention_rate=0.5 long=0.4
        sft_keep=0.15 sft_miss=0.08 sft_more=0.06 sft_wrong=0.12 sft_repeat=0.12 sft_stray=0.15 sft_pad=0.9
        careful=0.5
    """,
    "qa-feedback": """
        data='' passage_words=300 response_tokens=200 test_share=0.3 sft_share=0.3
    """,
    "medical": """
        data='' column='question' split='' train_share=0.0 response_tokens=128 references='' types=''
        bad_rows='refuse'
    """,
    "code": """
        data='' column='prompt' split='' train_share=0.0 response_tokens=128 references='' types=''
        bad_rows='refuse'
    """,
    "prompts": """
        data='' column='prompt' split='' train_share=0.0 response_tokens=128 references='' types=''
        bad_rows='refuse'
    """,
    "preferences": """
        data='' split='train' test_split='' response_tokens=128 prompt='' chosen='' rejected='' system=''
        bad_rows='refuse' unpaired='drop'
    """,
}
"""Name and default of every setting, in order.  A change here changes the settings that results were stored under."""


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_settings_are_those_that_results_were_stored_under(name: str) -> None:
    found = inspect.signature(available("task")[name].factory()).parameters.values()
    assert " ".join(f"{one.name}={one.default!r}" for one in found) == " ".join(SIGNATURES[name].split())
    kinds = {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert {one.kind for one in found} <= kinds  # no *args and no **kwargs: the harness offers neither as a setting


def test_every_task_is_listed() -> None:
    assert set(SIGNATURES) == {name for name, plugin in available("task").items() if plugin.module.startswith("rlhf_")}


@pytest.mark.parametrize("name", SIGNATURES)
def test_any_other_keyword_is_a_type_error(name: str) -> None:
    factory = available("task")[name].factory()
    for keyword in ("nonsense", "register"):  # `register` is a field of a world, but not a value that can be written
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{keyword}'"):
            factory(**{keyword: 1})


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_first_line_describes_the_task(name: str) -> None:
    """`bench list tasks` shows it."""
    line = inspect.getdoc(available("task")[name].factory()).splitlines()[0]  # type: ignore[union-attr]
    assert line.endswith(").")
    assert len(line) <= 100


@dataclass(frozen=True)
class Sizes:
    preference_noise: float = 0.5
    large: int = 10
    table: tuple[int, ...] = ()
    seed: int = 0
    name: str = "x"


def test_settings_of_a_dataclass_stand_in_place_of_the_factorys_own() -> None:
    @settings_of(Sizes)
    def factory(*, data: str = "", large: int = 20, **settings: object) -> tuple[object, ...]:
        return data, large, settings

    found = {one.name: one.default for one in inspect.signature(factory).parameters.values()}
    assert list(found.items()) == [("data", ""), ("large", 20), ("seed", 0), ("name", "x"), ("preference_noise", 0.5)]
    assert factory(seed=3) == ("", 20, {"seed": 3})  # defaults are left to the dataclass
    with pytest.raises(TypeError, match="unexpected keyword argument 'table'"):
        factory(table=(1,))
