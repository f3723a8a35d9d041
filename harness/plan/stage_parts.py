"""Parts of the plans of stages: their work, their reward model, and what sampling and scoring take."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness.models import peaks
from rlhf_bench.harness.models.peaks import Host, Peak

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rlhf_bench.harness.pipeline.stage import Stage
    from rlhf_bench.harness.plan.token_lengths import Lengths, TokenLengths
    from rlhf_bench.harness.text.types import Row

MARKER = 12
"""Tokens between a response and its correction, about: a seq2seq reward model reads them too."""
TRAINER_SECONDS = 6.0
"""Until a trainer has taken its first step: TRL, datasets and peft are loaded."""
TEXT_SECONDS = 2.0
"""Of a stage that tokenises texts."""
PAIRS_AT_ONCE = 64
"""Pairs whose sides are scored at once where a reward model is put on its scale (stages/scale.py)."""


@dataclass(frozen=True)
class Work:
    """Of a stage: tokens of passes without gradients (`read`) and with (`trained`), `steps` of decoding and tokens
    `drawn` in them, models `loaded`, and `seconds` that depend on nothing."""

    read: float = 0.0
    trained: float = 0.0
    steps: float = 0.0
    drawn: float = 0.0
    loaded: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Work)))


@dataclass(frozen=True)
class Scored:
    """A stage's reward model: `bytes` of its weights, and how many tokens it reads for a response of `response` after a
    prompt, those `predicted` with logits.  `big`: it has the policy's size.  `parts`: the members of a combination."""

    bytes: int
    big: bool
    corrects: bool
    parts: tuple[Scored, ...] = ()

    def tokens(self, prompt: float, response: float) -> float:
        """Tokens that one row takes it; 0 for a model without a network of the policy's size."""
        if self.parts:  # all members read every row
            return sum(part.tokens(prompt, response) for part in self.parts)
        if not self.big:
            return 0.0
        return prompt + response + (MARKER + response) * self.corrects


@dataclass(frozen=True)
class Basis:
    """What stages are planned on: the policy's sizes on this device, and the data's lengths."""

    host: Host
    lengths: TokenLengths
    device: str


def scored_by(stage: Stage, host: Host) -> Scored:
    """The reward model of a stage that scores: one that the run trains, one from elsewhere, or the gold model."""
    trained = stage.inputs.get("reward", stage.inputs.get("gold"))
    if trained is not None and trained.kind == "combined":
        return _together([_member(trained, at, host) for at in range(len(trained.params["rm"]["settings"]["members"]))])
    if trained is not None:
        return _of_recipe(trained, host)
    own = stage.params.get("rm", {"settings": stage.payload, "name": ""})
    return _elsewhere(own, host)


def _together(parts: Sequence[Scored]) -> Scored:
    """A combination of reward models, all of which are in memory at once."""
    return Scored(
        sum(part.bytes for part in parts), any(part.big for part in parts), any(p.corrects for p in parts), tuple(parts)
    )


def _member(collected: Stage, at: int, host: Host) -> Scored:
    """The member at this place of a combination, whose stage is `collected`."""
    trained = collected.inputs.get(f"part{at}")
    own = collected.params["rm"]["settings"]["members"][at]
    return _of_recipe(trained, host) if trained is not None else _elsewhere(own, host)


def _of_recipe(trained: Stage, host: Host) -> Scored:
    recipe = str(trained.params["recipe"])
    known = recipe in ("scalar", "seq2seq")
    return Scored(host.whole if known else 0, known, recipe == "seq2seq")


