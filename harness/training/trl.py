"""Supervised and reward training by TRL's trainers, resumable from their own checkpoints.

What TRL's defaults would do otherwise is set explicitly: bf16, gradient checkpointing, truncation, model cards.
"""

from __future__ import annotations

import json
import pickle  # noqa: TID251 - the name of an error alone
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.forward.packing import supports_packing
from rlhf_bench.harness.models.tensors import check_shapes, shapes_of, stored_shapes, tied_names
from rlhf_bench.harness.seams import Progress, TrainingJob, no_progress
from rlhf_bench.harness.training.collate import Collate, CollatePairs, pad_sides
from rlhf_bench.harness.training.micro_batches import Counted, MicroBatches
from rlhf_bench.harness.training.trl_passes import labelled_only, scores_of_rows
from rlhf_bench.harness.training.trl_private import labelled_positions_only

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from rlhf_bench.harness.forward.types import CausalLM, Classifier, EncoderDecoder
    from rlhf_bench.harness.models.placement import Placement
    from rlhf_bench.harness.text.types import Tokenizer

TokenRow = Mapping[str, list[int]]
"""One row of a training set: token ids by column."""

Figures = dict[str, float]
"""`loss` (mean over the steps), `steps`, `tokens` read, and `flop` as transformers counts them."""


class Schedule(Protocol):
    """How long and how fast a reward model learns: a part of its settings."""

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


