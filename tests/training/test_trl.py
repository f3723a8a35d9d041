"""Training by TRL's trainers: padding is ignored, the loss is plain cross-entropy, an interruption leaves no trace."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import Tiny, make_gpt2
from torch import Tensor

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward import patch as forward_patch
from rlhf_bench.harness.models.flop import parameters_of
from rlhf_bench.harness.models.policies import load_causal, load_classifier
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.seams import TrainingJob, no_progress
from rlhf_bench.harness.training.collate import IGNORED, Collate, CollatePairs, demonstration_row
from rlhf_bench.harness.training.trl import TrainOptions, last_checkpoint, train_lm, train_preferences
from rlhf_bench.harness.training.trl_passes import labelled_only, scores_of_rows
from rlhf_bench.reward_models import scalar, seq2seq

STEPS, SAVE_EVERY, CUT = 12, 4, 7
OPTIONS: dict[str, Any] = {
    "steps": STEPS, "batch": 4, "lr": 1e-2, "warmup": 0.25, "save_every": SAVE_EVERY, "seed": 3, "device": "cpu",
}  # fmt: skip
Row = dict[str, list[int]]


class CutError(Exception):
    """An interruption."""


def cut(done: int, _: int) -> None:
    if done == CUT:
        raise CutError


def lm_rows(count: int = 10, positions: bool = False) -> list[Row]:
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        prompt, completion = ([rng.randrange(2, 300) for _ in range(rng.randint(2, 6))] for _ in range(2))
        row = demonstration_row(prompt, completion, end=1)
        if positions:
            row["position_ids"] = [*range(len(prompt)), *range(len(completion) + 1)]  # as `reuse` does: they go back
        rows.append(row)
    return rows


def pair_rows(count: int = 10) -> list[Row]:
    return [{"chosen_ids": row["input_ids"], "rejected_ids": [*row["input_ids"][:-2], 9, 1]} for row in lm_rows(count)]


# --- rows and batches

rows_of_ids = st.lists(st.lists(st.integers(2, 299), min_size=1, max_size=7), min_size=1, max_size=4)


@given(rows_of_ids, st.booleans())
def test_a_batch_is_padded_on_the_right_with_ignored_labels(rows: list[list[int]], positions: bool) -> None:
    given_rows: list[Row] = [{"input_ids": row, "labels": [IGNORED, *row[1:]]} for row in rows]
    if positions:
        given_rows = [{**row, "position_ids": list(range(5, 5 + len(row["labels"])))} for row in given_rows]
    batch = Collate(0)(given_rows)
    width = max(map(len, rows))
    assert set(batch) == {"input_ids", "labels", "attention_mask"} | ({"position_ids"} if positions else set())
    for index, row in enumerate(given_rows):
        size = len(row["input_ids"])
        expected = {"attention_mask": ([1] * size, 0), "labels": (row["labels"], IGNORED)}
        expected |= {name: (row[name], 0) for name in ("input_ids", "position_ids") if name in row}
        for name, (values, fill) in expected.items():
            assert batch[name][index].tolist() == values + [fill] * (width - size)


@given(rows_of_ids, st.booleans())
def test_a_batch_end_to_end_holds_the_same_rows(rows: list[list[int]], positions: bool) -> None:
    given_rows: list[Row] = [{"input_ids": row, "labels": list(row)} for row in rows]
    if positions:
        given_rows = [{**row, "position_ids": list(range(5, 5 + len(row["labels"])))} for row in given_rows]
    batch = Collate(0, by_rows=True)(given_rows)
    assert batch["attention_mask"].flatten().tolist() == [len(row) for row in rows]
    flat = {name: batch[name][0].tolist() for name in ("input_ids", "position_ids", "labels")}
    for row in given_rows:
        size = len(row["input_ids"])
        mine = {name: values[:size] for name, values in flat.items()}
        flat = {name: values[size:] for name, values in flat.items()}
        places = row.get("position_ids", list(range(size)))
        labels = [IGNORED, *row["labels"][1:]]  # the row before must not predict this one's beginning
        assert mine == {"input_ids": row["input_ids"], "position_ids": places, "labels": labels}
    assert not any(flat.values())


def test_pairs_end_to_end_are_all_chosen_and_then_all_rejected() -> None:
    rows: list[Row] = [{"chosen_ids": [5, 6, 7], "rejected_ids": [8]}, {"chosen_ids": [9], "rejected_ids": [10, 11]}]
    batch = CollatePairs()(rows)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 8, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 0, 0, 1]]
    assert batch["attention_mask"].flatten().tolist() == [3, 1, 1, 2]


def test_a_demonstration_is_trained_on_from_its_completion_to_its_end() -> None:
    assert demonstration_row([5, 6], [7, 8], end=1) == {
        "input_ids": [5, 6, 7, 8, 1],
        "labels": [IGNORED, IGNORED, 7, 8, 1],
    }


# --- checkpoints


def checkpoint(scratch: Path, step: int, state: str | None = "{}") -> Path:
    folder = scratch / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    if state is not None:
        (folder / "trainer_state.json").write_text(state)
    return folder


def test_the_last_complete_checkpoint_is_taken(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "not there") is None
    checkpoint(tmp_path, 900)
    expected = checkpoint(tmp_path, 1000)  # not the last by name
    assert last_checkpoint(tmp_path) == expected
    checkpoint(tmp_path, 1100, state=None)
    checkpoint(tmp_path, 1200, state="")
    checkpoint(tmp_path, 1300, state='{"global_step": 13')
    assert last_checkpoint(tmp_path) == expected


@pytest.mark.parametrize("name", ["checkpoint-best", "checkpoint-", "checkpoint-12.tmp"])
def test_other_folders_are_no_checkpoints(tmp_path: Path, name: str) -> None:
    expected = checkpoint(tmp_path, 4)
    (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) == expected


def test_a_checkpoint_that_is_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").touch()
    assert last_checkpoint(tmp_path) is None


# --- the loss


def plain_loss(model: Any, rows: list[Row]) -> Tensor:
    """Mean cross-entropy of the labelled tokens, row by row without padding."""
    losses = []
    for row in rows:
        given_positions = {"position_ids": torch.tensor([row["position_ids"]])} if "position_ids" in row else {}
        ids = torch.tensor([row["input_ids"]])
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **given_positions).logits[0, :-1]
        labels = torch.tensor(row["labels"][1:])
        losses += [-logits[i].log_softmax(-1)[label] for i, label in enumerate(labels) if label != IGNORED]
    return torch.stack(losses).mean()


@pytest.mark.training
@pytest.mark.parametrize("positions", [False, True])
def test_the_loss_is_plain_cross_entropy(tiny: Tiny, tmp_path: Path, positions: bool) -> None:
    """Scoring labelled positions only, padding and given position ids: none of them changes loss or gradient."""
    rows, rate = lm_rows(4, positions), 1e-6
    model, reference = (load_causal(tiny.folder, tiny.tokenizer, "cpu") for _ in range(2))
    loss = plain_loss(reference, rows)
    loss.backward()
    expected = float(loss.detach())
    options = {**OPTIONS, "steps": 1, "lr": rate, "warmup": 0.0}
    figures = train_lm(model, tiny.tokenizer, rows, TrainOptions(tmp_path, **options))
    read = sum(len(row["input_ids"]) for row in rows)  # no padding
    work = {"steps": 1.0, "tokens": read, "flop": 6.0 * parameters_of(model) * read}
    assert figures == {"loss": pytest.approx(expected, rel=1e-4), **work}
    for name, after in model.named_parameters():  # Adam's first step goes down every gradient's sign
        gradient, before = reference.get_parameter(name).grad, reference.get_parameter(name)
        clear = gradient.abs() > 1e-3
        step = (after - before).detach()
        assert (step.sign() == -gradient.sign())[clear & (before.abs() < 1)].all(), name


def by_rows_and_padded(train: Callable[[], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """(model, figures) of two trainings: of rows end to end, and of padded ones with every layer whole."""
    found = [train()]
    with monkeypatch.context() as patch:
        patch.setattr("rlhf_bench.harness.training.trl.supports_packing", lambda _: False)
        patch.setattr(forward_patch, "last_mlp", lambda _: None)
        found.append(train())
    return found


@pytest.mark.training
@pytest.mark.parametrize("kind", ["lm", "preferences"])
def test_rows_end_to_end_train_as_padded_ones_do(
    kind: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same batches, hence the same losses and the same model up to rounding."""
    scratch = iter((tmp_path / "rows", tmp_path / "padded"))
    one, other = by_rows_and_padded(lambda: train_tiny(kind, tiny, next(scratch), steps=4), monkeypatch)
    assert one[1]["loss"] == pytest.approx(other[1]["loss"], rel=1e-4)
    assert one[1]["tokens"] < other[1]["tokens"]
    # what they compute: Adam makes whole steps of rounding where a gradient is 0, as that of the keys' biases always is
    ids = torch.tensor([lm_rows(1)[0]["input_ids"]])
    found = [model(input_ids=ids).logits.detach() for model, _ in (one, other)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-2)


