"""Similarity of a response to the references by a sentence encoder: the scorer embedding:FOLDER_OR_HUB_ID."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Answer, Example, Scored
from rlhf_bench.reward_models.embeddings import TFIDF, Encoder, check_encoder, folder_content

if TYPE_CHECKING:
    import numpy.typing as npt

TOKENS = 512
"""Tokens of a text that are read, the last ones; fewer where the encoder has fewer positions."""


class Similarity:
    """Cosine similarity of the embeddings of response and reference, the largest over the references, in [-1, 1].

    It measures closeness of topic and wording to the references, not truth.  `source` is a folder or a hub id of a
    sentence encoder, which pools and normalises as its `modules.json` says (reward_models/embeddings.py); the cosine
    itself needs no normalised vectors.  A demonstration counts as a reference.  An empty response is like nothing: 0.

    Raises BenchError for a source that is no encoder; without a reference it does not decide.
    """

    def __init__(self, source: str) -> None:
        check_source(source)
        self._encoder = Encoder(source, TOKENS)

    def __call__(self, example: Example, response: str) -> float | None:
        """The score of one response, None without a reference."""
        return self.scores([Answer(example, response)])[0].value

    def scores(self, answers: Sequence[Answer]) -> list[Scored]:
        """One score per answer, in order; undecided, with the reason, without a reference."""
        found = []
        for answer in answers:
            # one text at a time: `Encoder` caches vectors, and a text's does not depend on the others
            references = references_of(answer.example)
            if references:
                vectors = self._encoder.embed([answer.response, *references])
                found.append(Scored(max(cosine(vectors[0], other) for other in vectors[1:])))
            else:
                found.append(Scored(None, "no reference to compare with"))
        return found


def references_of(example: Example) -> list[str]:
    """The demonstration and the references of an example, those that hold something."""
    return [text for text in (example.completion, *example.references) if text.strip()]


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """The cosine of two vectors [width]; 0 where one of them has length 0."""
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.clip(a @ b / size, -1.0, 1.0)) if size else 0.0


def check_source(source: str) -> None:
    """Raises BenchError where a source cannot be a sentence encoder.  Neither weights nor the hub are read."""
    if not source.strip() or source == TFIDF:
        raise BenchError(f"embedding:{source} names no sentence encoder.", "Write embedding:FOLDER_OR_HUB_ID.")
    check_encoder(source)


def source_content(source: str) -> Mapping[str, str]:
    """The hash of an encoder's folder; {} for a hub id, which the name pins or not.  Raises as `check_source`."""
    check_source(source)
    return folder_content(source)
