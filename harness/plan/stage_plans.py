"""What each stage of a plan needs: its peak of memory, and its work in tokens, from its own parameters and the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_bench.harness.models import memory, peaks
from rlhf_bench.harness.models.peaks import Peak
from rlhf_bench.harness.models.placement import can_run_concurrently
from rlhf_bench.harness.plan.stage_parts import (
    MARKER,
    PAIRS_AT_ONCE,
    TEXT_SECONDS,
    Basis,
    Work,
    answered_at_once,
    batch_tokens,
    bytes_of_files,
    detail_of,
    drawn_work,
    evaluation_work,
    held_out,
    lowering,
    responses,
    rows_at_once,
    sampling_peak,
    sampling_work,
    scored_at_once,
    scored_by,
    scoring_peak,
    share_of_pairs,
    trainer_work,
)

if TYPE_CHECKING:
    from rlhf_bench.harness.pipeline.stage import Stage

DPO_HELD = 1.5
"""What a token of DPO's padded rows keeps, against one of a packed pass.  Measured."""


@dataclass(frozen=True)
class StagePlan:
    """A stage with its peak and its work.  `detail`: the recipe or method, where stages of one kind differ by it."""

    kind: str
    detail: str
    peak: Peak
    work: Work


def plan_stage(stage: Stage, basis: Basis) -> StagePlan:
    """What a stage needs.  One of a kind that is not known here counts as a pass of the policy over the held-out
    prompts."""
    return PLANNED.get(stage.kind, _other)(stage, basis)


# -- training ----------------------------------------------------------------------------------------------------------


def _sft(stage: Stage, basis: Basis) -> StagePlan:
    # the payload has the micro-batch, which is no part of the key
    own, lengths = {**stage.params["sft"], **stage.payload.get("sft", {})}, basis.lengths.demonstrations
    rows = rows_at_once(own)
    peak = peaks.training(
        basis.host, batch_tokens(basis, lengths, rows), lengths.longest, lowering("sft", own), labelled=True
    )
    return StagePlan("sft", "", peak, trainer_work(own["steps"] * own["batch"] * lengths.mean))


def _reward(stage: Stage, basis: Basis) -> StagePlan:
    own = {**stage.params["settings"], **stage.payload.get("rm", {}).get("settings", {})}
    recipe = str(stage.params["recipe"])
    name = str(stage.payload.get("rm", {}).get("name", recipe))
    if "batch" not in own:  # not one of ours, or one that is fitted without a network
        return StagePlan(stage.kind, recipe, Peak(basis.host.libraries), Work())
    pairwise = recipe == "scalar"
    lengths = basis.lengths.sides if pairwise else basis.lengths.corrections.plus(MARKER)
    rows = rows_at_once(own) * (2 if pairwise else 1)
    # a corrector may learn from one of its two mappings alone
    share = share_of_pairs(stage) * (0.5 if own.get("mappings", "both") != "both" else 1.0)
    peak = peaks.training(
        basis.host,
        batch_tokens(basis, lengths, rows),
        lengths.longest * (2 if pairwise else 1),
        lowering(name, own),
        not pairwise,
    )
    return StagePlan(stage.kind, recipe, peak, trainer_work(own["epochs"] * share * lengths.rows * lengths.mean))


def _direct(stage: Stage, basis: Basis) -> StagePlan:
    own, method = {**stage.params["settings"], **stage.payload.get("settings", {})}, str(stage.params["method"])
    sides, group = basis.lengths.sides, method.replace("-", "_")
    both = 2 if method == "dpo" else 1
    rows = rows_at_once(own) * both
    # under adapters the reference is the same weights
    reference = basis.host.whole if method == "dpo" and not basis.host.placement.lora else 0
    tokens = own["epochs"] * share_of_pairs(stage) * sides.rows / 2 * both * sides.mean
    # TRL pads both sides of DPO's pairs to the longest
    taken = round(DPO_HELD * rows * sides.longest) if method == "dpo" else batch_tokens(basis, sides, rows)
    peak = peaks.training(basis.host, taken, both * sides.longest, lowering(group, own), True, reference)
    return StagePlan("direct", method, peak, trainer_work(tokens) + Work(read=tokens * (both - 1)))


