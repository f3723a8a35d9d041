"""The PPO loop: its golden trajectory, what is equal for all arms, what stops it, its schedules.

`python tests/ppo/test_loop.py --write` writes golden/ppo.json anew; only for an intended change of the arithmetic.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ppo_runs import EXAMPLES, SMALL, THIRDS, Table, assert_equal, make_policy, make_run, tensors
from tiny import by_hand
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward import passes
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.ppo import arithmetic
from rlhf_bench.harness.ppo import update as update_module
from rlhf_bench.harness.ppo.actors import Critic, make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.log import describe
from rlhf_bench.harness.ppo.loop import collect, train
from rlhf_bench.harness.ppo.run import checkpoints, prompts_of
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.ppo.update import update
from rlhf_bench.harness.settings import PPOSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "ppo.json"


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


# --- the golden trajectory


def golden_rows(policy: Path, scratch: Path) -> list[dict[str, float]]:
    return train(make_run(policy, scratch, replace(SMALL, iterations=3)))


def test_the_golden_trajectory(policy: Path, tmp_path: Path) -> None:
    rows, golden = golden_rows(policy, tmp_path), json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert [sorted(row) for row in rows] == [sorted(row) for row in golden]
    for row, expected in zip(rows, golden, strict=True):
        assert row == pytest.approx(expected, rel=1e-4, abs=1e-4)


# --- equal for all arms


def test_all_arms_start_alike(policy: Path, tmp_path: Path) -> None:
    """Same critic, same prompts and same first responses, whatever the reward and the global random state."""
    one = make_run(policy, tmp_path)
    torch.manual_seed(99)
    two = make_run(policy, tmp_path, table=-THIRDS)
    assert_equal(dict(one.actors.critic.state_dict()), dict(two.actors.critic.state_dict()))
    for module in (one.actors.policy, one.actors.reference):
        assert_equal(dict(module.state_dict()), dict(two.actors.policy.state_dict()))
    first, second = collect(one, 0), collect(two, 0)
    assert first.rollout.prompts == second.rollout.prompts
    assert torch.equal(first.rollout.response_ids, second.rollout.response_ids)
    assert torch.equal(first.rewards, -second.rewards)
    assert not first.values.any()
    torch.testing.assert_close(first.logprobs, first.reference, rtol=0, atol=1e-5)  # drawn with a cache, read without


def test_the_first_minibatch_has_ratio_one(policy: Path, tmp_path: Path) -> None:
    for settings in (
        replace(SMALL, whiten=False, epochs=1, minibatches=1, gamma=0.9),
        replace(SMALL, epochs=1, minibatches=1),
    ):
        run = make_run(policy, tmp_path, settings)
        experience = collect(run, 0)
        mask = experience.rollout.mask
        losses = update(run, experience, 0)
        assert losses["policy_loss"] == pytest.approx(-float(experience.advantages[mask].mean()), abs=1e-5)
        assert losses["clip_share"] == 0.0
        assert losses["value_loss"] == pytest.approx(float(experience.returns[mask].square().mean()) / 2, rel=1e-4)


def test_rewards_are_divided_by_the_scale(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path / "a", table=THIRDS)
    louder = make_run(policy, tmp_path / "b", table=THIRDS * 4, standard=Standard(run.standard.scale * 4))
    for one, two in zip(train(run), train(louder), strict=True):
        assert two.pop("reward") == pytest.approx(4 * one.pop("reward"))
        assert one == two
    assert_equal(tensors(run.actors), tensors(louder.actors))


class Shifted:
    """The table's rewards plus a constant on the last token."""

    def __init__(self, constant: float) -> None:
        self.constant = constant

    def rewards(self, rollout: Rollout) -> Tensor:
        return Table(THIRDS).rewards(rollout) + self.constant * arithmetic.last_tokens(rollout.mask)