def test_inside_training_only_labelled_positions_pass_the_last_layer(tiny: Tiny) -> None:
    mlp = forward_patch.last_mlp(tiny.model)
    seen: list[int] = []
    handle = next(iter(mlp.children())).register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    batch = {**Collate(0)(lm_rows(3)), "use_cache": False}
    labels = int((batch["labels"] != IGNORED).sum())
    try:
        with torch.no_grad():
            whole = tiny.model(**batch).loss
            with labelled_only(tiny.model):
                torch.testing.assert_close(tiny.model(**batch).loss, whole)
    finally:
        handle.remove()
    assert seen == [batch["labels"].shape[1], labels]
    assert "forward" not in vars(tiny.model)


def test_a_classifier_gives_each_row_the_score_of_its_last_token(tiny: Tiny) -> None:
    model = load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=1, head_std=1.0)
    rows = pair_rows(3)
    with torch.no_grad(), scores_of_rows(model):
        found = model(**CollatePairs()(rows), use_cache=False).logits
    singly = [
        model(input_ids=torch.tensor([row[name]])).logits[0] for name in ("chosen_ids", "rejected_ids") for row in rows
    ]
    torch.testing.assert_close(found, torch.stack(singly).detach(), rtol=1e-4, atol=1e-4)


# --- interruption


