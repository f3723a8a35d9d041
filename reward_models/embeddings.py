"""Relevance of one text to another: the dot product of sentence embeddings, or of TF-IDF vectors without a model.

The white-box paper (arXiv 2402.03469) uses Contriever: the mean of the last layer over the tokens, not normalised.
What an encoder of sentence-transformers does instead is in its files (sentence_modules.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import is_hub_id, split_revision
from rlhf_bench.harness.models.gguf_files import refuse_gguf
from rlhf_bench.harness.models.micro_batch import MicroBatchLimit, Row
from rlhf_bench.harness.printable import well_formed
from rlhf_bench.harness.text.tokens import check_has_vocabulary
from rlhf_bench.harness.text.vet import check_bounded
from rlhf_bench.harness.text.words import normal
from rlhf_bench.reward_models.features import words
from rlhf_bench.reward_models.sentence_modules import SentenceModules, module_files, read_modules

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import CausalLM
    from rlhf_bench.harness.text.types import Tokenizer

Array = npt.NDArray[np.float64]
T = TypeVar("T")

TFIDF = "tfidf"
CACHED_TEXTS = 8_000
"""Texts whose vectors are cached: PPO scores the same prompts and references many times."""


class Relevance(Protocol):
    """Scores pairs of texts; a text without content gets 0 with every other.

    A white-box reward uses it for the relevance of a response to its prompt and to a reference.
    """

    def dots(self, first: Sequence[str], second: Sequence[str], device: str = "cpu") -> Array:
        """[n] the dot product of the embeddings of first[i] and second[i]."""


class TfIdf:
    """The cosine of TF-IDF vectors over lower-case words, in [0, 1]: a lexical measure, not a sentence embedding.

    In scripts without spaces every character is a word.

    Weight = count * (log((1 + n) / (1 + df)) + 1), vectors of length 1 (the smooth form of scikit-learn).  n is the
    number of distinct fitted texts and df counts those that hold the word.  A word in none of them has df 0 and counts
    too, so adding unrelated words costs relevance.  Synonyms have nothing in common.

    Raises BenchError where no fitted text has a word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(texts))
        if not any(map(_terms, distinct)):
            raise BenchError(
                f"embedding=tfidf was fitted on {len(distinct)} prompts without a word.",
                "Give it the task's prompts, or name an embedding model.",
            )
        counts = Counter(term for text in distinct for term in set(_terms(text)))
        self._unseen = math.log(1 + len(distinct)) + 1  # df = 0
        self._idf = {term: math.log((1 + len(distinct)) / (1 + df)) + 1 for term, df in counts.items()}
        self._vectors: dict[str, Mapping[str, float]] = {}

    def dots(self, first: Sequence[str], second: Sequence[str], device: str = "cpu") -> Array:  # noqa: ARG002
        """[n] the cosine of first[i] and second[i].

        Vectors are cached by text; `device` is not used.
        """
        found = []
        for a, b in zip(map(self._vector, first), map(self._vector, second), strict=True):
            # fsum is exact and the minimum removes rounding: a text's cosine with itself is 1
            found.append(min(1.0, math.fsum(weight * b[term] for term, weight in a.items() if term in b)))
        return np.array(found, dtype=np.float64)

    def _vector(self, text: str) -> Mapping[str, float]:
        if text not in self._vectors:
            # sorted, so that rounding does not depend on the order of words
            weights = {t: n * self._idf.get(t, self._unseen) for t, n in sorted(Counter(_terms(text)).items())}
            norm = math.hypot(*weights.values())
            _add_to_cache(self._vectors, {text: {term: weight / norm for term, weight in weights.items()}})
        return self._vectors[text]


def _terms(text: str) -> list[str]:
    # without runs of punctuation: shared full stops are no relevance
    return [word.lower() for word in words(normal(text)) if any(map(str.isalnum, word))]


def _add_to_cache(cache: dict[str, T], fresh: Mapping[str, T]) -> None:
    """Add `fresh` and delete the oldest entries beyond CACHED_TEXTS."""
    # dicts keep insertion order, so the first entries are the oldest
    cache |= fresh
    for text in list(islice(cache, max(0, len(cache) - max(CACHED_TEXTS, len(fresh))))):
        del cache[text]


