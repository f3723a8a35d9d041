"""White-box rewards (arXiv 2402.03469): products of features that anyone can recompute, one score per response.

LI length, RP repetition, QR relevance to the prompt, RAR relevance to a reference answer.  Nothing is learned.  What a
policy bought its reward with is in the diagnostics, response by response.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import inf
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.slices import PromptType, declared_type, type_by_rule
from rlhf_bench.reward_models.embeddings import TFIDF, Relevance, folder_content, make_relevance
from rlhf_bench.reward_models.features import length_incentive, repetition_penalty, words

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]
Features = dict[str, Array]

BRANCHING = "whitebox"
FEATURES = ("li", "rp", "qr", "rar")
TYPES = ("auto", "slice", "rule", "open", "closed")
REFERENCES = ("first", "best")
NEEDS_EXAMPLES = "Score through `bench run`, which shows it the task's examples."


class Known(NamedTuple):
    """What an example says of its prompt."""

    type: PromptType | None
    references: tuple[str, ...]


@dataclass(frozen=True)
class Whitebox:
    """`formula` is a product of features, such as "li*qr*rp", or "whitebox", which branches on the prompt's type:

        open-ended: LI * QR * RP        closed-ended: RAR / relevance_range * (max_len / length_unit) * RP

    with LI = tokens / length_unit and RP over n-grams of `ngram` tokens.  The constants are those of the paper's code.
    `embedding` is "tfidf" (a lexical stand-in, a cosine: relevance_range=1 spans it as 3.5 spans Contriever's dots) or
    a sentence encoder's folder or hub id (the paper's: facebook/contriever), read by `embedding_tokens` and
    `embedding_batch` at most.  `types` says where a prompt's type comes from: its example's slice open or closed
    ("slice"), a rule on its text ("rule", slices.type_by_rule), the slice where there is one and else the rule
    ("auto"), or one type for all.  `references`: relevance to the "first" reference or to the "best" of them.

    A response without content has relevance 0.
    """

    formula: str = BRANCHING
    embedding: str = TFIDF
    length_unit: float = 100.0
    ngram: int = 3
    relevance_range: float = 3.5
    max_len: int = 512
    types: str = "auto"
    references: str = "first"
    embedding_tokens: int = 512
    embedding_batch: int = 1

    def __post_init__(self) -> None:
        parts = self.parts
        if self.formula != BRANCHING and (len(set(parts)) < len(parts) or not set(parts) <= set(FEATURES)):
            fix = f"It is whitebox or a product of distinct features ({', '.join(FEATURES)}), such as li*rp."
            raise BenchError(f"formula={self.formula!r} is unknown.", fix)
        for key, allowed in (("types", TYPES), ("references", REFERENCES)):
            if getattr(self, key) not in allowed:
                raise BenchError(f"{key}={getattr(self, key)!r} is unknown.", did_you_mean(getattr(self, key), allowed))
        if not self.embedding.strip():
            raise BenchError("embedding is empty.", "Give tfidf, a folder, or a hub id such as facebook/contriever.")
        for key in ("length_unit", "ngram", "relevance_range", "max_len", "embedding_tokens", "embedding_batch"):
            if not 0 < getattr(self, key) < inf:
                raise BenchError(f"{key}={getattr(self, key)} of a white-box reward must be above 0.")

    @property
    def content(self) -> dict[str, str]:
        """What the embedding is when it is a folder: the hash of its files."""
        return folder_content(self.embedding)

    @property
    def parts(self) -> list[str]:
        """The formula's features."""
        return ["li", "qr", "rar", "rp"] if self.formula == BRANCHING else self.formula.split("*")

    def with_examples(self, examples: Mapping[str, Sequence[Example]]) -> WhiteboxScorer:
        """The scorer that knows these examples, by split: TF-IDF is fitted on the prompts of "train".

        Raises BenchError where a prompt's type is unknown or a reference answer is missing that the formula needs.
        """
        known = gather(example for split in examples.values() for example in split)
        scorer = WhiteboxScorer(self, known, [e.prompt for e in examples.get("train", ())])
        lacking = [prompt for prompt in known if scorer.why_not(prompt)]
        if lacking:
            seen = f"{len(lacking)} of {len(known)} prompts: {scorer.why_not(lacking[0])}, e.g. {_short(lacking[0])}."
            raise BenchError(seen, scorer.remedy(lacking[0]))
        return scorer

    @cached_property
    def _blind(self) -> WhiteboxScorer:
        return WhiteboxScorer(self, {}, ())

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] without any example: what prompts and responses alone allow."""
        return self._blind.rewards(rollout)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        return self._blind.diagnostics(rollout)


length = partial(Whitebox, formula="li")
repetition = partial(Whitebox, formula="rp")
query_relevance = partial(Whitebox, formula="qr")
reference_relevance = partial(Whitebox, formula="rar")
length_repetition = partial(Whitebox, formula="li*rp")
length_query_repetition = partial(Whitebox, formula="li*qr*rp")


class WhiteboxScorer:
    """White-box rewards with what is known of the prompts; `fitted` are the texts that TF-IDF counts words in."""

    def __init__(self, settings: Whitebox, known: Mapping[str, Known], fitted: Sequence[str]) -> None:
        self.settings, self.known, self._fitted = settings, known, fitted

    @cached_property
    def relevance(self) -> Relevance:
        s = self.settings
        if s.embedding == TFIDF and not self._fitted:
            raise BenchError(
                f"formula={s.formula} with embedding=tfidf has no prompts to be fitted on.", NEEDS_EXAMPLES
            )
        return make_relevance(s.embedding, self._fitted, s.embedding_tokens, s.embedding_batch)

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T]: the formula's value on the last response token."""
        import torch

        from rlhf_bench.reward_models.extraction import on_last_token

        scores = self.scores(rollout.prompts, rollout.responses, str(rollout.mask.device))
        return on_last_token(torch.from_numpy(scores).to(rollout.mask.device, torch.float32), rollout.mask)

    def scores(self, prompts: Sequence[str], responses: Sequence[str], device: str = "cpu") -> Array:
        """[n] the formula's value for each response."""
        found, s = self.features(prompts, responses, device), self.settings
        if s.formula != BRANCHING:
            return np.asarray(np.prod([found[part] for part in s.parts], axis=0))
        open_ended = found["li"] * found["qr_open"]
        closed = found["rar_closed"] / s.relevance_range * (s.max_len / s.length_unit)
        return np.asarray(np.where(found["closed"] > 0, closed, open_ended) * found["rp"])

    def features(self, prompts: Sequence[str], responses: Sequence[str], device: str = "cpu") -> Features:
        """[n] each feature by name.

        li and rp always; qr and rar where the formula has them.  When it branches: `closed` 1 for a closed-ended
        prompt, `type_by_rule` 1 where that is a guess, `qr_open` and `rar_closed` 0 for prompts of the other type.
        """
        s, found = self.settings, self._of_text(responses)
        everything = np.ones(len(prompts), dtype=bool)
        if s.formula == BRANCHING:
            closed = np.array([self.type_of(prompt) == "closed" for prompt in prompts], dtype=bool)
            guessed = [self._guessed(prompt) for prompt in prompts]
            found |= {"closed": closed.astype(np.float64), "type_by_rule": np.array(guessed, dtype=np.float64)}
            found["qr_open"] = self._to_query(prompts, responses, ~closed, device)
            found["rar_closed"] = self._to_reference(prompts, responses, closed, device)
            return found
        if "rar" in s.parts:
            found["rar"] = self._to_reference(prompts, responses, everything, device)
        if "qr" in s.parts or (s.embedding == TFIDF and self._fitted):  # the latter costs nothing: logged anyway
            found["qr"] = self._to_query(prompts, responses, everything, device)
        return found

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """The features [B] of every response: what the reward was earned with."""
        import torch

        device = rollout.mask.device
        found = self.features(rollout.prompts, rollout.responses, str(device))
        return {name: torch.from_numpy(values).to(device, torch.float32) for name, values in found.items()}

    # ---- prompts ----------------------------------------------------------------------------------------------------

    def why_not(self, prompt: str) -> str:
        """Why the formula cannot be computed for responses to this prompt; "" where it can."""
        branches = self.settings.formula == BRANCHING
        if branches and self._stated(prompt) is None and self.settings.types == "slice":
            return "no example says whether it is open-ended or closed-ended"
        needed = self.type_of(prompt) == "closed" if branches else "rar" in self.settings.parts
        return "RAR has no reference answer" if needed and not self._references(prompt) else ""

    def remedy(self, prompt: str) -> str:
        """How to go on where `why_not` says something."""
        if "RAR" in self.why_not(prompt):
            return "Give references, or choose a formula without RAR (whitebox with types=open, li*qr*rp, li*rp)."
        return "Give examples a slice open or closed, or set types to auto, rule, open or closed."

    def type_of(self, prompt: str) -> PromptType:
        """The prompt's type, as the setting `types` says.  Raises BenchError where nothing states it."""
        if self.settings.types in ("open", "closed"):
            return "open" if self.settings.types == "open" else "closed"
        stated = self._stated(prompt)
        if stated is None and self.settings.types == "slice":
            raise self._refusal(prompt)
        return stated or type_by_rule(prompt)

    def _stated(self, prompt: str) -> PromptType | None:
        return self.known[prompt].type if self.settings.types != "rule" and prompt in self.known else None

    def _guessed(self, prompt: str) -> bool:
        return self.settings.types not in ("open", "closed") and self._stated(prompt) is None

    def _references(self, prompt: str) -> tuple[str, ...]:
        found = self.known[prompt].references if prompt in self.known else ()
        return found[:1] if self.settings.references == "first" else found

    def _refusal(self, prompt: str) -> BenchError:
        return BenchError(f"{self.why_not(prompt)}: {_short(prompt)}.", self.remedy(prompt))

    # ---- features ---------------------------------------------------------------------------------------------------

    def _of_text(self, responses: Sequence[str]) -> Features:
        tokens, s = [words(text) for text in responses], self.settings
        return {
            "li": np.array([length_incentive(row, s.length_unit) for row in tokens], dtype=np.float64),
            "rp": np.array([repetition_penalty(row, s.ngram) for row in tokens], dtype=np.float64),
        }

    def _to_query(
        self, prompts: Sequence[str], responses: Sequence[str], rows: npt.NDArray[np.bool_], on: str
    ) -> Array:
        found, chosen = np.zeros(len(prompts)), np.flatnonzero(rows).tolist()
        if chosen:
            found[chosen] = self.relevance.dots([prompts[i] for i in chosen], [responses[i] for i in chosen], on)
        return found

    def _to_reference(
        self, prompts: Sequence[str], responses: Sequence[str], rows: npt.NDArray[np.bool_], on: str
    ) -> Array:
        found, chosen = np.zeros(len(prompts)), np.flatnonzero(rows).tolist()
        for i in chosen:
            if self.why_not(prompts[i]):
                raise self._refusal(prompts[i])
        pairs = [(i, text) for i in chosen for text in self._references(prompts[i])]
        if pairs:
            at = np.array([i for i, _ in pairs])
            found[at] = -inf
            dots = self.relevance.dots([text for _, text in pairs], [responses[i] for i, _ in pairs], on)
            np.maximum.at(found, at, dots)
        return found


def gather(examples: Iterable[Example]) -> dict[str, Known]:
    """What is known of each prompt; examples with an equal prompt add up their references.

    Raises BenchError where they state different types.
    """
    found: dict[str, Known] = {}
    for example in examples:
        kind, before = declared_type(example), found.get(example.prompt, Known(None, ()))
        if kind and before.type and kind != before.type:
            seen = f"Examples with one prompt are open-ended and closed-ended, e.g. {example.id!r}."
            raise BenchError(seen, "State one type for each prompt.")
        texts = [text for text in (example.completion, *example.references) if text.strip()]
        references = tuple(dict.fromkeys([*before.references, *texts]))
        found[example.prompt] = Known(kind or before.type, references)
    return found


def _short(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= longest else f"{line[: longest - 3]}...")
