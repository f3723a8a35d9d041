"""Settings: every key of a preset exists, and wrong names, types and values are refused with a hint."""

from __future__ import annotations

import fnmatch
import math
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import settings
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plugins import available
from rlhf_bench.harness.presets import factory_settings, load_presets, make_settings, parse_value, unused_groups
from rlhf_bench.harness.settings import PPOSettings, Settings, describe_settings

PLUGINS = frozenset({"scalar", "seq2seq-token"})

# What every setting may be.  Numbers that are in none of these may be 0 but not negative; other texts are free.
ABOVE_ZERO = {
    *("policy.layers", "policy.width", "policy.heads", "policy.vocabulary"),
    *("sft.steps", "sft.batch", "sft.lr", "sft.save_every", "eval.batch"),
    *("ppo.iterations", "ppo.rollouts", "ppo.epochs", "ppo.minibatches", "ppo.micro_batch", "ppo.lr", "ppo.critic_lr"),
    *("ppo.samples", "eval.top_p", "eval.samples"),
    *("ppo.temperature", "ppo.checkpoints", "ppo.save_every", "ppo.scale_prompts", "ppo.scale_samples"),
    *("ppo.max_grad_norm", "dpo.beta", "dpo.epochs", "dpo.batch", "dpo.lr", "dpo.save_every"),
    *("sft_chosen.epochs", "sft_chosen.batch", "sft_chosen.lr", "sft_chosen.save_every"),
}
FRACTIONS = {
    *("sft.warmup", "dpo.warmup", "sft_chosen.warmup", "ppo.gamma", "ppo.lam", "ppo.engine_memory", "stats.level"),
}
CHOICES = {
    "eval.cut_off": ("keep", "lose"),
    "pairs.overlap": ("all", "low", "middle", "high"),
    "ppo.normalise": ("sd", "none"),
    "ppo.critic": ("own", "trunk"),
    "ppo.centre": ("sequence", "token", "none"),
    "ppo.kl_estimator": ("k1", "k3"),
    "ppo.lr_schedule": ("constant", "linear"),
    "ppo.engine": ("own", "vllm"),
    "policy.template": ("auto", "plain", "chat"),
    "policy.dtype": ("auto", "float32", "bfloat16"),
}


def make(**groups: dict[str, str]) -> Settings:
    return make_settings("tiny", groups, PLUGINS)


