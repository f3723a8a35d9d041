"""Seeds of runs in layers: their order, their names, and that no two runs start from one number."""

from __future__ import annotations

from hashlib import sha256

from rlhf_bench.harness.seeds import (
    RunSeed,
    derived_seed,
    grid,
    joined,
    layers_asked,
    layers_of,
    make_seed,
    named,
    of_reward,
    run_name,
    shown,
    tag,
    training_seed,
)


def test_the_grid_is_full_and_without_layers_it_is_the_seeds_themselves() -> None:
    assert grid((3, 1)) == (3, 1)
    runs = grid((0, 1, 2), (5, 6), (0, 1))
    assert len(runs) == 12
    assert runs[:4] == (RunSeed(0, 5, 0), RunSeed(1, 5, 0), RunSeed(2, 5, 0), RunSeed(0, 5, 1))
    assert grid((0,), (), (4,)) == (RunSeed(0, None, 4),)
    assert make_seed(3) == 3


def test_no_two_runs_start_from_one_number_and_plain_seeds_keep_theirs() -> None:
    assert [training_seed(seed) for seed in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]
    runs = [*grid(range(5), range(5), range(5)), *grid(range(5), range(5)), *grid(range(5), (), range(5))]
    numbers = list(map(training_seed, runs))
    assert len(set(numbers)) == len(runs)
    assert all(0 <= number < 2**31 for number in numbers)
    # fixed for ever: it is part of the keys of stored results
    assert training_seed(RunSeed(3, 1, 0)) == training_seed(RunSeed(seed=3, data=1, reward=0)) == 1550313745


def test_a_derived_seed_is_one_of_its_own_for_every_purpose() -> None:
    parts: list[tuple[str | int, ...]] = [("gold",), ("gold", "scalar"), ("goldscalar",), ("gold/scalar",), (), (1,)]
    found = {derived_seed(seed, *own) for seed in range(5) for own in parts}
    assert len(found) == 30
    assert all(0 <= number < 2**31 for number in found)
    assert found.isdisjoint(range(5))  # of the run's own seeds
    # fixed for ever: it is part of the keys of stored results
    assert derived_seed(0, "gold", "scalar") == int(sha256(b'[0, "gold", "scalar"]').hexdigest()[:8], 16) >> 1


def test_a_reward_model_belongs_to_a_data_seed_and_a_reward_seed() -> None:
    assert of_reward(4) == 4
    assert {of_reward(seed) for seed in grid((0, 1, 2), (8,), (5,))} == {RunSeed(5, 8)}
    assert of_reward(RunSeed(1, None, 5)) == 5
    assert of_reward(RunSeed(1, 8)) == RunSeed(1, 8)


def test_names_are_readable_and_in_order() -> None:
    run = RunSeed(3, 1, 0)
    assert (run_name(3), run_name(run), run_name(str(run))) == ("seed 3", *["data 1 · reward 0 · seed 3"] * 2)
    assert (tag(3), tag(run), tag(RunSeed(3, 1))) == ("s3", "d1-r0-s3", "d1-s3")
    assert (shown(3), shown(run)) == (3, str(run))
    assert joined([1, 2]) == "1 2"
    assert joined([str(RunSeed(0, 1)), str(RunSeed(1, 1))]) == "data 1 · seed 0; data 1 · seed 1"
    assert (named([1, 2]), named([run])) == ("seeds 1, 2", str(run))
    assert sorted([RunSeed(0, 10), 5, RunSeed(9, 2), RunSeed(1, 2), 2]) == [
        2, 5, RunSeed(1, 2), RunSeed(9, 2), RunSeed(0, 10)
    ]  # fmt: skip
    assert layers_of((1, 2)) is None
    assert layers_of((RunSeed(0, 1), RunSeed(1, 2))) == {"data seed": [1, 2], "seed": [0, 1]}
    assert (layers_asked(3), layers_asked(run)) == ({}, {"data": 1, "reward": 0})
