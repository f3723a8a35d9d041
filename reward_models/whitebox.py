"""White-box rewards (arXiv 2402.03469): products of features that can be recomputed by hand, one score per response.

LI length incentive, RP repetition penalty, QR relevance to the prompt, RAR relevance to a reference answer.  Nothing is
learned.  The diagnostics hold the features of each response.
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
from rlhf_bench.harness.slices import PromptType, beyond_rule, declared_type, type_by_rule
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
NEEDS_EXAMPLES = "Score through `bench run`, which passes it the task's examples."


class PromptFacts(NamedTuple):
    """What the examples with one prompt state about it; `type` is None where none states it."""

    type: PromptType | None
    references: tuple[str, ...]


@dataclass(frozen=True)
class Whitebox:
    """White-box: length, no repetition, and relevance to the prompt or (closed-ended prompts) to the reference answer.

    `formula` is a product of features, such as "li*qr*rp", or "whitebox", which depends on the prompt's type:

        open-ended: LI * QR * RP        closed-ended: RAR / relevance_range * (max_len / length_unit) * RP

    with LI = tokens / length_unit and RP over n-grams of `ngram` tokens; tokens are words and runs of punctuation
    (features.words), in scripts without spaces characters.  The constants are those of the paper's code.  A response
    without content has relevance 0.

    `embedding` is "tfidf" (lexical, a cosine: relevance_range=1 spans it as 3.5 spans Contriever's dot products) or a
    sentence encoder's folder or hub id (the paper's: facebook/contriever), which reads at most `embedding_tokens`
    tokens of a text and `embedding_batch` texts at a time.  An encoder with a modules.json is read as that says; where
    it normalises, relevance is a cosine, too.

    `types` says where a prompt's type comes from: "slice", its example's slice open or closed; "rule", a rule on its
    text (slices.type_by_rule); "auto", the slice where there is one and else the rule; "open" or "closed" for all.
    `references`: relevance to the "first" reference or to the "best" of them.
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
            # written so that NaN is refused too
            if not 0 < getattr(self, key) < inf:
                raise BenchError(f"{key}={getattr(self, key)} of a white-box reward must be above 0.")

    @property
    def content(self) -> dict[str, str]:
        """The hash of the embedding's files where it is a folder, else nothing."""
        return folder_content(self.embedding)

    @property
    def parts(self) -> list[str]:
        """The formula's features.

        All four for "whitebox", else as the formula writes them.
        """
        return ["li", "qr", "rar", "rp"] if self.formula == BRANCHING else self.formula.split("*")

    def with_examples(self, examples: Mapping[str, Sequence[Example]]) -> WhiteboxScorer:
        """The scorer with the facts of these examples, by split; TF-IDF is fitted on the prompts of "train".

        Raises BenchError where the formula needs a prompt's type or a reference answer that no example states.
        """
        facts = prompt_facts(example for split in examples.values() for example in split)
        # fitted on "train" in every stage: word counts, and so rewards, must not differ between stages
        scorer = WhiteboxScorer(self, facts, [e.prompt for e in examples.get("train", ())])
        lacking = [prompt for prompt in facts if scorer.why_not(prompt)]
        if lacking:
            first = lacking[0]
            seen = f"{len(lacking)} of {len(facts)} prompts: {scorer.why_not(first)}, e.g. {_excerpt(first)}."
            raise BenchError(seen, scorer.fix(first))
        return scorer

    @cached_property
    def _without_examples(self) -> WhiteboxScorer:
        return WhiteboxScorer(self, {}, ())

    def rewards(self, rollout: Rollout) -> Tensor:
        """Rewards [B, T] from prompts and responses alone.

        Raises BenchError where the formula needs the task's examples: see `with_examples`.
        """
        return self._without_examples.rewards(rollout)

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """The features [B] of every response, from prompts and responses alone."""
        return self._without_examples.diagnostics(rollout)


