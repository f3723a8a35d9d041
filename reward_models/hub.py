"""Reward models of others, used as they are: `--rm hf:FOLDER_OR_HUB_ID`, pinned as ID@REVISION.

A classifier with one label, of sequences (its score on the last token) or of tokens (their scores on the policy's
tokens that cover the same characters).  It encodes text with its own tokenizer, in its chat template where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NoReturn

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Answer, Example, Rollout
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.input_forms import FORMS
from rlhf_bench.reward_models.sources import LEVELS, check_classifier, check_config, model_content, pinned, read_config

if TYPE_CHECKING:
    from torch import Tensor

TOO_LONG = "Drop long prompts with --set data.max_prompt_tokens=N, or give a reward model with a longer context."


@dataclass(frozen=True)
class HubReward:
    """Score of any classifier with one label, from a folder or the Hugging Face hub: hf:FOLDER_OR_HUB_ID.

    `source` is the folder or hub id.  `form` says how prompt and response are joined (input_forms.FORMS; "": chosen by
    what the model has).  `level` says what gets a score, "sequence" or "token" ("": chosen by the architecture).
    `head` names the module of the head in a folder that another tool saved (heads.py; "": one of the usual names).

    A response that it cannot score ends the run with the reason: PPO would optimise an invented reward.  In a chat
    template the strings of special tokens in a text are split after their first letter, because a policy may learn to
    write them.
    """

    source: str
    form: str = ""
    level: str = ""
    batch: int = 16
    head: str = ""

    def __post_init__(self) -> None:
        for key, allowed in (("form", FORMS), ("level", LEVELS)):
            value = getattr(self, key)
            if value and value not in allowed:
                raise BenchError(f"{key}={value!r} is unknown.", did_you_mean(value, allowed))
        if self.batch < 1:
            raise BenchError(f"batch={self.batch}.", "It must be above 0.")
        check_classifier(self.source, self._levels, self.head)
        self.content  # noqa: B018  # a hub id that cannot be downloaded must fail now, not after hours of training

    @property
    def _levels(self) -> list[str]:
        return [self.level] if self.level else list(LEVELS)

    @cached_property
    def content(self) -> Mapping[str, str]:
        """The hash of the folder's files, or the commit that the hub id stands for now.

        Raises BenchError for a hub id that cannot be read or is no classifier with one label.
        """
        content = model_content(self.source)
        # `check_classifier` sees the configuration of a folder alone; here that of a hub id is in the cache
        if "commit" in content:
            check_config(self.source, read_config(self.source), self._levels, self.head)
        return content

    @cached_property
    def _scores_tokens(self) -> bool:
        # a configuration may name no class: it is then read as a sequence classifier
        architectures = read_config(self.source).get("architectures") or [""]
        return self.level == "token" or (not self.level and LEVELS["token"] in str(architectures[0]))

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: the score on the last token, or token scores on the policy's tokens of the same characters.

        Raises BenchError for a response that the model cannot score.
        """
        import torch

        from rlhf_bench.harness.models.align import align_rows
        from rlhf_bench.reward_models.extraction import on_last_token

        # loaded at its first use, on the rollout's device
        scorer: ClassifierScorer | None = self.__dict__.get("scorer")
        if scorer is None:
            device, level = str(rollout.mask.device), "token" if self._scores_tokens else "sequence"
            source = pinned(self.source, self.content)
            scorer = ClassifierScorer(source, self.form, self.batch, device, level, self.head)
            self.__dict__["scorer"] = scorer  # the dataclass is frozen: stored as cached_property would store it
        # longest first: one special string may be part of another
        special = sorted(scorer.encoder.special, key=len, reverse=True) if scorer.encoder.form == "chat" else []
        texts = zip(rollout.prompts, rollout.responses, rollout.finished.tolist(), strict=True)
        answers = [
            Answer(Example("", split_strings(prompt, special)), split_strings(response, special), bool(finished))
            for prompt, response, finished in texts
        ]
        if self._scores_tokens:
            rows = [row if isinstance(row, list) else self._fail(row) for row in scorer.token_scores(answers)]
            scores, spans = [[r for r, _ in row] for row in rows], [[s for _, s in row] for row in rows]
            return align_rows(scores, spans, rollout)
        found = scorer.scores(answers)
        values = [self._fail(one.reason) if one.value is None else one.value for one in found]
        return on_last_token(torch.tensor(values, dtype=torch.float32, device=rollout.mask.device), rollout.mask)

    def _fail(self, reason: str) -> NoReturn:
        fix = TOO_LONG if "longer than" in reason else ""  # the words of ClassifierScorer's reason
        raise BenchError(f"The reward model {self.source} cannot score a response: {reason}.", fix)


def split_strings(text: str, special: Sequence[str]) -> str:
    """The text with a space after the first letter of every string in `special`, the longest strings first.

    The model's tokenizer then reads them as plain text, not as the ends of turns.
    """
    for token in special:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


hub_token = partial(HubReward, level="token")
# `bench list` shows it.
hub_token.__doc__ = "Scores of a token classifier on the policy's tokens of the same characters: hf-token:SOURCE."
