"""Reward models of other people's, as they are: `--rm hf:FOLDER_OR_HUB_ID`, pinned as ID@REVISION.

A classifier with one label, of sequences (its score on the last token) or of tokens (their scores on the policy's own
tokens, by characters).  It reads text with its own tokenizer, in its own chat template where it has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Answer, Example, Rollout
from rlhf_bench.reward_models.classifier import LEVELS, RewardModelScorer, check_config, check_source, read_config
from rlhf_bench.reward_models.reading import FORMS

if TYPE_CHECKING:
    from torch import Tensor

TOO_LONG = "Drop long prompts with --set data.max_prompt_tokens=N, or give a reward model with a longer context."


@dataclass(frozen=True)
class HubReward:
    """`source` is a folder or a hub id; `form` says how it reads prompt and response (reward_reader.FORMS, "": by what
    its tokenizer has); `level` is what it scores, "sequence" or "token" ("": by its architecture).

    What it cannot read ends the run with the reason: a reward that was made up would be optimised.  In a chat template
    a special token's string in a text gets a space after its first letter, for a policy may come to write one.
    """

    source: str
    form: str = ""
    level: str = ""
    batch: int = 16

    def __post_init__(self) -> None:
        for key, allowed in (("form", FORMS), ("level", LEVELS)):
            value = getattr(self, key)
            if value and value not in allowed:
                raise BenchError(f"{key}={value!r} is unknown.", did_you_mean(value, allowed))
        if self.batch < 1:
            raise BenchError(f"batch={self.batch}.", "It must be above 0.")
        check_source(self.source, [self.level] if self.level else list(LEVELS))
        self.content  # noqa: B018  # a hub id that cannot be had must not show only after hours of training

    @cached_property
    def content(self) -> Mapping[str, str]:
        """The folder's files by hash, or the commit that the hub id stands for now."""
        found = model_content(self.source)
        if "commit" in found:
            config = read_config(config_file(self.source), self.source)
            check_config(self.source, config, [self.level] if self.level else list(LEVELS))
        return found

    @cached_property
    def _scores_tokens(self) -> bool:
        made = read_config(config_file(self.source), self.source).get("architectures") or [""]
        return self.level == "token" or (not self.level and LEVELS["token"] in str(made[0]))

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: the score on the last token, or token scores on the policy's tokens that they cover.

        Raises BenchError for a response that the model cannot read.
        """
        import torch

        from rlhf_bench.harness.models.align import align_rows
        from rlhf_bench.reward_models.extraction import on_last_token

        answers = self._answers(rollout)
        if not self._scores_tokens:
            scored = self._scorer(rollout).scores(answers)
            values = [self._known(one.value, one.reason) for one in scored]
            return on_last_token(torch.tensor(values, dtype=torch.float32, device=rollout.mask.device), rollout.mask)
        rows = [self._known(row, str(row)) if isinstance(row, list) else self._known(None, row)
                for row in self._scorer(rollout).token_scores(answers)]  # fmt: skip
        return align_rows([[r for r, _ in row] for row in rows], [[s for _, s in row] for row in rows], rollout)

    def _scorer(self, rollout: Rollout) -> RewardModelScorer:
        """The model, loaded when first asked, where the rollout is."""
        found = self.__dict__.get("scorer")
        if found is None:
            level = "token" if self._scores_tokens else "sequence"
            found = RewardModelScorer(
                pinned(self.source, self.content), self.form, self.batch, str(rollout.mask.device), level
            )
            self.__dict__["scorer"] = found  # a frozen dataclass keeps it as cached_property would
        return found

    def _answers(self, rollout: Rollout) -> list[Answer]:
        reader = self._scorer(rollout).reader
        special = sorted(reader.special, key=len, reverse=True) if reader.form == "chat" else []
        rows = zip(rollout.prompts, rollout.responses, rollout.finished.tolist(), strict=True)
        return [Answer(Example("", _defused(p, special)), _defused(r, special), bool(end)) for p, r, end in rows]

    def _known(self, value: Any, reason: str) -> Any:
        if value is None:
            fix = TOO_LONG if "longer than" in reason else ""
            raise BenchError(f"The reward model {self.source} cannot score a response: {reason}.", fix)
        return value


def config_file(source: str) -> Path:
    """A model's config.json; of a hub id it lies in the cache, in a folder named by the commit."""
    path = Path(source).expanduser()
    return path / "config.json" if path.is_dir() else _downloaded(source)


@lru_cache
def _downloaded(source: str) -> Path:
    """Asked once: all cells of a run get one commit."""
    from huggingface_hub import hf_hub_download

    from rlhf_bench.harness.hub import split_revision, why_not

    name, revision = split_revision(source)
    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:
        raise why_not(error, source, "reward model") from error


def model_content(source: str) -> Mapping[str, str]:
    """What a model's name stands for: a folder's files by hash, or the commit of a hub id."""
    from rlhf_bench.harness.models.identity import folder_hash

    path = Path(source).expanduser()
    return {"sha256": folder_hash(path)} if path.is_dir() else {"commit": config_file(source).parent.name}


def pinned(source: str, content: Mapping[str, str]) -> str:
    """The source as a loader takes it: a hub id at its commit."""
    from rlhf_bench.harness.hub import split_revision

    return f"{split_revision(source)[0]}@{content['commit']}" if "commit" in content else source


def _defused(text: str, special: Sequence[str]) -> str:
    for token in special:
        text = text.replace(token, f"{token[:1]} {token[1:]}")
    return text


hub_token = partial(HubReward, level="token")
