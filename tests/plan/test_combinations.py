"""Combinations of reward models in plans: their names, whose stages they share, and what is refused before anything."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from small import settings

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline.stage import Stage
from rlhf_bench.harness.plan.combination_names import PLUGIN, is_combination, names_of, parse
from rlhf_bench.harness.plan.request import Plan, Request, make_plan
from rlhf_bench.harness.presets import parse_assignments

# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mean(scalar,seq2seq-token)", "mean(scalar,seq2seq-token)"),
        (" min( scalar*3 , length-only ) ", "min(scalar*3,length-only)"),
        ("wsum(scalar:1,m:f:.30,length-only:-1e-2)", "wsum(scalar:1,m:f:0.3,length-only:-0.01)"),
        ("wsum(a:0.12345678901,b:0)", "wsum(a:0.12345678901,b:0)"),
        ("wsum(a:1,b:-0)", "wsum(a:1,b:0)"),
        ("uwo(scalar*5:.1)", "uwo(scalar*5:0.1)"),
        ("mean(hf:org/name@rev,path:/a (b)/c)", "mean(hf:org/name@rev,path:/a (b)/c)"),
    ],
)
def test_a_combination_has_one_spelling(text: str, name: str) -> None:
    assert parse(text).text() == name
    assert parse(name).text() == name


def test_members_are_what_a_name_names() -> None:
    assert names_of("wsum(hf:org/name:1,m:f:.3)") == ["hf:org/name", "m:f"]
    assert names_of("uwo(scalar*5:.1)") == ["scalar"]
    for plain in ("scalar", "hf:/models (old)/rm", "path:/x(1)", "m:f"):
        assert not is_combination(plain)
        assert names_of(plain) == [plain]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("maen(a,b)", "Unknown function 'maen' in --rm 'maen(a,b)'. Did you mean 'mean'?"),
        ("(a,b)", "Unknown function ''"),
        ("mean(a,b", "has no closing parenthesis"),
        ("mean(a,b)x", "has no closing parenthesis at its end"),
        ("mean a,b)", "has no opening parenthesis"),
        ("mean(a,b))", "has a parenthesis too many"),
        ("mean(min(a,b),c)", "has min(...) inside of mean(...)"),
        ("mean(a, foo(b))", "has foo(...) inside of mean(...)"),
        ("mean()", "has an empty member"),
        ("mean(a,,b)", "has an empty member"),
        ("mean(a)", "has one member, 'a'. Write --rm a for it."),
        ("wsum(a:1)", "has one member"),
        ("mean(a,b,a)", "has 'a' twice. For several trainings of it: mean(a*2)."),
        ("mean(a*2,a)", "has 'a' twice"),
        ("wsum(a:1,a:2)", "has 'a' twice. Add up its weights."),
        ("wsum(a:1,b)", "'b' has no weight. Write b:WEIGHT"),
        ("wsum(hf:x/y,b:1)", "'hf:x/y' has no weight"),
        ("wsum(a:1,b:)", "'b:' has no weight"),
        ("wsum(a:nan,b:1)", "the weight of a is nan, no finite number"),
        ("wsum(a:1,b:-inf)", "the weight of b is -inf, no finite number"),
        ("wsum(a:1,b:1e999)", "the weight of b is 1e999, no finite number"),
        ("wsum(a:0,b:0)", "has no weight but 0"),
        ("wsum(a*2:1,b:1)", "has the ensemble a*2 inside of wsum(...)"),
        ("uwo(a,b:.1)", "has 2 members; uwo takes one ensemble"),
        ("uwo(a*3)", "has no coefficient"),
        ("uwo(a:.1)", "has one member, which has no variance"),
        ("uwo(a*3:-.1)", "the coefficient is below 0"),
        ("uwo(a*3:inf)", "the coefficient is inf, no finite number"),
        ("mean(a*x,b)", "'a*x' is no ensemble"),
        ("mean(a*1,b)", "'a*1' is no ensemble"),
        ("mean(a*33)", "has 33 members. At most 32"),
    ],
)
def test_a_wrong_name_is_one_line(text: str, said: str) -> None:
    with pytest.raises(BenchError) as error:
        parse(text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_same_folder_twice_is_seen_in_any_spelling(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rm").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match="twice"):
        parse(f"mean(hf:./rm,hf:{tmp_path}/rm)")


# ---- plans ----------------------------------------------------------------------------------------------------------


def plan(*rms: str, seeds: tuple[int, ...] = (0,), sets: tuple[str, ...] = (), **more: Any) -> Plan:
    texts = [text for text in settings(()) if text != "--set"]
    given = parse_assignments((*texts, *sets))
    return make_plan(Request("dialogsum", rms, seeds, "tiny", (), given, **more))


def count(made: Plan) -> Counter[str]:
    return Counter(stage.kind for stage in made.order)


def stage(made: Plan, kind: str, label: str) -> Stage:
    (found,) = [one for one in made.order if one.kind == kind and label in one.label]
    return found


def test_nothing_is_trained_twice() -> None:
    everything = plan("scalar", "seq2seq-token", "mean(scalar,seq2seq-token)", "wsum(scalar:1,length-only:-.01)")
    assert count(everything)["reward"] == 2
    assert count(everything)["scale"] == 5  # three members, and the two combinations
    alone = plan("mean(scalar,seq2seq-token)")
    assert {one.key for one in alone.order if one.kind == "reward"} == {
        one.key for one in everything.order if one.kind == "reward"
    }


def test_an_ensemble_trains_one_recipe_from_several_seeds() -> None:
    made = plan("scalar", "mean(scalar*2)", "uwo(scalar*3:.1)", "min(scalar-uniform*2,length-only)")
    trained = [one for one in made.order if one.kind == "reward"]
    assert len(trained) == 3  # of the largest; scalar-uniform has the recipe of scalar
    assert len({one.params["seed"] for one in trained}) == 3
    assert len({one.seedless_key for one in trained}) == 1
    assert {one.inputs["sft"].key for one in trained} == {made.cells[0].stages["sft"].key}
    (plain,) = [cell for cell in made.cells if cell.reward_model == "scalar"]
    for cell in made.cells:
        if "part0" in cell.stages:
            assert cell.stages["part0"].key == plain.stages["reward"].key


def test_members_have_the_stages_of_plain_arms_under_reward_seeds_and_gold() -> None:
    for more in ({"reward_seeds": (0, 1), "seeds": (0, 1)}, {"gold": "scalar@half", "relabel": True}):
        both = plan("scalar", "mean(scalar,length-only)", **more)
        assert count(both)["reward"] == count(plan("scalar", **more))["reward"]
        assert count(plan("scalar", "length-only", **more))["scale"] == count(both)["scale"] - len(both.cells) // 2


def test_seeds_of_a_combination_are_one_arm() -> None:
    made = plan("uwo(scalar*3:.1)", "mean(scalar,length-only)", seeds=(0, 1, 2))
    assert len({cell.arm for cell in made.cells}) == 2
    assert len({cell.name for cell in made.cells}) == 6
    trained = [one.params["seed"] for one in made.order if one.kind == "reward"]
    assert len(set(trained)) == len(trained) == 9


def test_a_member_is_standardised_whatever_the_run_asks_for() -> None:
    usual, other = plan("mean(scalar,copier)"), plan("mean(scalar,copier)", sets=("ppo.centre=token",))
    assert stage(usual, "combined", "").key == stage(other, "combined", "").key
    assert stage(usual, "scale", "mean_").key != stage(other, "scale", "mean_").key


def test_keys_change_with_what_is_paid_and_with_nothing_else() -> None:
    def key(rm: str, *sets: str) -> str:
        return plan(rm, sets=sets).cells[0].key

    first = key("wsum(scalar:1,length-only:.5)")
    assert key(" wsum( scalar:1.0, length-only:5e-1 )") == first
    others = [
        key("wsum(scalar:1,length-only:.4)"),
        key("wsum(scalar:.5,length-only:1)"),
        key("mean(scalar,length-only)"),
        key("min(scalar,length-only)"),
        key("wsum(scalar:1,length-only:.5)", "scalar.epochs=1"),
        key("wsum(scalar:1,length-only:.5)", "length-only.per_token=true"),
    ]
    assert len({first, *others}) == 7
    assert len({key("uwo(scalar*3:.1)"), key("uwo(scalar*3:.2)"), key("uwo(scalar*4:.1)"), key("mean(scalar*3)")}) == 4


def test_a_combination_changes_no_key_of_the_arms_beside_it() -> None:
    alone, beside = plan("scalar", "length-only"), plan("scalar", "length-only", "mean(scalar,length-only)")
    assert {one.key for one in alone.order} <= {one.key for one in beside.order}


def test_labels_are_readable_and_safe_as_names_of_files() -> None:
    made = plan("wsum(scalar:1,length-only:-.01)")
    (cell,) = made.cells
    assert cell.reward_model == "wsum(scalar:1,length-only:-0.01)"
    for one in made.order:
        assert not set(one.label) & set("()*:,/ ")


@pytest.mark.parametrize("optimizer", ["ppo", "best-of-n", "dpo", "sft-chosen"])
def test_every_optimiser_plans_a_combination(optimizer: str) -> None:
    made = plan("mean(scalar,whitebox)", optimizers=(optimizer,), n="1,2" if optimizer == "best-of-n" else None)
    assert made.cells[0].stages["scale"].inputs["reward"].kind == "combined"


@pytest.mark.parametrize(
    ("rm", "more", "said"),
    [
        ("mean(scaler,gold)", {}, "Unknown reward-model 'scaler'. Did you mean 'scalar'?"),
        ("mean(scalar,nowhere_at_all:f)", {}, "There is no module 'nowhere_at_all'"),
        ("uwo(length-only*2:.1)", {}, "length-only is not trained"),
        (PLUGIN, {}, "does not say what is combined"),
        (f"mean({PLUGIN},scalar)", {}, "does not say what is combined"),
        ("mean(scalar,gold)", {"gold": "scalar@half"}, "of which a member pays the true utility"),
        ("scalar", {"gold": "mean(scalar,whitebox)@half"}, "cannot be the gold model"),
        ("mean(scalar,length-only)", {"sets": ("scalar.epochz=1",)}, "Unknown setting scalar.epochz"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_one_line(rm: str, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError) as error:
        plan(rm, **more)
    assert said in str(error.value)


def test_settings_of_a_member_are_not_called_unused() -> None:
    made = plan("mean(scalar,length-only)", sets=("scalar.epochs=1", "length-only.per_token=true"))
    assert not made.unused
    assert made.cells[0].stages["part0"].params["settings"]["epochs"] == 1
