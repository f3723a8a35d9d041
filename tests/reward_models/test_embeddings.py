"""Relevance of texts: TF-IDF against a slow reference, encoders against transformers itself, and what is refused."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import SENTENCES, Tiny

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.reward_models import embeddings
from rlhf_bench.reward_models.embeddings import Encoder, TfIdf, make_relevance
from rlhf_bench.reward_models.sentence_modules import pooled

texts = st.text(st.sampled_from(list("aabbc dé.,! \n🤖\ud800")), max_size=30)


# ---- TF-IDF ---------------------------------------------------------------------------------------------------------


def slow_cosine(fitted: list[str], one: str, other: str) -> float:
    """On dense vectors over all words that occur anywhere."""
    from rlhf_bench.reward_models.features import words

    def terms(text: str) -> list[str]:
        return [w.lower() for w in words(text) if any(c.isalnum() for c in w)]

    documents = list(dict.fromkeys(fitted))
    vocabulary = sorted({t for text in (*fitted, one, other) for t in terms(text)})
    df = [sum(t in terms(d) for d in documents) for t in vocabulary]
    idf = np.array([math.log((1 + len(documents)) / (1 + n)) + 1 for n in df])
    a, b = (np.array([Counter(terms(text))[t] for t in vocabulary]) * idf for text in (one, other))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


@given(st.lists(texts, min_size=1, max_size=4), texts, texts)
def test_tfidf_against_a_slow_reference(fitted: list[str], one: str, other: str) -> None:
    fitted = ["a word", *fitted]
    model = TfIdf(fitted)
    (found,) = model.dots([one], [other])
    assert found == pytest.approx(slow_cosine(fitted, one, other), abs=1e-12)
    assert model.dots([other], [one]) == pytest.approx([found])
    assert 0 <= found <= 1


def test_tfidf_by_hand() -> None:
    model = TfIdf(["sea", "sea wind", "sea"])  # two distinct prompts: df(sea) = 2, df(wind) = 1, n = 2
    sea, wind, unseen = 1.0, math.log(3 / 2) + 1, math.log(3) + 1
    assert model.dots(["Sea"], ["sea!"]).tolist() == [1]
    assert model.dots(["sea wind"], ["wind"]) == pytest.approx([wind / math.hypot(sea, wind)])
    assert model.dots(["sea"], ["sea fog fog"]) == pytest.approx([sea / math.hypot(sea, 2 * unseen)])
    assert model.dots(["sea", "", "."], ["wind", "sea", "."]).tolist() == [0, 0, 0]
    assert model.dots([], []).tolist() == []


@pytest.mark.parametrize("prompts", [[], ["", " ", "?!"]])
def test_tfidf_without_words(prompts: list[str]) -> None:
    with pytest.raises(BenchError, match=r"embedding=tfidf was fitted on \d prompts without a word"):
        TfIdf(prompts)


def test_what_is_remembered_is_bounded_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "CACHED_TEXTS", 3)
    model = TfIdf(list(SENTENCES))
    first = model.dots(SENTENCES, SENTENCES[::-1])
    for i in range(10):
        model.dots([f"text {i}"], ["other"])
        assert len(model._vectors) <= 3
    assert model.dots(SENTENCES, SENTENCES[::-1]).tolist() == first.tolist()


# ---- encoders -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def bert(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT without pooler, as Contriever is one, with a byte-level tokenizer."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=40, **size)
    folder = tmp_path_factory.mktemp("bert")
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_texts_are_embedded_in_parts_where_memory_requires_it(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Encoder(str(bert), batch=4).embed(SENTENCES)
    forward, seen = Encoder._forward, list[int]()

    def narrow(self: Encoder, texts: Any, device: str) -> Any:
        seen.append(len(texts))
        if len(texts) > 1:
            raise torch.OutOfMemoryError("a fake")
        return forward(self, texts, device)

    monkeypatch.setattr(Encoder, "_forward", narrow)
    np.testing.assert_allclose(Encoder(str(bert), batch=4).embed(SENTENCES), whole, rtol=1e-4, atol=1e-5)
    assert seen == [4, 2, *[1] * len(SENTENCES)]


def plain(folder: Path, text: str, longest: int = 40) -> np.ndarray:
    """transformers itself on one text, without padding."""
    from transformers import AutoModel, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][-longest:]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(input_ids=torch.tensor([ids])).last_hidden_state
    return hidden[0].double().mean(0).numpy()


@pytest.mark.parametrize("batch", [1, 3])
def test_an_encoder_is_the_mean_of_the_last_layer(bert: Path, batch: int) -> None:
    encoder = Encoder(str(bert), batch=batch)
    found = encoder.embed(SENTENCES)
    expected = np.array([plain(bert, text) for text in SENTENCES])  # of up to 40 tokens: the end of longer texts
    assert found == pytest.approx(expected, abs=1e-5)
    dots = encoder.dots(SENTENCES, SENTENCES[::-1])
    assert dots == pytest.approx((expected * expected[::-1]).sum(1), rel=1e-4)  # not normalised
    assert not np.allclose(np.linalg.norm(found, axis=1), 1)


def test_decoders_work_too(tiny: Tiny) -> None:
    found = Encoder(str(tiny.folder), batch=2).embed(SENTENCES[:2])
    expected = [plain(tiny.folder, text, 256) for text in SENTENCES[:2]]
    assert found == pytest.approx(np.array(expected), rel=1e-3, abs=1e-4)


def test_long_texts_keep_their_end(bert: Path) -> None:
    encoder = Encoder(str(bert), tokens=5)
    long, longer = "x" * 50 + "z" * 20, "y" * 90 + "z" * 20
    one, other = encoder.embed([long, longer])
    assert one.tolist() == other.tolist()
    assert one == pytest.approx(plain(bert, long, 5), abs=1e-5)


@given(st.lists(texts, max_size=5), st.data())
def test_to_the_bit_whatever_was_asked_before(bert: Path, asked: list[str], data: st.DataObject) -> None:
    encoder = ENCODERS.setdefault(bert, Encoder(str(bert)))
    order = data.draw(st.permutations(range(len(asked))))
    found = encoder.embed(asked)
    assert encoder.embed([asked[i] for i in order]).tolist() == found[list(order)].tolist()
    encoder._vectors.clear()
    assert encoder.embed(asked).tolist() == found.tolist()
    assert np.isfinite(found).all()
    assert [not row.any() for row in found] == [not text.strip() for text in asked]


ENCODERS: dict[Path, Encoder] = {}


def test_nothing_is_relevant_to_nothing(bert: Path) -> None:
    encoder = Encoder(str(bert))
    assert encoder.dots(["", "a"], ["a", " "]).tolist() == [0, 0]
    assert encoder.dots([], []).tolist() == []
    assert encoder.dots([""], [""]).tolist() == [0]


def test_each_text_is_read_once(bert: Path) -> None:
    encoder = Encoder(str(bert))
    model, calls = encoder.model, []

    def counting(**inputs: Any) -> Any:
        calls.append(inputs)
        return model(**inputs)

    encoder.model = Fake(counting)
    encoder.dots(["a", "a", "b"], ["a", "c", "b"])
    encoder.dots(["a"], ["c"])
    assert len(calls) == 3


class Fake:
    """A model with a given output."""

    config = SimpleNamespace(max_position_embeddings=40)

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def to(self, device: str) -> Fake:  # noqa: ARG002
        return self

    def __call__(self, **inputs: Any) -> Any:
        return self.answer(**inputs)


def hidden(width: int, value: float = 1.0) -> Any:
    return lambda input_ids, **_: SimpleNamespace(last_hidden_state=torch.full((*input_ids.shape, width), value))


FAULTS: dict[str, tuple[Any, str]] = {
    "nan": (hidden(4, float("nan")), "returned NaN or infinite numbers"),
    "infinite": (hidden(4, float("inf")), "returned NaN or infinite numbers"),
    "a vector per text": (
        lambda input_ids, **_: SimpleNamespace(last_hidden_state=torch.ones(len(input_ids), 4)),
        r"returned shape \[1, 4\] for \[1, \d+\] tokens",
    ),
    "fewer tokens": (
        lambda input_ids, **_: SimpleNamespace(last_hidden_state=torch.ones(len(input_ids), 1, 4)),
        r"returned shape \[1, 1, 4\]",
    ),
}


def one_line(error: BaseException) -> bool:
    return len(str(error).splitlines()) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_embedding_is_one_line(bert: Path, fault: str) -> None:
    encoder = Encoder(str(bert))
    encoder.model = Fake(FAULTS[fault][0])
    with pytest.raises(BenchError, match=FAULTS[fault][1]) as caught:
        encoder.dots(["hello there"], ["you"])
    assert one_line(caught.value)
    assert encoder._vectors == {}


def test_another_width_is_one_line(bert: Path) -> None:
    encoder = Encoder(str(bert))
    encoder.model = Fake(hidden(4))
    encoder.dots(["a"], ["b"])
    encoder.model = Fake(hidden(6))
    with pytest.raises(BenchError, match="returned vectors of width 6 after 4") as caught:
        encoder.dots(["c"], ["a"])
    assert one_line(caught.value)
    encoder = Encoder(str(bert))
    widths = iter([4, 6])
    encoder.model = Fake(lambda **inputs: hidden(next(widths))(**inputs))
    with pytest.raises(BenchError, match="of width 6 after 4"):
        encoder.dots(["a"], ["b"])


def test_sources_that_are_no_model(bert: Path, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertModel

    for source, message in ((str(tmp_path), "has no config.json"), ("/no/such/folder", "There is no folder")):
        with pytest.raises(BenchError, match=message) as caught:
            Encoder(source).dots(["a"], ["b"])
        assert one_line(caught.value)
    with pytest.raises(BenchError, match=r"no/such-model cannot be loaded.*Go online") as caught:
        Encoder("no/such-model").dots(["a"], ["b"])
    assert one_line(caught.value)
    made = BertModel(BertConfig.from_pretrained(bert), add_pooling_layer=False)
    weights = {name: value for name, value in made.state_dict().items() if "layer.1" not in name}
    made.save_pretrained(tmp_path, state_dict=weights)
    with pytest.raises(BenchError, match=r"The tokenizer of .* reads nothing\. Put its files") as caught:
        Encoder(str(tmp_path)).tokenizer("a")
    assert one_line(caught.value)
    Encoder(str(bert)).tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BenchError, match=r"weights of .* lack .*layer\.1"):
        Encoder(str(tmp_path)).dots(["a"], ["b"])
    BertForMaskedLM(BertConfig.from_pretrained(bert)).save_pretrained(tmp_path)  # the head is not needed
    assert np.isfinite(Encoder(str(tmp_path)).dots(["a"], ["b"])).all()


@given(st.integers(1, 4), st.integers(1, 5), st.data())
def test_the_mean_looks_at_the_mask_alone(rows: int, width: int, data: st.DataObject) -> None:
    mask = torch.tensor(
        data.draw(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=rows, max_size=rows))
    )
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(rows, 3, width, generator=generator)
    other = torch.where(mask[..., None], values, torch.nan)  # what lies outside may be anything
    for row, keep in enumerate(mask):
        expected = values[row][keep].mean(0) if keep.any() else torch.zeros(width)
        assert torch.allclose(pooled("mean_tokens", other, mask)[row], expected, atol=1e-6)


def test_embeddings_by_name(bert: Path) -> None:
    assert isinstance(make_relevance("tfidf", ["a"], 5, 1), TfIdf)
    made = make_relevance(str(bert), [], 5, 2)
    assert isinstance(made, Encoder)
    assert (made.tokens, made.batch) == (5, 2)