def _elsewhere(own: Row, host: Host) -> Scored:
    size = bytes_of_files(own["settings"], own["name"])
    # a model from elsewhere is taken as a classifier: it reads every row once
    return Scored(size, size > host.whole // 4, corrects=False)


def bytes_of_files(settings: Row, name: str = "") -> int:
    """Bytes of the safetensors files in the folders that settings, or a name as KIND:FOLDER, give."""
    texts = [value for value in settings.values() if isinstance(value, str)] + [name.partition(":")[2]]
    folders = {Path(text).expanduser() for text in texts if text and "\0" not in text}
    return sum(file.stat().st_size for folder in folders if folder.is_dir() for file in folder.glob("*.safetensors"))


def batch_tokens(basis: Basis, lengths: Lengths, rows: int) -> int:
    return lengths.batch(rows, basis.host.packed)


def rows_at_once(own: Row) -> int:
    """Rows, or pairs, of one pass of a trainer with the settings `own`."""
    return int(min(own.get("micro_batch", 0) or own["batch"], own["batch"]))


def lowering(group: str, own: Row) -> str:
    """The setting that makes a trainer's passes smaller: its micro-batch where it has one."""
    return f"{group}.{'micro_batch' if 'micro_batch' in own else 'batch'}"


def trainer_work(tokens: float) -> Work:
    return Work(trained=tokens, loaded=1, seconds=TRAINER_SECONDS)


def held_out(stage: Stage, basis: Basis) -> int:
    """Held-out prompts that a stage answers, or whose responses it reads."""
    answered = stage.inputs.get("baseline", stage)
    most = answered.params.get("eval", {}).get("prompts", 0)
    return min(most or basis.lengths.test.rows, basis.lengths.test.rows)


def share_of_pairs(stage: Stage) -> float:
    """The share of the task's training pairs that a stage reads: a half where a gold model has the other one."""
    pairs = stage.inputs.get("pairs")
    if pairs is None:
        return 1.0
    return 0.5 if pairs.kind == "half" else share_of_pairs(pairs)


def responses(stage: Stage, basis: Basis) -> int:
    """Responses of one evaluation to the held-out prompts: `eval.samples` to each, and a greedy one."""
    own = stage.inputs.get("baseline", stage).params["eval"]
    return held_out(stage, basis) * (int(own.get("samples", 1)) + bool(own.get("greedy", False)))


def drawn_work(basis: Basis, rows: float, batch: int, prompt: float) -> Work:
    """The work of `rows` responses, `batch` at once: each batch goes on for as long as its longest response."""
    texts = basis.lengths
    return Work(read=rows * prompt, steps=rows / max(1, batch) * texts.limit, drawn=rows * texts.response)


def answered_at_once(stage: Stage, basis: Basis) -> int:
    """Held-out prompts that a stage answers in one batch."""
    return min(int(stage.params["eval"]["batch"]), held_out(stage, basis))


def scored_at_once(stage: Stage) -> int:
    """Rows that a stage's reward model reads in one pass."""
    return int(stage.payload.get("micro_batch", PAIRS_AT_ONCE))


def sampling_work(stage: Stage, basis: Basis, rows: float) -> Work:
    return drawn_work(basis, rows, answered_at_once(stage, basis), basis.lengths.test.mean)


def sampling_peak(stage: Stage, basis: Basis) -> Peak:
    rows, texts = answered_at_once(stage, basis), basis.lengths
    return peaks.sampling(basis.host, [basis.host.held], rows, texts.test.longest, texts.limit, "eval.batch")


def evaluation_work(stage: Stage, basis: Basis, scored: Scored, times: int) -> Work:
    """`times` evaluations of a policy: responses, their rewards, and the reference for the KL."""
    rows, texts = float(times * responses(stage, basis)), basis.lengths
    read = rows * (texts.test.mean + texts.response + scored.tokens(texts.test.mean, texts.response))
    # corrections are written token by token
    written = min(stage.params["eval"].get("corrections", 0), held_out(stage, basis)) * scored.corrects
    return (
        sampling_work(stage, basis, rows)
        + Work(read=read)
        + Work(steps=texts.limit * bool(written), drawn=written * texts.response)
    )


def scoring_peak(host: Host, models: list[int], scored: Scored, rows: int, prompt: int, limit: int) -> Peak:
    """The reward model's passes over `rows` rows at once."""
    row = round(scored.tokens(prompt, limit))
    predicted = rows * limit if scored.corrects else 0
    return peaks.scoring(host, models, rows * row, row, "ppo.micro_batch", predicted)


def detail_of(stage: Stage) -> str:
    """The recipe of a stage's trained reward model, or the model's name."""
    trained = stage.inputs.get("reward")
    return str(trained.params["recipe"] if trained is not None else stage.params["rm"]["name"])
