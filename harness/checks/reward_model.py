"""Conformance of a reward model: it scores a few responses.  One that must be trained is not trained here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

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
TOLERANCE = 1e-4
"""Largest difference between rewards that should be equal, relative to the largest reward (1 at least).

Other shapes of a batch round differently in float32; padding that a model reads changes rewards by far more.
"""


def reward_probes(name: str, model: RewardModel | TrainableRewardModel) -> Iterator[tuple[str, Probe]]:
    """The rules for a reward model and the probes that try them; `name` is what errors call it."""
    if isinstance(model, TrainableRewardModel):
        # an object with train, load and rewards counts as trainable, as for the plan (`plan.cells`)
        yield "recipe and training_settings name the training", lambda: check_recipe(model)
        yield "rewards", lambda: "not checked: it would have to be trained"
        return
    rollout = make_rollout()
    scorer = model
    if isinstance(model, ReadsExamples):
        given: list[RewardModel] = []  # a probe returns a text, so the scorer that it makes comes out here
        yield "with_examples gives a scorer", lambda: check_with_examples(model, rollout, given)
        if not given:  # the probe above has failed
            return
        scorer = given[0]
    yield "rewards are [B, T], finite, and 0 outside the mask", lambda: check_values(name, scorer, rollout)
    yield "the same rewards for the same rollout", lambda: check_repeated(name, scorer, rollout)
    yield "the same rewards in any batch", lambda: check_batches(name, scorer, rollout)


def check_recipe(model: TrainableRewardModel) -> str:
    """The recipe is a name, and the settings of the training are JSON: both enter the key of the training."""
    demand(isinstance(model.recipe, str) and model.recipe, f"recipe is {model.recipe!r}, not a name")
    demand(callable(model.train) and callable(model.load), "train or load is not a method")
    try:
        return f"{model.recipe} {store.canonical(dict(model.training_settings))}"
    except (TypeError, ValueError) as error:
        raise BrokenError(f"training_settings are not JSON: {one_line(error)}") from error


def check_with_examples(model: ReadsExamples, rollout: Rollout, given: list[RewardModel]) -> str:
    """`with_examples` returns an object with rewards(rollout), which is appended to `given`.

    The examples have the rollout's prompts, half of them open-ended, all with a reference.
    """
    # a reward model may treat open-ended prompts in another way (slices.TYPE_SLICES)
    examples = [
        Example(f"prompt-{i}", prompt, REFERENCE, slices=("closed" if i % 2 else "open",))
        for i, prompt in enumerate(rollout.prompts)
    ]
    made = model.with_examples({"train": examples, "test": examples[:1]})
    demand(isinstance(made, RewardModel), f"a {type(made).__name__} without rewards(rollout)")
    given.append(made)
    return type(made).__name__


def check_values(name: str, model: RewardModel, rollout: Rollout) -> str:
    """Shape, finite values and the mask, as `ppo.scoring.check_rewards` checks them in a run.

    Returns the sums of the rewards of every response, for an author to see.
    """
    sums = ", ".join(f"{value:.3g}" for value in rewards_of(name, model, rollout).sum(1).tolist())
    return f"sums {sums} for {', '.join(repr(text[:12]) for text in rollout.responses)}"


def check_repeated(name: str, model: RewardModel, rollout: Rollout) -> str:
    """Rewards do not depend on chance or on earlier calls: a run scores a repeated response once (`scoring.distinct`).

    Raises BrokenError where two calls differ by more than TOLERANCE.
    """
    first, second = rewards_of(name, model, rollout), rewards_of(name, model, rollout)
    _demand_equal(first, second, "when computed twice")
    return ""


def check_batches(name: str, model: RewardModel, rollout: Rollout) -> str:
    """Rewards do not depend on padding or on the other rows: a run chooses the size of batches by memory.

    Raises BrokenError where rewards of a smaller batch differ by more than TOLERANCE.
    """
    import torch

    from rlhf_bench.harness.sampling.rollout import rows_of

    whole = rewards_of(name, model, rollout)
    # alone and in pairs: each size pads the rows to other widths than the whole rollout
    for size in (1, 2):
        for index in torch.split(torch.arange(len(rollout.prompts)), size):
            part = rewards_of(name, model, rows_of(rollout, index))
            # Rows of shorter responses have fewer columns than the whole rollout.
            reason = f"in batches of {size}: padding or other rows change them"
            _demand_equal(whole[index, : part.shape[1]], part, reason)
    return ""


def make_rollout() -> Rollout:
    """RESPONSES to prompts of several lengths: ordinary, empty, odd characters, and one without end-of-sequence."""
    from rlhf_bench.harness.models.tiny_policy import tiny_tokenizer
    from rlhf_bench.harness.sampling.rollout import text_rollout

    # longer from row to row: prompts are padded on the left, responses on the right
    prompts = [f"When do they meet? {'Soon. ' * i}" for i in range(len(RESPONSES))]
    made = text_rollout(tiny_tokenizer(prompts, RESPONSES, 300), prompts, RESPONSES, "cpu")
    # The longest response ends in the last column; without that column it was cut off.
    ids, mask, finished = made.response_ids[:, :-1], made.mask[:, :-1], made.finished.clone()
    finished[-1] = False
    return replace(made, response_ids=ids, mask=mask, finished=finished)


def rewards_of(name: str, model: RewardModel, rollout: Rollout) -> Tensor:
    """Checked rewards [B, T] of a rollout, float32.

    Raises BenchError as `scoring.check_rewards`, and what the plugin raises; `findings.attempt` makes a Finding of it.
    """
    import torch

    from rlhf_bench.harness.ppo.scoring import check_rewards

    with torch.no_grad():  # as a run calls it, with the same check of the result
        return check_rewards(name, model.rewards(rollout), rollout)


def _demand_equal(first: Tensor, second: Tensor, when: str) -> None:
    gap = float((first - second).abs().max())
    demand(gap <= TOLERANCE * max(1.0, float(first.abs().max())), f"rewards differ by up to {gap:.3g} {when}")
