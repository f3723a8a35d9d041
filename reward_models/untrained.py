"""How much of a trained scalar reward model's score is that of the model before its first step.

A fresh head is random, and so is the score that it gives.  Where training moves the score less than that, the reward is
noise which two models of one seed share: a gold model then confirms a proxy's errors as gains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlhf_bench.harness.evenly import evenly
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.seams import TrainingJob

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_bench.harness.forward.types import Classifier
    from rlhf_bench.harness.text.types import Tokenizer

PAIRS = 64
"""Training pairs whose responses both models score; fewer where there are fewer."""
BATCH = 8
"""Responses scored at once; memory halves it."""


def agreement(job: TrainingJob, head_std: float) -> dict[str, float]:
    """`untrained_correlation` and `untrained_share` of the model in `job.folder`, over PAIRS of the job's pairs.

    Both models are loaded again after training: nothing of this enters the training.  {} where one of the two scores
    does not vary.  `compare` defines the figures.
    """
    import gc

    import torch

    from rlhf_bench.harness.models import policies

    gc.collect()  # the trainer's cycles hold the model that was trained
    pairs = evenly(job.pairs, PAIRS)
    found = []
    for source, new_head in ((job.policy, head_std), (job.folder, 0.0)):
        tokenizer = policies.load_tokenizer(source)
        with torch.random.fork_rng(devices=[]):  # transformers draws a new head before ours replaces it
            model = policies.load_classifier(source, tokenizer, job.device, seed=job.seed, head_std=new_head)
        found.append(_differences(model, tokenizer, pairs, job.device))
        del model
    return compare(*found)


def _differences(model: Classifier, tokenizer: Tokenizer, pairs: Sequence[Pair], device: str) -> Tensor:
    """The score of the chosen minus that of the rejected response [N] of each pair."""
    import torch

    from rlhf_bench.harness.ppo.scoring import NamedRewardModel
    from rlhf_bench.harness.sampling.rollout import text_rollout
    from rlhf_bench.reward_models.scalar import ScalarScorer

    scorer = NamedRewardModel("scalar", ScalarScorer(model), BATCH)
    prompts = [pair.prompt for pair in pairs]
    sides = [
        scorer.rewards(text_rollout(tokenizer, prompts, texts, device)).sum(1)
        for texts in ([pair.chosen for pair in pairs], [pair.rejected or "" for pair in pairs])
    ]
    return torch.sub(*sides).double().cpu()


def compare(untrained: Tensor, trained: Tensor) -> dict[str, float]:
    """The figures of differences [N] of two scores between the responses to a prompt; {} where one does not vary.

    With u and t the differences by the untrained and the trained model:

    `untrained_correlation`: sum u t / sqrt(sum u^2 sum t^2), the correlation of both scores within prompts.  No mean is
    subtracted: a pair's scores are centred at their own mean, which makes the correlation the same whichever response
    is called the chosen one.
    `untrained_share`: sum u t / sum t^2, the part of the trained score's variance within prompts that the untrained
    score brings: t = u + (t - u).  Near 0 for a small head, whatever the correlation, which is then one of directions
    alone; 1 where training has changed nothing.
    """
    both, u, t = (float(a @ b) for a, b in ((untrained, trained), (untrained, untrained), (trained, trained)))
    if not u > 0 or not t > 0:
        return {}
    return {"untrained_correlation": both / (u * t) ** 0.5, "untrained_share": both / t}