def _ppo(stage: Stage, basis: Basis) -> StagePlan:
    from rlhf_bench.harness.settings import PPOSettings

    host, texts = basis.host, basis.lengths
    own = PPOSettings(**stage.params["ppo"])
    scored, prompt, response, limit = scored_by(stage, host), texts.train.mean, texts.response, texts.limit
    longest = texts.train.longest
    both = can_run_concurrently(host.placement, own, basis.device)
    plan = memory.make_plan(host.sizes, host.placement, own, longest, limit, both)
    models = [need.bytes for need in plan.needs if need.role != "reward model"] + [scored.bytes]
    typical = basis.lengths.train.batch(own.micro_batch, True) // own.micro_batch  # of the prompts of a micro-batch
    batch, held = answered_at_once(stage, basis), texts.test.longest
    phases = [
        peaks.updating(host, models, own.micro_batch, typical, limit, both),
        peaks.sampling(host, models, own.rollouts, longest, limit, "ppo.rollouts", apart=True),
        peaks.sampling(host, models, batch, held, limit, "eval.batch", apart=True),
        peaks.evaluating(host, models, batch, held, limit),
        scoring_peak(host, models, scored, own.micro_batch, typical, limit),
    ]
    rows = float(own.iterations * own.rollouts)
    row = prompt + response
    # of an iteration: the reference and the critic read every row, and the reward model scores it
    passes = Work(read=rows * (2 * row + scored.tokens(prompt, response)))
    learns = Work(trained=rows * own.epochs * row * (2 if own.critic == "own" else 1))
    drawn = drawn_work(basis, rows, own.rollouts, prompt)
    evaluated = evaluation_work(stage, basis, scored, own.checkpoints)
    work = drawn + passes + learns + evaluated + Work(loaded=4 if host.placement.lora else 5)
    return StagePlan("ppo", detail_of(stage), peaks.largest(phases), work)


# -- sampling and scoring ----------------------------------------------------------------------------------------------


def _baseline(stage: Stage, basis: Basis) -> StagePlan:
    work = sampling_work(stage, basis, float(responses(stage, basis))) + Work(loaded=1)
    return StagePlan(stage.kind, "", sampling_peak(stage, basis), work)


def _tempered(stage: Stage, basis: Basis) -> StagePlan:
    times = len(stage.params["temperatures"])
    work = sampling_work(stage, basis, float(times * held_out(stage, basis))) + Work(loaded=1)
    return StagePlan(stage.kind, "", sampling_peak(stage, basis), work)


def _pool(stage: Stage, basis: Basis) -> StagePlan:
    draws = stage.params["pool"]["samples"]
    work = sampling_work(stage, basis, float(draws * held_out(stage, basis))) + Work(loaded=1)
    return StagePlan(stage.kind, "", sampling_peak(stage, basis), work)


def _scale(stage: Stage, basis: Basis) -> StagePlan:
    own, host, texts = stage.params["ppo"], basis.host, basis.lengths
    scored, batch = scored_by(stage, host), scored_at_once(stage)
    prompts = min(own["scale_prompts"], texts.train.rows)
    models = [scored.bytes, host.held]
    phases = [
        peaks.sampling(host, models, prompts, texts.train.longest, texts.limit, "ppo.scale_prompts"),
        scoring_peak(host, models, scored, batch, texts.train.longest, texts.limit),
    ]
    rows = float(prompts * own["scale_samples"])
    read = rows * scored.tokens(texts.train.mean, texts.response)
    # a side of a pair: its prompt is counted with it
    read += texts.test_sides.rows * scored.tokens(texts.train.mean, max(0.0, texts.test_sides.mean - texts.train.mean))
    work = drawn_work(basis, rows, prompts, texts.train.mean) + Work(read=read, loaded=2)
    return StagePlan("scale", detail_of(stage), peaks.largest(phases), work)


def _written(stage: Stage, basis: Basis) -> StagePlan:
    """The trained policy's responses, with the reference for the KL and the reward model."""
    host, scored = basis.host, scored_by(stage, basis.host)
    models = [host.held, host.held, scored.bytes]
    rows, limit, longest = answered_at_once(stage, basis), basis.lengths.limit, basis.lengths.test.longest
    phases = [
        peaks.sampling(host, models, rows, longest, limit, "eval.batch"),
        peaks.evaluating(host, models, rows, longest, limit),
        scoring_peak(host, models, scored, scored_at_once(stage), longest, limit),
    ]
    return StagePlan(
        stage.kind, detail_of(stage), peaks.largest(phases), evaluation_work(stage, basis, scored, 1) + Work(loaded=3)
    )


def _proxy(stage: Stage, basis: Basis) -> StagePlan:
    return _scores(stage, basis, 2.0 * stage.inputs["baseline"].params["eval"].get("samples", 1))


def _best_of_n(stage: Stage, basis: Basis) -> StagePlan:
    return _scores(stage, basis, float(stage.params["best_of_n"]["pool"]))


def _scores(stage: Stage, basis: Basis, times: float) -> StagePlan:
    """A stage that scores `times` responses to each held-out prompt."""
    host, texts, scored = basis.host, basis.lengths, scored_by(stage, basis.host)
    batch = min(scored_at_once(stage), stage.params["eval"]["batch"])
    peak = scoring_peak(host, [scored.bytes], scored, batch, texts.test.longest, texts.limit)
    rows = times * held_out(stage, basis)
    read = rows * scored.tokens(texts.test.mean, texts.response)
    return StagePlan(stage.kind, detail_of(stage), peak, Work(read=read, loaded=1 if scored.big else 0))