def refusal(call: Any) -> str:
    with pytest.raises(BenchError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- presets


@pytest.mark.parametrize("preset", load_presets())
def test_every_key_of_a_preset_exists_and_has_its_type(preset: str) -> None:
    factories = {n: p for kind in ("task", "reward-model", "judge") for n, p in available(kind).items()}
    assert load_presets()[preset]["preset"]["about"]
    for group, values in load_presets()[preset].items():
        if group == "preset":
            continue
        named = fnmatch.filter(factories, group)
        assert named or group in settings.GROUPS, group
        defaults = [factory_settings(name, factories[name].factory(), {}) for name in named]
        if group in settings.GROUPS:
            defaults.append(Settings().group(group))
        for key, value in values.items():
            assert all(type(value) is type(of[key]) for of in defaults), f"{group}.{key}"
    make_settings(preset, {}, frozenset(factories))


def test_a_presets_values_replace_the_defaults() -> None:
    made = make_settings("small", {}, PLUGINS)
    preset = load_presets()["small"]
    for group, values in preset.items():
        if group in settings.GROUPS:
            assert made.group(group) == {**Settings().group(group), **values}
    patterns = {name: next(p for p in preset if fnmatch.fnmatch(name, p)) for name in PLUGINS}
    assert made.plugins == {name: preset[pattern] for name, pattern in patterns.items()}
    assert make_settings("tiny", {}, frozenset()) == Settings()


def test_assignments_override_the_preset() -> None:
    made = make_settings("small", {"ppo": {"lr": "2e-4", "kl": "0"}, "scalar": {"lr": "0.5"}}, PLUGINS)
    assert (made.ppo.lr, made.ppo.kl) == (2e-4, 0.0)
    assert made.ppo.iterations == load_presets()["small"]["ppo"]["iterations"]
    assert made.plugins["scalar"]["lr"] == "0.5", "parsed later, against the factory"
    assert made.plugins["scalar"]["batch"] == load_presets()["small"]["scalar*"]["batch"]


def test_a_pattern_sets_every_plugin_it_fits_and_must_fit_one() -> None:
    made = make_settings("tiny", {"s*": {"batch": "8"}, "scalar": {"lr": "1"}}, frozenset({"scalar", "seq2seq-token"}))
    own = load_presets()["tiny"]["scalar*"]
    assert made.plugins == {"scalar": {**own, "batch": "8", "lr": "1"}, "seq2seq-token": {"batch": "8"}}
    assert "'x*'" in refusal(lambda: make_settings("tiny", {"x*": {"batch": "8"}}, PLUGINS))


def test_the_defaults_pass_the_checks() -> None:
    for group in settings.GROUPS:
        given = {key: str(value) for key, value in Settings().group(group).items()}
        assert make(**{group: given}).group(group) == Settings().group(group)
    names = {f"{one.group}.{one.key}" for one in describe_settings()}
    assert names >= ABOVE_ZERO | FRACTIONS | CHOICES.keys(), "a checked name must exist"


# --- what is refused


def test_unknown_names_get_a_hint() -> None:
    assert "Did you mean 'small'?" in refusal(lambda: make_settings("smal", {}, PLUGINS))
    assert "Did you mean 'ppo'?" in refusal(lambda: make(pp0={"lr": "1"}))
    assert "Did you mean 'scalar'?" in refusal(lambda: make(scaler={"lr": "1"}))
    message = refusal(lambda: make(ppo={"iteration": "1"}))
    assert "Unknown setting ppo.iteration" in message
    assert "Did you mean 'iterations'?" in message


@pytest.mark.parametrize(
    ("group", "key", "text"),
    [
        ("ppo", "iterations", "many"),
        ("ppo", "iterations", "1.5"),
        ("ppo", "iterations", "1e3"),
        ("ppo", "iterations", ""),
        ("ppo", "lr", "fast"),
        ("ppo", "lr", "1,5"),
        ("ppo", "whiten", "maybe"),
        ("ppo", "whiten", "2"),
        ("eval", "greedy", ""),
        ("ppo", "iterations", "9" * 5000),
    ],
)
def test_a_wrong_type_is_refused(group: str, key: str, text: str) -> None:
    assert f"{group}.{key}" in refusal(lambda: make(**{group: {key: text}}))


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["ppo.lr", "ppo.kl", "ppo.gamma", "stats.level"])
def test_what_is_not_finite_is_refused(name: str, text: str) -> None:
    group, key = name.split(".")
    assert name in refusal(lambda: make(**{group: {key: text}}))


@pytest.mark.parametrize("name", sorted(ABOVE_ZERO))
def test_what_must_be_above_zero_is(name: str) -> None:
    group, key = name.split(".")
    for text in ("0", "-1"):
        message = refusal(lambda text=text: make(**{group: {key: text}}))
        assert name in message
        assert "above 0" in message


@pytest.mark.parametrize("name", sorted(FRACTIONS))
def test_fractions_lie_between_zero_and_one(name: str) -> None:
    group, key = name.split(".")
    assert make(**{group: {key: "0.5"}}).group(group)[key] == 0.5
    for text in ("-0.1", "1.1"):
        assert "between 0 and 1" in refusal(lambda text=text: make(**{group: {key: text}}))


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_a_choice_is_one_of_those_listed(name: str) -> None:
    group, key = name.split(".")
    for text in CHOICES[name]:
        assert make(**{group: {key: text}}).group(group)[key] == text
    for text in ("", "other", CHOICES[name][0].upper()):
        message = refusal(lambda text=text: make(**{group: {key: text}}))
        assert message == f"{name} is {text!r}. It must be one of: {', '.join(CHOICES[name])}."


@pytest.mark.parametrize("text", ["0", "1"])
def test_a_level_of_all_or_nothing_is_refused(text: str) -> None:
    assert "stats.level" in refusal(lambda: make(stats={"level": text}))


def test_zero_is_allowed_where_nothing_else_is_said() -> None:
    for one in describe_settings():
        name, number = f"{one.group}.{one.key}", isinstance(one.default, int | float)
        if number and name not in ABOVE_ZERO and name != "stats.level":
            assert make(**{one.group: {one.key: "0"}}).group(one.group)[one.key] == 0, name


