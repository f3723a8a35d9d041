"""Supervised and reward training by TRL's trainers, resumable from their own checkpoints.

What TRL's defaults would do otherwise is set explicitly: bf16, gradient checkpointing, truncation, model cards.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.forward.packing import reads_rows
from rlhf_bench.harness.seams import Progress, TrainingJob
from rlhf_bench.harness.training.collate import IGNORED, Collate, CollatePairs, pad_sides
from rlhf_bench.harness.training.trl_passes import labelled_only, scores_of_rows

CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")  # the old name and the new one


class Schedule(Protocol):
    """How long and how fast a reward model learns: what its settings offer."""

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def save_every(self) -> int: ...


def options(job: TrainingJob, rows: int, schedule: Schedule) -> dict[str, Any]:
    """The options of `train_lm` and `train_preferences` for a job over `rows` rows; `lr` peaks after the warm-up."""
    return {
        "scratch": job.scratch,
        "steps": max(1, schedule.epochs * rows // schedule.batch),
        "batch": schedule.batch,
        "lr": schedule.lr,
        "warmup": schedule.warmup,
        "save_every": schedule.save_every,
        "seed": job.seed,
        "device": job.device,
    }


def train_lm(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, list[int]]], progress: Progress, **options: Any
) -> dict[str, float]:
    """Next-token training on rows of `input_ids`, `labels` (-100: not trained on) and optional `position_ids`.

    Returns the mean loss.  `options` are those of `_arguments`.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    _score_labelled_positions_only()
    trainer = SFTTrainer(
        model=model,
        args=_arguments(SFTConfig, **options, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=Collate(tokenizer.pad_token_id, by_rows=reads_rows(model)),
        callbacks=[_callback(progress)],
    )
    with labelled_only(model):
        return _run(trainer, options["scratch"])


def train_preferences(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, list[int]]], progress: Progress, **options: Any
) -> dict[str, float]:
    """Bradley-Terry training of a one-label sequence classifier on rows of `chosen_ids` and `rejected_ids`."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    by_rows = reads_rows(model)
    trainer = RewardTrainer(
        model=model,
        args=_arguments(RewardConfig, **options, max_length=None),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=CollatePairs() if by_rows else None,  # None: TRL's own
        callbacks=[_callback(progress)],
    )
    with scores_of_rows(model) if by_rows else nullcontext():
        return _run(trainer, options["scratch"])


def train_dpo(
    model: Any,
    reference: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, list[int]]],
    progress: Progress,
    *,
    beta: float,
    **options: Any,
) -> dict[str, float]:
    """DPO on rows of `prompt_ids`, `chosen_ids` and `rejected_ids`, end-of-sequence included.

    `reference` None: `model` wears a fresh adapter, and TRL compares with a copy of it.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    # the trainer tokenises texts itself, without our form of a prompt: it gets a text to chew on, and then our ids
    text = Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}])
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=_arguments(DPOConfig, **options, beta=beta, max_length=None),
        train_dataset=text,
        processing_class=tokenizer,
        callbacks=[_callback(progress)],
    )
    trainer.train_dataset = Dataset.from_list([dict(row) for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL 1.16 asks transformers 5.23 for a renamed property
        return _run(trainer, options["scratch"])


def train_encoder_decoder(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, list[int]]], progress: Progress, **options: Any
) -> dict[str, float]:
    """Training of an encoder-decoder on rows of `input_ids` (read) and `labels` (written).  TRL has no trainer for
    these: transformers' own."""
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(
        model=model,
        args=_arguments(TrainingArguments, **options),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=lambda batch: pad_sides(batch, tokenizer.pad_token_id),
        callbacks=[_callback(progress)],
    )
    return _run(trainer, options["scratch"])


def _score_labelled_positions_only() -> None:
    """Let TRL's loss skip unlabelled positions on a CPU as it does on a GPU (its switch asks for Triton; 9 of 10
    positions are prompt, and the head is half of a tiny model's step).  Same numbers; without it just slower."""
    from trl.trainer import utils

    if hasattr(utils, "_use_triton"):
        utils._use_triton = lambda _device: True


def _arguments(
    config: Any,
    *,
    scratch: Path,
    steps: int,
    batch: int,
    lr: float,
    warmup: float,
    save_every: int,
    seed: int,
    device: str,
    bf16: bool = False,
    gradient_checkpointing: bool = False,
    **extra: Any,
) -> Any:
    return config(
        output_dir=str(scratch),
        max_steps=steps,
        per_device_train_batch_size=batch,
        learning_rate=lr,
        lr_scheduler_type="linear",
        warmup_steps=int(warmup * steps),
        weight_decay=0.0,
        bf16=bf16,
        **{name: gradient_checkpointing for name in CHECKPOINTING if name in config.__dataclass_fields__},
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        save_strategy="steps",
        save_steps=save_every,
        save_total_limit=1,
        logging_strategy="no",
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="all",
        report_to=[],
        disable_tqdm=True,
        **extra,
    )


def _callback(progress: Progress) -> Any:
    from transformers import TrainerCallback

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            control.should_log = state.global_step % args.save_steps == 0 or state.global_step == state.max_steps
            progress(state.global_step, state.max_steps)

    return Report()


def _run(trainer: Any, scratch: Path) -> dict[str, float]:
    from transformers.trainer_callback import PrinterCallback, TrainerState

    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(scratch)
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")) if checkpoint else trainer.state
    if checkpoint and state.global_step >= trainer.args.max_steps:  # the trainer would take one step more
        trainer._load_from_checkpoint(str(checkpoint))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        state = trainer.state
    loss = _mean_loss(state.log_history)
    if loss != loss:
        raise BenchError("Training diverged: the loss is not a number.", "Lower the learning rate.")
    done = {"steps": state.global_step, "tokens": state.num_input_tokens_seen, "flop": state.total_flos}
    return {"loss": loss, **{name: float(value) for name, value in done.items()}}


def _mean_loss(history: Sequence[Mapping[str, float]]) -> float:
    """Over all steps, those before an interruption included (the trainer's own figure forgets them)."""
    total, done = 0.0, 0.0
    for row in history:
        if "loss" in row:
            total += row["loss"] * (row["step"] - done)
            done = row["step"]
    return total / max(done, 1.0)


def last_checkpoint(scratch: Path) -> Path | None:
    """The newest complete checkpoint: `trainer_state.json` is what the trainer writes last."""
    named = [p for p in scratch.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    found = sorted(named, key=lambda p: int(p.name.partition("-")[2]), reverse=True)
    for folder in found:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # a kill hit it while it was being written
        return folder
    return None


def demonstration_row(prompt: list[int], completion: list[int], end: int) -> dict[str, list[int]]:
    """One SFT row: the loss is on the completion and its end-of-sequence token alone."""
    ids = [*prompt, *completion, end]
    return {"input_ids": ids, "labels": [IGNORED] * len(prompt) + ids[len(prompt) :]}