def _pair_scores(stage: Stage, basis: Basis) -> StagePlan:
    """A stage that scores both sides of the pairs by the gold model: those of training where it labels them anew."""
    sides = basis.lengths.sides if stage.kind == "relabelled" else basis.lengths.test_sides
    return _gold(stage, basis, share_of_pairs(stage) * sides.rows, sides.mean, sides.longest)


def _gold_scores(stage: Stage, basis: Basis) -> StagePlan:
    """A stage that scores responses to the held-out prompts by the gold model: of a pool, or of every checkpoint."""
    texts, written = basis.lengths, stage.inputs.get("generations")
    if written is not None:
        rows = float(responses(written, basis) * written.params.get("ppo", {}).get("checkpoints", 1))
    else:
        rows = float(stage.params.get("samples", 1) * held_out(stage, basis))
    return _gold(stage, basis, rows, texts.test.mean + texts.response, texts.test.longest + texts.limit)


def _gold(stage: Stage, basis: Basis, rows: float, mean: float, longest: int) -> StagePlan:
    """`rows` texts of `mean` tokens, scored by the gold model."""
    host, scored = basis.host, scored_by(stage, basis.host)
    batch = min(scored_at_once(stage), stage.params["eval"]["batch"])
    # what a corrector reads beside the row is shorter than the row itself
    factor = 2 if scored.corrects else 1
    predicted = batch * basis.lengths.limit * scored.corrects
    tokens = batch * factor * longest
    peak = peaks.scoring(host, [scored.bytes], tokens, factor * longest, "ppo.micro_batch", predicted)
    return StagePlan(stage.kind, "", peak, Work(read=rows * mean * factor * scored.big, loaded=int(scored.big)))


def _fluency(stage: Stage, basis: Basis) -> StagePlan:
    """The base model reads the baseline's and the last checkpoint's responses, 32 rows at most at once."""
    host, texts = basis.host, basis.lengths
    rows = min(peaks.EVALUATED, held_out(stage, basis))
    row = texts.test.longest + texts.limit
    peak = peaks.scoring(host, [host.whole], rows * row, row, "", rows * texts.limit)
    read = 2.0 * responses(stage, basis) * (texts.test.mean + texts.response)
    return StagePlan(stage.kind, "", peak, Work(read=read, loaded=1))


def _texts(stage: Stage, basis: Basis) -> StagePlan:
    """A stage that reads texts and no model: prompts, pairs, and judges without one."""
    judge = stage.params.get("judge", {})
    size = bytes_of_files(judge.get("settings", {}))
    alone = peaks.TEXTS if stage.kind == "verdicts" else peaks.LIBRARIES
    # of a stage without a model what a worker holds from others does not decide what fits
    libraries = basis.host.libraries if size else alone * basis.host.cpu
    # judges that read texts alone are told apart by nothing
    name = str(judge.get("name", "")) if size else ""
    texts, both = basis.lengths, 2.0 * (size > basis.host.whole // 4)  # the baseline's response, and the policy's
    read = both * held_out(stage, basis) * (texts.test.mean + texts.response)
    work = Work(read=read, loaded=1 if size else 0, seconds=0.0 if judge else TEXT_SECONDS)
    return StagePlan(stage.kind, name, Peak(libraries + size), work)


def _other(stage: Stage, basis: Basis) -> StagePlan:
    host, texts = basis.host, basis.lengths
    batch = stage.params.get("eval", {}).get("batch", PAIRS_AT_ONCE)
    row = texts.test.longest + texts.limit
    peak = peaks.scoring(host, [host.whole], batch * row, row, "eval.batch", batch * texts.limit)
    work = Work(read=held_out(stage, basis) * (texts.test.mean + texts.response), loaded=1)
    return StagePlan(stage.kind, "", peak, work)


PLANNED: Mapping[str, Callable[[Stage, Basis], StagePlan]] = {
    "sft": _sft, "reward": _reward, "direct": _direct, "ppo": _ppo, "baseline": _baseline, "tempered": _tempered,
    "pool": _pool, "scale": _scale, "written": _written, "transfer": _written, "proxy": _proxy, "best_of_n": _best_of_n,
    "prompts": _texts, "pairs": _texts, "verdicts": _texts, "half": _texts, "gold": _reward, "relabelled": _pair_scores,
    "gold_pairs": _pair_scores, "gold_scores": _gold_scores, "gold_pool": _gold_scores, "gold_agreement": _proxy,
    "fluency": _fluency, "combined": _texts, "parts": _proxy,
}  # fmt: skip
"""The plan of each kind of stage."""