class Encoder:
    """Any `transformers` encoder, by folder or hub id: the mean of its last layer over the text's tokens.

    With a modules.json the sentence vector is what that file says: its pooling, normalisation and longest text.

    Texts of more than `tokens` tokens keep their end, as in the paper's code; with a modules.json the part that its
    tokenizer keeps, which is the start unless it says otherwise.  By default one text goes through the
    model at a time: only then is a text's vector independent of the others in its batch to the last bit, so that a
    resumed run gets the rewards of an undisturbed one.
    """

    def __init__(self, source: str, tokens: int = 512, batch: int = 1) -> None:
        path = Path(source).expanduser()
        self.source, self.revision = (str(path), None) if path.is_dir() else split_revision(source)
        self.tokens, self.batch = tokens, batch
        self._limit, self._row = MicroBatchLimit(), Row(f"embedding texts with {self.source}", tokens)
        self._vectors: dict[str, Array] = {}
        self._width: int | None = None

    def dots(self, first: Sequence[str], second: Sequence[str], device: str = "cpu") -> Array:
        """[n] the dot product of the embeddings of first[i] and second[i]."""
        vectors = self.embed([*first, *second], device)
        product: Array = (vectors[: len(first)] * vectors[len(first) :]).sum(axis=1)
        return product

    def embed(self, texts: Sequence[str], device: str = "cpu") -> Array:
        """[n, width] in float64, a row of zeros for a text without content.

        Raises BenchError where the model's output is no embedding: not finite, or of another width than before.
        """
        distinct = list(dict.fromkeys(text for text in texts if text.strip()))
        # taken out first: the new vectors may push these out of the cache
        vectors = {text: self._vectors[text] for text in distinct if text in self._vectors}
        missing = [text for text in distinct if text not in vectors]
        found = self._limit.each(lambda part: list(self._forward(part, device)), missing, self.batch, self._row)
        vectors |= dict(zip(missing, found, strict=True))
        _add_to_cache(self._vectors, {text: vectors[text] for text in missing})
        # before the first text with content the width is unknown
        width = self._width or 0
        return np.array([vectors.get(text, np.zeros(width)) for text in texts]).reshape(len(texts), width)

    @cached_property
    def modules(self) -> SentenceModules | None:
        """What the encoder's modules.json says, None without one.  Raises BenchError for what is not known here."""
        check_encoder(self.source)
        return read_modules(self.source, self.revision)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The encoder's tokenizer, which pads on the right; without a modules.json it truncates on the left.

        Raises BenchError where there is none, or one without tokens of text.
        """
        from transformers import AutoTokenizer

        tokenizer: Tokenizer = self._load(AutoTokenizer.from_pretrained, "tokenizer")
        check_has_vocabulary(tokenizer, self.source)
        check_bounded(tokenizer, self.source)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # padding is masked, so any token will do
        tokenizer.padding_side = "right"
        if self.modules is None:
            tokenizer.truncation_side = "left"
        return tokenizer

    @cached_property
    def model(self) -> CausalLM:
        """The encoder in float32 evaluation mode.  Raises BenchError where weights that the mean needs are missing."""
        import torch
        from transformers import AutoModel

        from rlhf_bench.harness.models.policies import quiet_transformers

        options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
        with quiet_transformers():
            model, report = self._load(AutoModel.from_pretrained, "model", **options)
        # The pooler's weights may be missing: it is not used here.
        missing = sorted(str(key) for key in report["missing_keys"] if "pooler" not in str(key))
        if missing:
            raise BenchError(f"The weights of {self.source} lack {missing[0]}.", "Give an encoder that was trained.")
        encoder: CausalLM = model.eval()
        return encoder

    def _load(self, load: Callable[..., T], what: str, **options: object) -> T:
        """What `load` (a `from_pretrained`) makes of the source; raises BenchError where it fails for any reason."""
        from rlhf_bench.harness.hub import OFFLINE

        source = self.source
        if self.modules and self.modules.folder:  # older encoders keep the Transformer in a folder of its own
            if Path(source).is_dir():
                source = str(Path(source) / self.modules.folder)
            else:
                options["subfolder"] = self.modules.folder
        if self.revision:
            options["revision"] = self.revision
        try:
            return load(source, trust_remote_code=False, **options)
        except Exception as error:
            raise BenchError(
                f"The embedding {what} of {self.source} cannot be loaded: {one_line(error)}.",
                "Give a model folder with safetensors weights." if Path(self.source).is_dir() else OFFLINE,
            ) from error

    def _forward(self, texts: Sequence[str], device: str) -> Array:
        """[n, width] the checked vectors of one batch of texts with content."""
        import torch

        from rlhf_bench.harness.models.policies import context_length

        modules = self.modules or SentenceModules()
        # longer texts would exceed the learned positions of the model
        longest = min(self.tokens, context_length(self.model) or self.tokens)
        if self.modules:
            # positions of some encoders start at 2, which their tokenizer's own limit counts
            longest = min(longest, modules.longest or longest, self.tokenizer.model_max_length)
            texts = [modules.prompt + (text.lower() if modules.lower else text) for text in texts]
        # tokenizers raise on lone surrogates
        rows = self.tokenizer(
            list(map(well_formed, texts)), truncation=True, max_length=longest, padding=True, return_tensors="pt"
        )
        inputs = {name: value.to(device) for name, value in rows.items()}
        with torch.no_grad():
            hidden = self.model.to(device)(**inputs).last_hidden_state
        mask = inputs["attention_mask"]
        if hidden.ndim != 3 or tuple(hidden.shape[:2]) != tuple(mask.shape):
            raise BenchError(
                f"The embedding model {self.source} returned shape {list(hidden.shape)} for {list(mask.shape)} tokens.",
                "Give a model whose last_hidden_state is [batch, tokens, width].",
            )
        # float64: dot products add no rounding of their own
        vectors: Array = modules.vectors(hidden, mask).double().cpu().numpy()
        if not np.isfinite(vectors).all():
            raise BenchError(f"The embedding model {self.source} returned NaN or infinite numbers.", "Give another.")
        if self._width not in (None, vectors.shape[1]):
            raise BenchError(
                f"The embedding model {self.source} returned vectors of width {vectors.shape[1]} after {self._width}.",
                "Give a model with one width.",
            )
        self._width = vectors.shape[1]
        return vectors


def check_encoder(source: str) -> None:
    """Raises BenchError for a source that cannot be an embedding model, before hours of training.

    Neither weights nor the hub are read.
    """
    refuse_gguf(source)
    path = Path(source).expanduser()
    if path.is_dir():
        modules = read_modules(str(path))
        inner = path / (modules.folder if modules else "")
        if not (inner / "config.json").is_file():
            raise BenchError(f"{source} has no config.json: it is no model folder.", "Give a folder with one.")
    elif source != TFIDF and not is_hub_id(source):
        raise BenchError(f"There is no folder {source}.", "Give tfidf, a folder, or a hub id: facebook/contriever.")


def folder_content(source: str) -> dict[str, str]:
    """The hash of an embedding model's folder; {} for tfidf and hub ids, whose name (and revision) is in the settings.

    Raises BenchError as `check_encoder`.
    """
    from rlhf_bench.harness.models.identity import folder_hash

    check_encoder(source)
    path = Path(source).expanduser()
    if not path.is_dir():
        return {}
    # of a sentence encoder also what its modules hold, in folders of their own
    inner = sorted({file.parent for file in module_files(path)})
    return {"embedding": folder_hash(path), **{f"embedding/{one.name}": folder_hash(one) for one in inner}}


def make_relevance(name: str, prompts: Sequence[str], tokens: int, batch: int) -> Relevance:
    """The measure called `name`: "tfidf" (fitted on `prompts`), an encoder's folder, a hub id or ID@REVISION.

    tokens, batch: as in `Encoder`; TF-IDF reads whole texts.  Raises BenchError for prompts without a word to fit on.
    """
    return TfIdf(prompts) if name == TFIDF else Encoder(name, tokens, batch)