def train_tiny(
    kind: str, tiny: Tiny, scratch: Path, progress: Callable[[int, int], None] = no_progress, steps: int = STEPS
) -> tuple[Any, Any]:
    scratch.mkdir(exist_ok=True)
    options = TrainOptions(scratch, progress=progress, **{**OPTIONS, "steps": steps})
    if kind == "lm":
        model = load_causal(tiny.folder, tiny.tokenizer, "cpu")
        return model, train_lm(model, tiny.tokenizer, lm_rows(), options)
    model = load_classifier(tiny.folder, tiny.tokenizer, "cpu", seed=1, head_std=0.02)
    return model, train_preferences(model, tiny.tokenizer, pair_rows(), options)


def assert_equal_weights(one: Any, two: Any) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name


class Interrupted(NamedTuple):
    """An undisturbed training and one that was cut and went on, each with its figures and the steps it reported."""

    undisturbed: Any
    figures: dict[str, float]
    steps: list[tuple[int, int]]
    resumed: Any
    again: dict[str, float]
    last_steps: list[tuple[int, int]]


@pytest.fixture(scope="module", params=["lm", "preferences"])
def interrupted(
    request: pytest.FixtureRequest, tiny_gpt2: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Interrupted:
    steps: list[tuple[int, int]] = []
    last_steps: list[tuple[int, int]] = []
    whole, scratch = (tmp_path_factory.mktemp(name) for name in ("whole", "cut"))
    undisturbed, figures = train_tiny(request.param, tiny_gpt2, whole, lambda *step: steps.append(step))
    with pytest.raises(CutError):
        train_tiny(request.param, tiny_gpt2, scratch, cut)
    assert last_checkpoint(scratch) == scratch / f"checkpoint-{SAVE_EVERY}"
    torch.manual_seed(12345)  # another process has other random numbers
    resumed, again = train_tiny(request.param, tiny_gpt2, scratch, lambda *step: last_steps.append(step))
    return Interrupted(undisturbed, figures, steps, resumed, again, last_steps)


@pytest.mark.training
def test_a_resumed_training_ends_as_the_undisturbed_one(interrupted: Interrupted) -> None:
    """Bitwise."""
    assert_equal_weights(interrupted.undisturbed, interrupted.resumed)
    assert interrupted.steps == [(step, STEPS) for step in range(1, STEPS + 1)]
    assert interrupted.last_steps == [(step, STEPS) for step in range(SAVE_EVERY + 1, STEPS + 1)]


@pytest.mark.training
def test_a_resumed_training_reports_the_same_figures(interrupted: Interrupted) -> None:
    assert interrupted.again == pytest.approx(interrupted.figures, rel=1e-6)


@pytest.mark.training
@pytest.mark.parametrize("steps", [STEPS, 10], ids=["at an epoch's end", "within an epoch"])
def test_a_training_that_had_ended_is_not_repeated(tiny_gpt2: Tiny, tmp_path: Path, steps: int) -> None:
    """Killed after its last checkpoint, before its stage was complete."""
    seen: list[tuple[int, int]] = []
    done, figures = train_tiny("lm", tiny_gpt2, tmp_path, steps=steps)
    again, repeated = train_tiny("lm", tiny_gpt2, tmp_path, lambda *step: seen.append(step), steps)
    assert_equal_weights(done, again)
    assert seen == []
    assert repeated == pytest.approx(figures, rel=1e-6)


@pytest.mark.training
def test_a_training_that_diverges_is_stopped(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    model = make_gpt2(tiny_gpt2.tokenizer)
    with pytest.raises(BenchError, match="diverged"):
        train_lm(model, tiny_gpt2.tokenizer, lm_rows(), TrainOptions(tmp_path, **{**OPTIONS, "lr": 1e30}))


# --- reward models


@pytest.mark.training
@pytest.mark.parametrize("made", [scalar.Scalar(batch=2, epochs=2), seq2seq.token(batch=2, epochs=2)])
def test_a_reward_model_learns_saves_and_loads(tiny_gpt2: Tiny, tmp_path: Path, made: Any) -> None:
    from rlhf_bench.harness.sampling.rollout import text_rollout

    pairs = [Pair(str(i), f"Where is {i}?", f"At {i}.", f"Not at {i}, no.") for i in range(4)]
    folder, scratch, steps = tmp_path / "work", tmp_path / "scratch", []
    folder.mkdir()
    scratch.mkdir()
    job = TrainingJob(pairs, tiny_gpt2.folder, folder, scratch, 0, 20, "cpu", lambda *step: steps.append(step))
    figures = made.train(job)
    assert figures["loss"] == figures["loss"]
    assert steps[-1][0] == steps[-1][1] == figures["steps"]
    assert json.loads((folder / "config.json").read_text())["architectures"]
    rollout = text_rollout(tiny_gpt2.tokenizer, ["Where is 1?"] * 2, ["At 1.", "No."], "cpu")
    rewards = made.load(folder, "cpu").rewards(rollout)
    assert rewards.shape == rollout.mask.shape
    assert not rewards[~rollout.mask].any()