def test_a_constant_added_to_a_reward_changes_nothing(policy: Path, tmp_path: Path) -> None:
    """A Bradley-Terry score has no zero: what its SFT samples have on average is taken off every response."""
    runs = []
    for constant in (0.0, 32.0):
        scorer = NamedRewardModel("shifted", Shifted(constant))
        run = make_run(policy, tmp_path / str(constant), reward_model=scorer)
        mean = float(collect(run, 0).rewards.sum(1).mean())
        run = replace(run, standard=Standard(2.0, mean))
        runs.append((train(run), tensors(run.actors)))
    (rows, weights), (shifted_rows, shifted_weights) = runs
    for one, two in zip(rows, shifted_rows, strict=True):
        assert two.pop("reward") == pytest.approx(one.pop("reward") + 32)
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)  # sums near 32 are rounded otherwise
    for name, value in weights.items():
        torch.testing.assert_close(shifted_weights[name], value, rtol=1e-2, atol=1e-3)


def test_a_response_without_its_end_pays(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path, replace(SMALL, gamma=1.0, lam=1.0))
    tokenizer = run.actors.tokenizer
    drawn = by_hand(tokenizer, [[40], [41, 42], [43]], [[70, tokenizer.eos_token_id], [71, 72, 73], [74]])
    run = replace(run, sampler=lambda *_, **__: drawn)
    fined = replace(run, settings=replace(run.settings, missing_eos_penalty=0.75))
    one, two = collect(run, 0), collect(fined, 0)
    cut = ~drawn.finished
    assert cut.tolist() == [False, True, True]
    torch.testing.assert_close(one.returns - two.returns, 0.75 * cut[:, None] * one.rollout.mask)