# `bench list` shows the docstrings of the variants.
length = partial(Whitebox, formula="li")
length.__doc__ = "White-box: the length of the response in words."
repetition = partial(Whitebox, formula="rp")
repetition.__doc__ = "White-box: no repetition, the share of distinct n-grams."
query_relevance = partial(Whitebox, formula="qr")
query_relevance.__doc__ = "White-box: relevance of the response to the prompt."
reference_relevance = partial(Whitebox, formula="rar")
reference_relevance.__doc__ = "White-box: relevance of the response to the reference answer."
length_repetition = partial(Whitebox, formula="li*rp")
length_repetition.__doc__ = "White-box: length times no repetition."
length_query_repetition = partial(Whitebox, formula="li*qr*rp")
length_query_repetition.__doc__ = "White-box: length times relevance to the prompt times no repetition."


class WhiteboxScorer:
    """White-box rewards by `settings`; `facts` by prompt; `fitted` are the texts in which TF-IDF counts words."""

    def __init__(self, settings: Whitebox, facts: Mapping[str, PromptFacts], fitted: Sequence[str]) -> None:
        self.settings, self.facts, self._fitted = settings, facts, fitted

    @cached_property
    def relevance(self) -> Relevance:
        """The measure of relevance.  Raises BenchError for TF-IDF without texts to be fitted on."""
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
        """[n] the formula's value for each response, in float64.

        Raises BenchError as `features`.
        """
        found, s = self.features(prompts, responses, device), self.settings
        if s.formula != BRANCHING:
            return np.asarray(np.prod([found[part] for part in s.parts], axis=0))
        open_ended = found["li"] * found["qr_open"]
        # The paper scales RAR to the range of LI: relevance 0..relevance_range to 0..max_len / length_unit.
        closed = found["rar_closed"] / s.relevance_range * (s.max_len / s.length_unit)
        return np.asarray(np.where(found["closed"] > 0, closed, open_ended) * found["rp"])

    def features(self, prompts: Sequence[str], responses: Sequence[str], device: str = "cpu") -> Features:
        """[n] each feature by name.

        `li` and `rp` always; `qr` and `rar` where the formula has them.  Under "whitebox": `closed` 1 for a
        closed-ended prompt, `type_by_rule` 1 where the rule decided that, `qr_open` and `rar_closed` 0 for prompts of
        the other type.  Raises BenchError for a prompt without the type or the reference that the formula needs.
        """
        s = self.settings
        tokens = [words(text) for text in responses]
        found: Features = {
            "li": np.array([length_incentive(row, s.length_unit) for row in tokens], dtype=np.float64),
            "rp": np.array([repetition_penalty(row, s.ngram) for row in tokens], dtype=np.float64),
        }
        everything = np.ones(len(prompts), dtype=bool)
        if s.formula == BRANCHING:
            closed = np.array([self.type_of(prompt) == "closed" for prompt in prompts], dtype=bool)
            # a type that is set for all prompts is no guess of the rule's
            by_rule = [s.types not in ("open", "closed") and self._stated_type(prompt) is None for prompt in prompts]
            found |= {"closed": closed.astype(np.float64), "type_by_rule": np.array(by_rule, dtype=np.float64)}
            found["qr_open"] = self._query_relevance(prompts, responses, ~closed, device)
            found["rar_closed"] = self._reference_relevance(prompts, responses, closed, device)
            return found
        if "rar" in s.parts:
            found["rar"] = self._reference_relevance(prompts, responses, everything, device)
        # TF-IDF is cheap, so relevance to the prompt is logged even where the formula does not use it.
        if "qr" in s.parts or (s.embedding == TFIDF and self._fitted):
            found["qr"] = self._query_relevance(prompts, responses, everything, device)
        return found

    def diagnostics(self, rollout: Rollout) -> dict[str, Tensor]:
        """The features [B] of every response: what the reward consists of.

        float32, on the rollout's device; the names are those of `features`.
        """
        import torch

        device = rollout.mask.device
        found = self.features(rollout.prompts, rollout.responses, str(device))
        return {name: torch.from_numpy(values).to(device, torch.float32) for name, values in found.items()}

    # ---- prompts ----------------------------------------------------------------------------------------------------

    def why_not(self, prompt: str) -> str:
        """Why the formula cannot be computed for responses to this prompt; "" where it can.

        Pairs on such prompts are counted and left out of the accuracy (seams.MayDecline).
        """
        branches = self.settings.formula == BRANCHING
        if branches and self._stated_type(prompt) is None and self.settings.types == "slice":
            return "no example says whether it is open-ended or closed-ended"
        guessed = self.settings.types in ("auto", "rule") and self._stated_type(prompt) is None
        if branches and guessed and beyond_rule(prompt):
            return "the rule for a prompt's type reads English, this is in another script"
        needed = self.type_of(prompt) == "closed" if branches else "rar" in self.settings.parts
        return "RAR has no reference answer" if needed and not self._references(prompt) else ""

    def fix(self, prompt: str) -> str:
        """What the user can do where `why_not` returns a reason."""
        if "RAR" in self.why_not(prompt):
            return "Give references, or choose a formula without RAR (whitebox with types=open, li*qr*rp, li*rp)."
        if beyond_rule(prompt):
            return "Give examples a slice open or closed, or set types to open or closed."
        return "Give examples a slice open or closed, or set types to auto, rule, open or closed."

    def type_of(self, prompt: str) -> PromptType:
        """The prompt's type, by the setting `types`.  Raises BenchError under "slice" where no example states it."""
        if self.settings.types in ("open", "closed"):
            return "open" if self.settings.types == "open" else "closed"
        stated = self._stated_type(prompt)
        if stated is None and self.settings.types == "slice":
            raise self._error(prompt)
        return stated or type_by_rule(prompt)

    def _stated_type(self, prompt: str) -> PromptType | None:
        return self.facts[prompt].type if self.settings.types != "rule" and prompt in self.facts else None

    def _references(self, prompt: str) -> tuple[str, ...]:
        found = self.facts[prompt].references if prompt in self.facts else ()
        # the completion comes before the further references (`prompt_facts`)
        return found[:1] if self.settings.references == "first" else found

    def _error(self, prompt: str) -> BenchError:
        return BenchError(f"{self.why_not(prompt)}: {_excerpt(prompt)}.", self.fix(prompt))

    # ---- relevance --------------------------------------------------------------------------------------------------

    def _query_relevance(
        self, prompts: Sequence[str], responses: Sequence[str], rows: npt.NDArray[np.bool_], device: str
    ) -> Array:
        """QR [n] of the True entries of `rows` [n], 0 elsewhere."""
        found, chosen = np.zeros(len(prompts)), np.flatnonzero(rows).tolist()
        if chosen:  # an embedding model is not loaded for nothing
            found[chosen] = self.relevance.dots([prompts[i] for i in chosen], [responses[i] for i in chosen], device)
        return found

    def _reference_relevance(
        self, prompts: Sequence[str], responses: Sequence[str], rows: npt.NDArray[np.bool_], device: str
    ) -> Array:
        """RAR [n] of the True entries of `rows` [n], 0 elsewhere: the largest over a prompt's references."""
        found, chosen = np.zeros(len(prompts)), np.flatnonzero(rows).tolist()
        for i in chosen:
            if self.why_not(prompts[i]):
                raise self._error(prompts[i])
        pairs = [(i, text) for i in chosen for text in self._references(prompts[i])]
        if pairs:
            at = np.array([i for i, _ in pairs])
            # the start of a maximum: dot products may be negative
            found[at] = -inf
            dots = self.relevance.dots([text for _, text in pairs], [responses[i] for i, _ in pairs], device)
            np.maximum.at(found, at, dots)
        return found


def prompt_facts(examples: Iterable[Example]) -> dict[str, PromptFacts]:
    """The facts of each prompt; the references of examples with an equal prompt are joined, without repetition.

    Raises BenchError where such examples state different types.
    """
    found: dict[str, PromptFacts] = {}
    for example in examples:
        stated, before = declared_type(example), found.get(example.prompt, PromptFacts(None, ()))
        if stated and before.type and stated != before.type:
            seen = f"Examples with one prompt are open-ended and closed-ended, e.g. {example.id!r}."
            raise BenchError(seen, "State one type for each prompt.")
        # a demonstration is a reference answer too, and the first one
        texts = [text for text in (example.completion, *example.references) if text.strip()]
        references = tuple(dict.fromkeys([*before.references, *texts]))
        found[example.prompt] = PromptFacts(stated or before.type, references)
    return found


def _excerpt(text: str, longest: int = 60) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= longest else f"{line[: longest - 3]}...")
