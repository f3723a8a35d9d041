"""Does a reward model keep the rules of its seam?  One that must be trained first is only asked what it would train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness import store
from rlhf_bench.harness.checks.findings import BrokenError, Probe, demand
from rlhf_bench.harness.errors import one_line
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.seams import ReadsExamples, RewardModel, TrainableRewardModel

if TYPE_CHECKING:
    from torch import Tensor

REFERENCE = "They meet at nine."
RESPONSES = (
    REFERENCE,
    "",
    "naïve 🤖 שלום \ufffd",
    "Cut off in the middle of a sentence that is the longest",
)


def reward_probes(name: str, model: Any) -> Iterator[tuple[str, Probe]]:
    if isinstance(model, TrainableRewardModel):
        yield "recipe and training_settings name the training", lambda: _recipe(model)
        yield "rewards", lambda: "not trained here"
        return
    rollout = _rollout()
    if isinstance(model, ReadsExamples):
        shown: list[RewardModel] = []
        yield "with_examples gives a scorer", lambda: _show(model, rollout, shown)
        if not shown:
            return
        model = shown[0]
    yield "rewards are [B, T], finite, and 0 outside the mask", lambda: _describe(_ask(name, model, rollout), rollout)
    yield "the same rewards for the same rollout", lambda: _repeated(name, model, rollout)
    yield "the same rewards in any batch", lambda: _batches(name, model, rollout)


def _recipe(model: TrainableRewardModel) -> str:
    demand(isinstance(model.recipe, str) and model.recipe, f"recipe is {model.recipe!r}, not a name")
    demand(callable(model.train) and callable(model.load), "train or load is not a method")
    try:
        return f"{model.recipe} {store.canonical(dict(model.training_settings))}"
    except (TypeError, ValueError) as error:
        raise BrokenError(f"training_settings are not JSON: {one_line(error)}") from error


def _show(model: ReadsExamples, rollout: Rollout, shown: list[RewardModel]) -> str:
    """The scorer that knows the rollout's prompts, put into `shown`: half of them open-ended, all with a reference."""
    examples = [
        Example(f"prompt-{i}", prompt, REFERENCE, slices=("closed" if i % 2 else "open",))
        for i, prompt in enumerate(rollout.prompts)
    ]
    made = model.with_examples({"train": examples, "test": examples[:1]})
    demand(isinstance(made, RewardModel), f"a {type(made).__name__} without rewards(rollout)")
    shown.append(made)
    return type(made).__name__


def _rollout() -> Rollout:
    """Responses of several lengths: ordinary, empty, of odd characters, and one that was cut off (no end token)."""
    from rlhf_bench.harness.models.tiny_policy import tiny_tokenizer
    from rlhf_bench.harness.sampling.rollout import text_rollout

    prompts = [f"When do they meet? {'Soon. ' * i}" for i in range(len(RESPONSES))]
    made = text_rollout(tiny_tokenizer(prompts, RESPONSES, 300), prompts, RESPONSES, "cpu")
    ids, mask, finished = made.response_ids[:, :-1], made.mask[:, :-1], made.finished.clone()
    finished[-1] = False  # the longest response ends in the last column: without it, it has no end token
    return replace(made, response_ids=ids, mask=mask, finished=finished)


def _ask(name: str, model: RewardModel, rollout: Rollout) -> Tensor:
    import torch

    from rlhf_bench.harness.ppo.scoring import check_rewards

    with torch.no_grad():
        return check_rewards(name, model.rewards(rollout), rollout)


def _describe(rewards: Tensor, rollout: Rollout) -> str:
    sums = ", ".join(f"{value:.3g}" for value in rewards.sum(1).tolist())
    return f"sums {sums} for {', '.join(repr(text[:12]) for text in rollout.responses)}"


def _repeated(name: str, model: RewardModel, rollout: Rollout) -> str:
    _same(_ask(name, model, rollout), _ask(name, model, rollout), "when asked twice")
    return ""


def _batches(name: str, model: RewardModel, rollout: Rollout) -> str:
    import torch

    from rlhf_bench.harness.sampling.rollout import rows_of

    whole = _ask(name, model, rollout)
    for size in (1, 2):
        for index in torch.split(torch.arange(len(rollout.prompts)), size):
            part = _ask(name, model, rows_of(rollout, index))
            _same(whole[index, : part.shape[1]], part, f"in batches of {size}: padding or neighbours change them")
    return ""


def _same(first: Tensor, second: Tensor, when: str) -> None:
    gap = float((first - second).abs().max())
    demand(gap <= 1e-4 * max(1.0, float(first.abs().max())), f"rewards differ by up to {gap:.3g} {when}")