def test_the_coefficient_follows_the_target(policy: Path, tmp_path: Path) -> None:
    """Also over an interruption: it is read from the rows of the log."""
    settings = replace(SMALL, iterations=6, kl=0.2, kl_target=0.05)
    rows = train(make_run(policy, tmp_path / "whole", settings))
    expected = settings.kl
    for row in rows:
        assert row["kl_coefficient"] == expected
        expected = arithmetic.adapted_coefficient(expected, row["kl"], settings.kl_target)
    assert len({row["kl_coefficient"] for row in rows}) > 1
    part = make_run(policy, tmp_path / "parts", settings)

    def stop(done: int, _: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(replace(part, progress=stop))
    assert train(make_run(policy, tmp_path / "parts", settings)) == rows


def test_micro_batches_do_not_matter(policy: Path, tmp_path: Path) -> None:
    whole, parts = (train(make_run(policy, tmp_path / str(size), replace(SMALL, micro_batch=size))) for size in (64, 1))
    for one, two in zip(whole, parts, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


def test_every_seed_and_iteration_draws_anew(policy: Path, tmp_path: Path) -> None:
    runs = [make_run(policy, tmp_path, seed=seed, examples=EXAMPLES[:1]) for seed in (1, 2)]
    drawn = {collect(run, iteration).rollout.responses for run in runs for iteration in (0, 1)}
    assert len(drawn) == 4


def test_the_critics_target_is_the_return(policy: Path, tmp_path: Path) -> None:
    """Undiscounted: the scaled reward to go less the KL to go, whatever the critic and whitening do."""
    run = make_run(policy, tmp_path, replace(SMALL, gamma=1.0, lam=1.0))
    train(replace(run, settings=replace(run.settings, iterations=1)))
    experience = collect(run, 1)
    assert experience.values.any()
    mask = experience.rollout.mask
    shaped = experience.rewards / run.standard.scale - SMALL.kl * (experience.logprobs - experience.reference)
    to_go = (shaped * mask).flip(1).cumsum(1).flip(1) * mask
    torch.testing.assert_close(experience.returns, to_go, rtol=1e-4, atol=1e-4)
    assert abs(float(experience.advantages[mask].mean())) < 1e-5
    assert float(experience.advantages[mask].std()) == pytest.approx(1, abs=1e-3)


def test_rates_fall_to_zero_after_the_last_iteration(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path, replace(SMALL, iterations=4, lr_schedule="linear"))
    optimizers = (run.actors.policy_optimizer, run.actors.critic_optimizer)
    for iteration, share in enumerate((1.0, 0.75, 0.5, 0.25)):
        update(run, collect(run, iteration), iteration)
        rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
        assert rates == pytest.approx([SMALL.lr * share, SMALL.critic_lr * share])


def test_the_reference_stays_what_it_was(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    train(run)
    assert_equal(dict(run.actors.reference.state_dict()), dict(make_actors(policy, "cpu", 1, 1).reference.state_dict()))


def test_a_value_is_that_of_the_tokens_before(policy: Path) -> None:
    """V(x, y_<t): it sees neither its own token nor what comes later, nor padding, nor other rows."""
    actors = make_actors(policy, "cpu", 1e-3, 1e-3)
    critic: Critic = actors.critic
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    prompts, responses = [[40, 41, 42], [50], [60, 61]], [[70, 71, 72, 1], [73], [74, 75]]
    rollout = by_hand(actors.tokenizer, prompts, responses, extra_left=2, extra_right=1)
    with torch.no_grad():
        values = critic(rollout)
        assert not values[~rollout.mask].any()
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            for t in range(len(response)):
                ids = torch.tensor([[*prompt, *response[:t]]])
                state = critic.trunk(input_ids=ids).last_hidden_state[0, -1]
                expected = critic.head((state - state.mean()) / (state.var(correction=0) + 1e-5).sqrt())
                torch.testing.assert_close(values[row, t], expected[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_a_critic_learns_as_fast_from_small_states(policy: Path, shared: bool) -> None:
    """A policy's last norm may be as small as its logits need: it must not decide how fast values can move."""
    actors = make_actors(policy, "cpu", 1e-3, 1e-3, shared=shared)
    rollout = by_hand(actors.tokenizer, [[40, 41], [50]], [[70, 71, 72], [73]])
    torch.nn.init.normal_(actors.critic.head.weight, generator=torch.Generator().manual_seed(0))
    trunk = actors.policy.base_model if shared else actors.critic.trunk
    with torch.no_grad():
        before = actors.critic(rollout)
        trunk.ln_f.weight.mul_(0.1)
        trunk.ln_f.bias.mul_(0.1)
        torch.testing.assert_close(actors.critic(rollout), before, rtol=0.05, atol=0.05)


def test_a_row_of_the_log_says_what_happened(policy: Path, tmp_path: Path) -> None:
    run = make_run(policy, tmp_path)
    train(replace(run, settings=replace(SMALL, iterations=2)))
    experience = collect(run, 5)
    end = run.actors.tokenizer.eos_token_id
    hand = by_hand(
        run.actors.tokenizer, [[40]] * 4, [[end], [70, 71, end], [72] * 6, [32, end]]
    )  # nothing, "DE".., " "
    shape = hand.mask.shape
    experience = experience._replace(
        rollout=hand,
        rewards=torch.full(shape, 0.5) * hand.mask,
        logprobs=torch.full(shape, -1.0) * hand.mask,
        reference=torch.full(shape, -3.0) * hand.mask,
        values=torch.zeros(shape),
        returns=torch.ones(shape) * hand.mask,
    )
    row = describe(run, experience)
    assert row["reward"] == pytest.approx(0.5 * 12 / 4)
    assert row["reward_scaled"] == pytest.approx(row["reward"] / run.standard.scale)
    assert row["kl"] == pytest.approx(2.0 * 12 / 4)
    assert row["entropy_estimate"] == pytest.approx(1.0)
    assert row["tokens"] == pytest.approx((0 + 2 + 6 + 1) / 4)
    assert row["truncated_share"] == 0.25
    assert row["empty_share"] == sum(not text.strip() for text in hand.responses) / 4 >= 0.25
    assert row["explained_variance"] == 0.0


# --- what goes wrong


def test_rewards_that_are_not_a_number_stop_the_run(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"'table' returned \d+ rewards that are NaN"):
        train(make_run(policy, tmp_path, table=THIRDS * float("nan")))


def unchecked(settings: PPOSettings, **values: float) -> PPOSettings:
    """Settings with values that are refused: what a run meets when its numbers overflow for another reason."""
    made = replace(settings)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize("rates", [{"lr": 1e30}, {"critic_lr": 1e30}, {"lr": 1e30, "critic_lr": 1e30}])
def test_a_run_that_diverges_is_stopped(policy: Path, tmp_path: Path, rates: dict[str, float]) -> None:
    run = make_run(policy, tmp_path, unchecked(SMALL, **rates))
    with pytest.raises(BenchError, match=r"diverged at iteration \d.*'table', seed 7.*Lower ppo\.lr"):
        train(run)


def test_a_policy_that_the_last_update_broke_is_not_evaluated(policy: Path, tmp_path: Path) -> None:
    """No later rollout would show it."""
    evaluated: list[int] = []
    settings = unchecked(replace(SMALL, iterations=1, epochs=1, minibatches=1), lr=1e30)
    with pytest.raises(BenchError, match="diverged"):
        train(make_run(policy, tmp_path, settings, evaluate=evaluated.append))
    assert evaluated == []


# --- schedules


@given(st.integers(1, 500), st.integers(1, 40))
def test_checkpoints_are_evenly_spread_and_end_with_the_last(iterations: int, count: int) -> None:
    stops = checkpoints(PPOSettings(iterations=iterations, checkpoints=count))
    assert stops == sorted(set(stops))
    assert len(stops) == min(count, iterations)
    assert stops[0] >= 1
    assert stops[-1] == iterations
    gaps = [b - a for a, b in zip([0, *stops], stops, strict=False)]
    assert max(gaps) - min(gaps) <= 2
    ideal = [iterations * (i + 1) / len(stops) for i in range(len(stops))]
    assert all(abs(stop - point) <= 0.5 for stop, point in zip(stops, ideal, strict=True))


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4))
def test_each_prompt_stands_several_times_in_a_row(prompts: int, count: int, samples: int) -> None:
    examples = [Example(str(i), f"prompt {i}") for i in range(prompts)]

    def drawn(samples: int) -> list[str]:
        settings = PPOSettings(rollouts=count * samples, samples=samples)
        run: Any = type("Run", (), {"settings": settings, "examples": examples, "seed": 0})
        return prompts_of(run, 3)

    assert drawn(samples) == [prompt for prompt in drawn(1) for _ in range(samples)]


def test_shared_prompts_change_no_number(policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a whole run with four responses to a prompt, beyond rounding: the same, every row read by itself."""
    settings = replace(SMALL, iterations=2, samples=4, minibatches=2, micro_batch=4)
    shared = train(make_run(policy, tmp_path / "shared", settings))
    monkeypatch.setattr(passes, "supports_packing", lambda _: False)
    for one, two in zip(shared, train(make_run(policy, tmp_path / "whole", settings)), strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


def test_the_responses_to_a_prompt_stay_in_one_minibatch(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(policy, tmp_path, replace(SMALL, samples=2, epochs=3))
    seen: list[list[int]] = []
    monkeypatch.setattr(update_module, "policy_step", lambda _, __, index, ___: seen.append(index.tolist()) or {})
    monkeypatch.setattr(update_module, "critic_step", lambda *_: {"value_loss": 0.0})
    update(run, collect(run, 0), 0)
    assert len(seen) == 3 * SMALL.minibatches
    for index in seen:
        assert len(index) == SMALL.rollouts // SMALL.minibatches
        assert [row // 2 for row in index[::2]] == [row // 2 for row in index[1::2]]
    assert sorted(seen[0] + seen[1]) == list(range(SMALL.rollouts))
    assert seen[:2] != seen[2:4]


@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_every_epoch_covers_every_prompt_once(prompts: int, rollouts: int, seed: int) -> None:
    examples = [Example(str(i), f"prompt {i}") for i in range(prompts)]
    run: Any = type(
        "Run", (), {"settings": PPOSettings(rollouts=rollouts, samples=1), "examples": examples, "seed": seed}
    )
    stream = [p for iteration in range(3 * prompts) for p in prompts_of(run, iteration)]
    for start in range(0, len(stream) - prompts + 1, prompts):
        assert Counter(stream[start : start + prompts]) == Counter(e.prompt for e in examples)
    assert prompts_of(run, 2) == stream[2 * rollouts : 3 * rollouts], "a pure function of the iteration"


def test_the_order_changes_with_epoch_and_seed() -> None:
    examples = [Example(str(i), f"prompt {i}") for i in range(30)]

    def order(seed: int, iteration: int) -> list[str]:
        run: Any = type(
            "Run", (), {"settings": PPOSettings(rollouts=30, samples=1), "examples": examples, "seed": seed}
        )
        return prompts_of(run, iteration)

    assert len({tuple(order(*at)) for at in [(0, 0), (0, 1), (1, 0), (1, 1)]}) == 4


def write_golden() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = golden_rows(make_policy(Path(folder)), Path(folder) / "scratch")
    GOLDEN.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__" and sys.argv[1:] == ["--write"]:
    write_golden()
