"""Settings: every key of a preset exists, and whatever is wrong is refused with a hint."""

from __future__ import annotations

import fnmatch
import math
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_bench.harness import presets, settings
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plugins import available
from rlhf_bench.harness.presets import factory_settings, load_presets, make_settings, parse_value
from rlhf_bench.harness.settings import Settings

PLUGINS = frozenset({"scalar", "seq2seq-token"})


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
            if group in settings.GROUPS:
                presets._check(f"{group}.{key}", value)


def test_presets_are_taken_over() -> None:
    made = make_settings("small", {}, PLUGINS)
    preset = load_presets()["small"]
    for group, values in preset.items():
        if group in settings.GROUPS:
            assert made.group(group) == {**Settings().group(group), **values}
    patterns = {name: next(p for p in preset if fnmatch.fnmatch(name, p)) for name in PLUGINS}
    assert made.plugins == {name: preset[pattern] for name, pattern in patterns.items()}
    assert make_settings("tiny", {}, frozenset()) == Settings()


def test_assignments_win_over_the_preset() -> None:
    made = make_settings("small", {"ppo": {"lr": "2e-4", "kl": "0"}, "scalar": {"lr": "0.5"}}, PLUGINS)
    assert (made.ppo.lr, made.ppo.kl) == (2e-4, 0.0)
    assert made.ppo.iterations == load_presets()["small"]["ppo"]["iterations"]
    assert made.plugins["scalar"]["lr"] == "0.5", "parsed later, against the factory"
    assert made.plugins["scalar"]["batch"] == load_presets()["small"]["scalar*"]["batch"]


def test_a_pattern_sets_every_plugin_it_fits_and_must_fit_one() -> None:
    made = make_settings("tiny", {"s*": {"batch": "8"}, "scalar": {"lr": "1"}}, frozenset({"scalar", "seq2seq-token"}))
    assert made.plugins == {"scalar": {"batch": "8", "lr": "1"}, "seq2seq-token": {"batch": "8"}}
    assert "'x*'" in refusal(lambda: make_settings("tiny", {"x*": {"batch": "8"}}, PLUGINS))


def test_the_defaults_pass_the_checks() -> None:
    names = set()
    for group in settings.GROUPS:
        for key, value in Settings().group(group).items():
            names.add(f"{group}.{key}")
            assert presets._check(f"{group}.{key}", value) == value
    assert names >= presets.POSITIVE | presets.FRACTIONS, "a checked name must exist"


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


@pytest.mark.parametrize("name", sorted(presets.POSITIVE))
def test_what_must_be_above_zero_is(name: str) -> None:
    group, key = name.split(".")
    for text in ("0", "-1"):
        message = refusal(lambda text=text: make(**{group: {key: text}}))
        assert name in message
        assert "above 0" in message


@pytest.mark.parametrize("name", sorted(presets.FRACTIONS))
def test_fractions_lie_between_zero_and_one(name: str) -> None:
    group, key = name.split(".")
    assert make(**{group: {key: "0.5"}}).group(group)[key] == 0.5
    for text in ("-0.1", "1.1"):
        assert "between 0 and 1" in refusal(lambda text=text: make(**{group: {key: text}}))


def test_nothing_is_negative() -> None:
    for group in settings.GROUPS:
        for key, value in Settings().group(group).items():
            if not isinstance(value, bool) and (not isinstance(value, str) or f"{group}.{key}" in presets.CHOICES):
                assert f"{group}.{key}" in refusal(lambda group=group, key=key: make(**{group: {key: "-1"}}))


def test_plugins_of_other_runs_are_left_alone() -> None:
    assert not make_settings("small", {}, frozenset()).plugins
    assert "Unknown settings group 'scalar'" in refusal(lambda: make_settings("tiny", {"scalar": {}}, frozenset()))


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
    def needy(path: str, *, size: int = 1, **others: Any) -> None: ...

    assert "--set f.path=VALUE" in refusal(lambda: factory_settings("f", needy, {}))
    assert factory_settings("f", needy, {"path": "x"}) == {"path": "x", "size": 1}
    assert "others" in refusal(lambda: factory_settings("f", needy, {"path": "x", "others": "1"}))


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