def test_nothing_is_negative() -> None:
    for group in settings.GROUPS:
        for key, value in Settings().group(group).items():
            if not isinstance(value, bool) and (not isinstance(value, str) or f"{group}.{key}" in CHOICES):
                assert f"{group}.{key}" in refusal(lambda group=group, key=key: make(**{group: {key: "-1"}}))


def test_a_presets_groups_of_plugins_outside_the_run_are_ignored() -> None:
    assert not make_settings("small", {}, frozenset()).plugins


def test_one_command_line_serves_runs_with_a_reward_model_each() -> None:
    given = {"scalar": {"lr": "0.01"}, "seq2seq-*": {"batch": "4"}, "ppo": {"kl": "0.1"}}
    one = make_settings("tiny", given, frozenset({"scalar"}))
    assert one.plugins == {"scalar": {**load_presets()["tiny"]["scalar*"], "lr": "0.01"}}
    assert unused_groups(given, {"scalar"}) == ("seq2seq-*",)
    assert unused_groups(given, {"seq2seq-token", "scalar"}) == ()
    # what is set aside is checked all the same
    assert "Unknown setting scalar.lrr" in refusal(lambda: unused_groups({"scalar": {"lrr": "1"}}, ()))
    assert "scalar.lr" in refusal(lambda: unused_groups({"scalar": {"lr": "2"}}, ()))
    # a needed setting without a default may be left out: nothing is made
    assert unused_groups({"hf": {"batch": "4"}}, ()) == ("hf",)


def test_a_group_that_fits_nothing_is_refused_with_what_is_near() -> None:
    for name in ("scaler", "sclaar*"):
        assert "Did you mean 'scalar" in refusal(lambda name=name: unused_groups({name: {"lr": "1"}}, ()))
    # a task or a judge computes a part of every arm
    assert "names a judge" in refusal(lambda: unused_groups({"winrate-llm": {"model": "x"}}, ()))
    assert "names a task" in refusal(lambda: unused_groups({"tldr": {"data": "x"}}, {"dialogsum"}))


# --- values


@given(st.integers())
def test_integers_round_trip(value: int) -> None:
    assert parse_value("x", str(value), int) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_round_trip(value: float) -> None:
    assert parse_value("x", repr(value), float) == value


@given(st.text())
def test_texts_are_taken_as_they_are(value: str) -> None:
    assert parse_value("x", value, str) == value


@given(st.text(max_size=6))
def test_any_text_is_a_number_or_refused(text: str) -> None:
    for kind in (int, float):
        try:
            value = parse_value("x", text, kind)
        except BenchError:
            continue
        assert type(value) is kind
        assert math.isfinite(value)


@pytest.mark.parametrize("kind", [True, False])
def test_truth_values(kind: bool) -> None:
    for text in ("true", "Yes", "1", "on") if kind else ("false", "NO", "0", "off"):
        assert parse_value("x", text, bool) is kind


# --- a plugin's own settings


def factory(count: int = 2, rate: float = 0.5, name: str = "a", strict: bool = True, extra: Any = None) -> None: ...


def test_a_plugins_settings_are_parsed_by_the_types_of_its_defaults() -> None:
    assert factory_settings("f", factory, {}) == {"count": 2, "rate": 0.5, "name": "a", "strict": True, "extra": None}
    texts = {"count": "3", "rate": "1", "name": "7", "strict": "no", "extra": "z"}
    values = factory_settings("f", factory, texts)
    assert values == {"count": 3, "rate": 1.0, "name": "7", "strict": False, "extra": "z"}
    assert [type(v) for v in values.values()] == [int, float, str, bool, str]


def test_a_presets_values_are_taken_as_they_are() -> None:
    assert factory_settings("f", factory, {"count": 5})["count"] == 5


@pytest.mark.parametrize(("key", "text"), [("count", "x"), ("count", "1.5"), ("rate", "nan"), ("strict", "maybe")])
def test_a_plugins_wrong_type_is_refused(key: str, text: str) -> None:
    assert f"f.{key}" in refusal(lambda: factory_settings("f", factory, {key: text}))