@dataclass(frozen=True)
class TrainOptions:
    """How long, how fast and where to train.  AdamW without weight decay; the rate warms up and decays linearly."""

    scratch: Path  # the trainer's checkpoints; survives an interruption
    steps: int
    batch: int  # rows per step
    lr: float  # after the warm-up
    warmup: float  # the share of all steps
    save_every: int  # steps between checkpoints
    seed: int
    device: str
    bf16: bool = False
    gradient_checkpointing: bool = False
    progress: Progress = no_progress
    micro_batch: int = 0  # most rows (or pairs) in one pass; 0: the whole batch

    @classmethod
    def of_job(
        cls, job: TrainingJob, rows: int, schedule: Schedule, placement: Placement | None = None
    ) -> TrainOptions:
        """Those of a reward model's training over `rows` rows; `placement`: of the policy it starts from, if any."""
        return cls(
            scratch=job.scratch,
            steps=max(1, schedule.epochs * rows // schedule.batch),
            batch=schedule.batch,
            lr=schedule.lr,
            warmup=schedule.warmup,
            save_every=schedule.save_every,
            seed=job.seed,
            device=job.device,
            bf16=placement is not None and placement.half,
            gradient_checkpointing=placement is not None and placement.gradient_checkpointing,
            progress=job.progress,
            # a plugin's settings may be older than this one
            micro_batch=getattr(schedule, "micro_batch", 0),
        )


def train_lm(model: CausalLM, tokenizer: Tokenizer, rows: Sequence[TokenRow], options: TrainOptions) -> Figures:
    """Next-token training on rows of `input_ids`, `labels` (-100: not trained on) and optional `position_ids`.

    Raises BenchError where the loss is not a number.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=_arguments(SFTConfig, options, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=Collate(tokenizer.pad_token_id, by_rows=supports_packing(model)),
        callbacks=[_callback(options.progress)],
    )
    with labelled_only(model), labelled_positions_only():
        return _run(trainer, options, "next tokens")


def train_preferences(
    model: Classifier, tokenizer: Tokenizer, rows: Sequence[TokenRow], options: TrainOptions
) -> Figures:
    """Bradley-Terry training of a one-label sequence classifier on rows of `chosen_ids` and `rejected_ids`.

    Raises BenchError where the loss is not a number.
    """
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    by_rows = supports_packing(model)
    trainer = RewardTrainer(
        model=model,
        args=_arguments(RewardConfig, options, max_length=None),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=CollatePairs() if by_rows else None,  # None: TRL's own
        callbacks=[_callback(options.progress)],
    )
    with scores_of_rows(model) if by_rows else nullcontext():
        return _run(trainer, options, "pairs")


def train_dpo(
    model: CausalLM,
    reference: CausalLM | None,
    tokenizer: Tokenizer,
    rows: Sequence[TokenRow],
    options: TrainOptions,
    beta: float,
) -> Figures:
    """DPO (arXiv 2305.18290 eq. 7) on rows of `prompt_ids`, `chosen_ids` and `rejected_ids`, end-of-sequence included.

    `reference` None: `model` has a fresh adapter, and TRL compares with a copy of it.  Raises BenchError where the loss
    is not a number.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    # The trainer tokenises texts itself, without our form of a prompt: it gets a placeholder, and then our ids.
    placeholder = Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "a"}])
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=_arguments(DPOConfig, options, beta=beta, max_length=None),
        train_dataset=placeholder,
        processing_class=tokenizer,
        callbacks=[_callback(options.progress)],
    )
    trainer.train_dataset = Dataset.from_list([dict(row) for row in rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL 1.16 uses a property that transformers 5.23 renames
        return _run(trainer, options, "pairs")


def train_encoder_decoder(
    model: EncoderDecoder, tokenizer: Tokenizer, rows: Sequence[TokenRow], options: TrainOptions
) -> Figures:
    """Training of an encoder-decoder on rows of `input_ids` (the encoder's) and `labels` (the decoder's).

    Raises BenchError where the loss is not a number.
    """
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    trainer = Trainer(  # transformers' own: TRL has none for encoder-decoders
        model=model,
        args=_arguments(TrainingArguments, options),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=lambda batch: pad_sides(batch, tokenizer.pad_token_id),
        callbacks=[_callback(options.progress)],
    )
    return _run(trainer, options, "labels")


def _arguments(config: type[TrainingArguments], options: TrainOptions, **extra: object) -> TrainingArguments:
    """The trainer's arguments: an instance of the class `config`."""
    # The old and the new name of one option: transformers is renaming it.
    checkpointing = {
        name: options.gradient_checkpointing
        for name in ("gradient_checkpointing", "activation_checkpointing")
        if name in config.__dataclass_fields__
    }
    return config(
        output_dir=str(options.scratch),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        learning_rate=options.lr,
        lr_scheduler_type="linear",
        warmup_steps=int(options.warmup * options.steps),
        weight_decay=0.0,
        bf16=options.bf16,
        **checkpointing,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=options.device == "cpu",
        dataloader_pin_memory=False,  # it warns where there is no GPU
        remove_unused_columns=False,  # our collators read columns that the model's forward does not name
        save_strategy="steps",
        save_steps=options.save_every,
        save_total_limit=1,  # the last is enough to resume from
        logging_strategy="no",  # the callback decides when
        logging_nan_inf_filter=False,  # a loss that is not a number must show
        include_num_input_tokens_seen="all",
        report_to=[],
        disable_tqdm=True,
        **extra,
    )


def _callback(progress: Progress) -> TrainerCallback:
    """Calls `progress` after every step, and has the loss logged with every checkpoint, which stores the log."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):  # type: ignore[misc]
        def on_step_end(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **kwargs: object,  # noqa: ARG002
        ) -> None:
            control.should_log = state.global_step % args.save_steps == 0 or state.global_step == state.max_steps
            progress(state.global_step, state.max_steps)

    return Report()


def _run(trainer: Trainer, options: TrainOptions, counted: Counted) -> Figures:
    """Train from the last checkpoint in `options.scratch`, if there is one.  The loss is a mean over what is `counted`.

    Raises BenchError where the checkpoint's weights are not all those of the model, where the loss is not a number, and
    where a single row does not fit the memory.
    """
    from transformers.trainer_callback import PrinterCallback, TrainerState

    trainer.remove_callback(PrinterCallback)
    MicroBatches(trainer, options.micro_batch, counted)
    checkpoint = last_checkpoint(options.scratch)
    if checkpoint:
        check_checkpoint(trainer.model, checkpoint)  # the trainer itself only warns
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json")) if checkpoint else trainer.state
    if checkpoint and state.global_step >= trainer.args.max_steps:  # the trainer would take one step more
        load_weights(trainer.model, checkpoint)
    else:
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except pickle.UnpicklingError as error:  # of the trainer's own state, which torch reads without running code
            raise BenchError(f"{checkpoint} cannot be read: {one_line(error)}.", "Delete it, and run again.") from error
        state = trainer.state
    loss = mean_loss(state.log_history)
    if loss != loss:  # NaN
        raise BenchError("Training diverged: the loss is not a number.", "Lower the learning rate.")
    done = {"steps": state.global_step, "tokens": state.num_input_tokens_seen, "flop": state.total_flos}
    return {"loss": loss, **{name: float(value) for name, value in done.items()}}


ADAPTER = "adapter_model.safetensors"
"""The weights of a checkpoint of peft's model, which holds nothing else."""


def check_checkpoint(model: PreTrainedModel | PeftModel, checkpoint: Path) -> None:
    """Raises BenchError unless a trainer's checkpoint holds every tensor of its model, in its shape, and no other."""
    from safetensors import SafetensorError

    try:
        if hasattr(model, "peft_config"):
            from peft import get_peft_model_state_dict

            needed = shapes_of(get_peft_model_state_dict(model, adapter_name=model.active_adapters[0]))
            check_shapes(checkpoint, needed, stored_shapes([checkpoint / ADAPTER]))
            return
        # several files where a large model is stored in shards
        held = stored_shapes(sorted(checkpoint.glob("*.safetensors")))
    except (OSError, SafetensorError) as error:
        raise BenchError(f"{checkpoint} cannot be read: {one_line(error)}.", "Delete it, and run again.") from error
    check_shapes(checkpoint, shapes_of(model.state_dict()), held, tied_names(model))


def load_weights(model: PreTrainedModel | PeftModel, checkpoint: Path) -> None:
    """Load the weights of a trainer's checkpoint into its model: all of them, or those of peft's adapter.

    In place.  The optimiser's state is left in the folder: training is over.  `check_checkpoint` must have been called:
    a tensor that the checkpoint lacks keeps its value here.
    """
    from safetensors.torch import load_file

    if (checkpoint / ADAPTER).is_file():
        model.load_adapter(str(checkpoint), model.active_adapters[0], is_trainable=True)
        return
    for file in sorted(checkpoint.glob("*.safetensors")):
        model.load_state_dict(load_file(file), strict=False)  # tied weights are stored once


def mean_loss(history: Sequence[Mapping[str, float]]) -> float:
    """The mean over all steps of a trainer's log, whose rows are means since the row before.

    Steps before an interruption are included; the trainer's own figure leaves them out.
    """
    total, done = 0.0, 0.0
    for row in history:
        if "loss" in row:
            total += row["loss"] * (row["step"] - done)
            done = row["step"]
    return total / max(done, 1.0)


def last_checkpoint(scratch: Path) -> Path | None:
    """The newest complete checkpoint of a trainer in `scratch`, None where there is none."""
    named = [p for p in scratch.glob("checkpoint-*") if p.name.partition("-")[2].isdigit()]
    for folder in sorted(named, key=lambda p: int(p.name.partition("-")[2]), reverse=True):
        try:
            # The file that the trainer writes last: without it the checkpoint was interrupted.
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        return folder
    return None