def test_a_plugins_unknown_key_gets_a_hint() -> None:
    assert "Did you mean 'count'?" in refusal(lambda: factory_settings("f", factory, {"cuont": "1"}))


def test_a_plugins_setting_without_default_must_be_given() -> None:
    def with_path(path: str, *, size: int = 1, **others: Any) -> None: ...

    assert "--set f.path=VALUE" in refusal(lambda: factory_settings("f", with_path, {}))
    assert factory_settings("f", with_path, {"path": "x"}) == {"path": "x", "size": 1}
    assert "others" in refusal(lambda: factory_settings("f", with_path, {"path": "x", "others": "1"}))


def test_the_seq2seq_arms_are_factories_with_settings() -> None:
    trained = {name: p for name, p in available("reward-model").items() if name.startswith(("seq2seq-", "scalar"))}
    assert len(trained) == 9
    for name, plugin in trained.items():
        values = factory_settings(name, plugin.factory(), {"lr": "0.25"})
        assert values["lr"] == 0.25
        assert plugin.factory()(**values)


def test_all_groups_are_frozen_records_with_plain_values() -> None:
    for field in fields(Settings):
        if field.name != "plugins":
            assert all(isinstance(v, int | float | bool | str) for v in Settings().group(field.name).values())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": -1.0}, "ppo.lr is -1.0. It must be a number above 0, at most 1."),
        ({"lr": "1"}, "ppo.lr is '1'. It must be a number above 0, at most 1."),
        ({"kl": math.nan}, "ppo.kl is nan. It must be a number, 0 or more."),
        ({"lam": 1.5}, "ppo.lam is 1.5. It must be a number between 0 and 1."),
        ({"iterations": 2.0}, "ppo.iterations is 2.0. It must be a whole number above 0."),
        ({"iterations": True}, "ppo.iterations is True. It must be a whole number above 0."),
        ({"whiten": 1}, "ppo.whiten is 1. It must be true or false."),
        ({"engine": "other"}, "ppo.engine is 'other'. It must be one of: own, vllm."),
    ],
)
def test_a_group_is_checked_wherever_it_is_made(given: dict[str, Any], said: str) -> None:
    assert refusal(lambda: PPOSettings(**given)) == said
    assert refusal(lambda: replace(PPOSettings(), **given)) == said


def test_a_group_refuses_an_unknown_key_with_a_hint() -> None:
    assert "Did you mean 'iterations'?" in refusal(lambda: PPOSettings(iteration=3))  # type: ignore[call-arg]


def test_a_group_is_a_frozen_dataclass() -> None:
    made = PPOSettings(kl=0)
    with pytest.raises(FrozenInstanceError):
        made.kl = 1.0  # type: ignore[misc]
    assert repr(asdict(made)["kl"]) == "0.0", "a float, as from --set: it enters the keys of results"
    assert made == replace(PPOSettings(), kl=0.0)
    assert hash(made) == hash(replace(made))


def test_every_setting_is_described() -> None:
    described = list(describe_settings())
    values = {f"{g}.{key}": v for g in settings.GROUPS for key, v in Settings().group(g).items()}
    assert {f"{one.group}.{one.key}": one.default for one in described} == values
    for one in described:
        assert one.description.endswith("."), one
        assert "\n" not in one.description
        assert one.allowed


@pytest.mark.parametrize("modules", ["harness.cli.main", "harness.cli.main, rlhf_bench.harness.cli.report"])
def test_the_help_and_a_report_do_not_wait_for_pydantic(modules: str) -> None:
    code = f"import sys, rlhf_bench.{modules}; assert 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["top_p", "top_k", "min_p"])
def test_rollouts_are_drawn_from_the_whole_distribution(name: str) -> None:
    said = refusal(lambda: make(ppo={name: "0.9"}))
    assert said.startswith(f"ppo.{name}: rollouts are drawn from the policy's whole distribution")
    assert "ratio and KL" in said
    assert "eval.top_p" in said
    assert make(eval={"top_p": "0.9", "temperature": "0.7"}).eval.top_p == 0.9
    assert "eval.top_p is 0.0" in refusal(lambda: make(eval={"top_p": "0"}))
