"""Readings of a seq2seq reward model (free-running, graded, aligned, shuffled) against slow decoding; settings."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_extraction import cases, next_logits, unpadded, without_end
from tiny import CONTEXT, Tiny, by_hand, other_padding
from torch import Tensor

from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.checks.reward_model import reward_probes
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Pair
from rlhf_bench.harness.sampling.rollout import rows_of
from rlhf_bench.harness.seams import TrainingJob
from rlhf_bench.harness.text.templates import decode
from rlhf_bench.reward_models import seq2seq
from rlhf_bench.reward_models.corrector import NO_TOKEN, Comparison, Layout, mapping_rows
from rlhf_bench.reward_models.extraction import aligned_positions, divergence, edit_signs
from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer

Factory = Callable[..., Seq2Seq]
ARMS: dict[str, Factory] = {
    "token": seq2seq.token,
    "sentence": seq2seq.sentence,
    "token_positive": seq2seq.token_positive,
    "free_running": seq2seq.free_running,
    "graded": seq2seq.graded,
    "aligned": seq2seq.aligned,
    "shuffled": seq2seq.shuffled,
}
EXTRA = 3

# --- a real model, decoded slowly


class Slow:
    """A tiny corrector whose end-of-sequence is a token that it really writes, and its corrections without a cache."""

    def __init__(self, tiny: Tiny, layout: str) -> None:
        self.layout, self.reuse = layout, layout == "reuse"
        self.tiny, (self.prompts, responses) = tiny, cases(tiny, self.reuse)
        end = self._early_end(responses)
        self.tiny = tiny._replace(tokenizer=ending_with(tiny.tokenizer, end))
        responses = [[end if v == tiny.tokenizer.eos_token_id else v for v in row] for row in responses]
        self.responses = [row[: row.index(end) + 1] if end in row else row for row in responses]
        self.rollout = by_hand(self.tiny.tokenizer, self.prompts, self.responses)
        pairs = zip(self.prompts, self.responses, strict=True)
        self.written = [self.write(prompt, response, len(response) + EXTRA) for prompt, response in pairs]

    def _early_end(self, responses: list[list[int]]) -> int:
        """The token with which most corrections would end before their response does."""
        early: Counter[int] = Counter()
        for prompt, response in zip(self.prompts, responses, strict=True):
            written = self.write(prompt, response, len(response))
            early.update(v for i, v in enumerate(written[:-1]) if v not in written[:i] and v not in response[: i + 1])
        return max(sorted(early), key=early.__getitem__)

    def write(self, prompt: list[int], response: list[int], most: int) -> list[int]:
        """The greedy correction: at most `most` tokens, its end included."""
        written: list[int] = []
        while len(written) < most and self.tiny.tokenizer.eos_token_id not in written:
            written.append(int(self.logits(prompt, response, written).argmax()))
        return written

    def logits(self, prompt: list[int], response: list[int], written: list[int]) -> Tensor:
        return next_logits(self.tiny, self.reuse, prompt, without_end(self.tiny, response), written)

    def scorer(self, factory: Factory = seq2seq.token, **settings: Any) -> Seq2SeqScorer:
        return Seq2SeqScorer(self.tiny.model, self.tiny.tokenizer, factory(positions=self.layout, **settings))


def ending_with(tokenizer: Any, end: int) -> Any:
    other = copy.deepcopy(tokenizer)
    other.eos_token = tokenizer.convert_ids_to_tokens(end)
    assert other.eos_token_id == end
    return other


@pytest.fixture(scope="module", params=["plain", "reuse"])
def slow(tiny: Tiny, request: pytest.FixtureRequest) -> Slow:
    return Slow(tiny, request.param)


def test_the_cases_show_what_they_must(slow: Slow) -> None:
    lengths = [(len(w), len(r)) for w, r in zip(slow.written, slow.responses, strict=True)]
    ends = [w[-1] == slow.tiny.tokenizer.eos_token_id for w in slow.written]
    assert any(w < r for w, r in lengths), "a correction that ends before its response"
    assert any(w > r for w, r in lengths), "a correction that is longer"
    assert set(ends) == {True, False}
    assert set(slow.rollout.finished.tolist()) == {True, False}


def test_a_free_correction_is_that_of_slow_decoding(slow: Slow) -> None:
    found = slow.scorer().corrector.free_running(slow.rollout, EXTRA)
    assert found.written is not None
    assert [[v for v in row if v != NO_TOKEN] for row in found.written.tolist()] == slow.written
    for matches, w, r in zip(unpadded(found.matches, slow.rollout), slow.written, slow.responses, strict=True):
        assert matches == [t < len(w) and w[t] == token for t, token in enumerate(r)]
    assert not found.matches[~slow.rollout.mask].any()


def test_corrections_are_the_greedy_texts_without_their_end(slow: Slow) -> None:
    tokenizer = slow.tiny.tokenizer
    wanted = [decode(tokenizer, [v for v in row if v != tokenizer.eos_token_id]) for row in slow.written]
    assert slow.scorer().corrector.corrections(slow.rollout, EXTRA) == wanted


def margin(logits: Tensor, token: int) -> float:
    logs = logits.log_softmax(-1)
    return float(logs[token] - logs.max())


@pytest.mark.parametrize("how", ["teacher", "free"])
def test_margins_are_log_probabilities_below_the_best(slow: Slow, how: str) -> None:
    corrector = slow.scorer().corrector
    found = corrector.free_running(slow.rollout) if how == "free" else corrector.teacher_forced(slow.rollout)
    rows = zip(unpadded(found.margins, slow.rollout), slow.prompts, slow.responses, slow.written, strict=True)
    for margins, prompt, response, written in rows:
        before = written if how == "free" else response
        for t, (got, token) in enumerate(zip(margins, response, strict=True)):
            if t > 0 and t >= len(written) and how == "free":
                assert got == -math.inf
            else:
                expected = margin(slow.logits(prompt, response, before[:t]), token)
                assert got == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_both_comparisons_agree_up_to_the_divergence(slow: Slow) -> None:
    mask, corrector = slow.rollout.mask, slow.scorer().corrector
    forced, free = corrector.teacher_forced(slow.rollout), corrector.free_running(slow.rollout)
    first = divergence(forced.matches, mask)
    assert torch.equal(first, divergence(free.matches, mask))
    until = (torch.arange(mask.shape[1])[None] <= first[:, None]) & mask
    torch.testing.assert_close(forced.margins[until], free.margins[until], rtol=1e-3, atol=1e-3)


def expected_rewards(slow: Slow, row: int, score: str, comparison: Comparison) -> list[float]:
    response, written = slow.responses[row], slow.written[row]
    if score == "aligned":
        cut = response[-1] != slow.tiny.tokenizer.eos_token_id
        return [float(x) for x in edit_signs(aligned_positions(response, written, cut))]
    matches, margins = (unpadded(table, slow.rollout)[row] for table in (comparison.matches, comparison.margins))
    star = matches.index(False) if False in matches else len(matches)
    graded = [max(g, -2.0) / 2.0 for g in margins] if score == "graded" else [-1.0] * len(matches)
    return [1.0 if t < star else 0.0 if m else graded[t] for t, m in enumerate(matches)]


@pytest.mark.parametrize(
    ("score", "how"),
    [("sign", "teacher"), ("sign", "free"), ("graded", "teacher"), ("graded", "free"), ("aligned", "free")],
)
def test_scores_and_readings_combine(slow: Slow, score: str, how: str) -> None:
    options = {"score": score, "divergence": how, "floor": -2.0, "extra_tokens": EXTRA}
    corrector, rollout = slow.scorer().corrector, slow.rollout
    comparison = corrector.free_running(rollout) if how == "free" else corrector.teacher_forced(rollout)
    expected = [expected_rewards(slow, row, score, comparison) for row in range(len(slow.responses))]
    tokens = slow.scorer(**options).rewards(rollout)
    for got, wanted in zip(unpadded(tokens, rollout), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    assert not tokens[~rollout.mask].any()
    assert torch.equal(slow.scorer(reading="positive", **options).rewards(rollout), tokens.clamp(min=0))
    for summary, divide in (("sum", torch.ones(len(expected))), ("mean", rollout.mask.sum(1))):
        sentence = slow.scorer(reading="sentence", summary=summary, **options).rewards(rollout)
        torch.testing.assert_close(sentence.sum(1), tokens.sum(1) / divide)
        last = rollout.mask.sum(1) - 1
        assert torch.equal(sentence[torch.arange(len(last)), last], sentence.sum(1))
    mixed = slow.scorer(shuffle=True, **options).rewards(rollout)
    assert not torch.equal(mixed, tokens)
    assert [sorted(row) for row in unpadded(mixed, rollout)] == [sorted(row) for row in unpadded(tokens, rollout)]


@pytest.mark.parametrize("arm", ARMS)
def test_rewards_depend_on_neither_neighbours_nor_padding(slow: Slow, arm: str) -> None:
    rollout, scorer = slow.rollout, slow.scorer(ARMS[arm])
    whole = scorer.rewards(rollout)
    wide = other_padding(by_hand(slow.tiny.tokenizer, slow.prompts, slow.responses, extra_left=5, extra_right=3))
    same = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(scorer.rewards(wide)[:, : whole.shape[1]], whole, **same)
    assert not scorer.rewards(wide)[~wide.mask].any()
    for index in torch.randperm(len(whole), generator=torch.Generator().manual_seed(0)).split(4):
        part = rows_of(rollout, index)
        torch.testing.assert_close(scorer.rewards(part), whole[index, : part.mask.shape[1]], **same)


@pytest.mark.parametrize("arm", ARMS)
def test_scorers_keep_the_rules_of_the_seam(tiny_gpt2: Tiny, arm: str) -> None:
    probes = list(reward_probes(arm, ARMS[arm]().load(tiny_gpt2.folder, "cpu")))
    assert len(probes) == 3
    for _, probe in probes:
        probe()


def test_a_correction_ends_where_the_models_context_ends(tiny: Tiny) -> None:
    """GPT-2 has no position after its last: a row that has ended repeats its position while another row continues."""
    marker = len(Layout.of(tiny.tokenizer, "plain").marker)
    long, end = CONTEXT - marker - 2 * 4, tiny.tokenizer.eos_token_id
    rollout = by_hand(tiny.tokenizer, [[40] * long, [50]], [[60, 61, 62, 63], [60, 61, 62, end]])
    scorer = Seq2SeqScorer(tiny.model, tiny.tokenizer, seq2seq.aligned(positions="plain", extra_tokens=30))
    written = scorer.compare(rollout).written
    assert written is not None
    assert ((written != NO_TOKEN).sum(1) <= torch.tensor([4, 34])).all()
    assert int((written[1] != NO_TOKEN).sum()) > 4 or end in written[1]
    longer = by_hand(tiny.tokenizer, [[40] * (long + 1)], [[60, 61, 62, 63]])
    for arm in (seq2seq.token, seq2seq.aligned):
        with pytest.raises(BenchError, match=rf"longest of the responses needs {CONTEXT + 1} tokens.*{CONTEXT}\."):
            Seq2SeqScorer(tiny.model, tiny.tokenizer, arm(positions="plain")).rewards(longer)


# --- settings and training


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"divergence": "forced"}, r"divergence='forced' is unknown\. Choose one of: teacher, free\."),
        ({"score": "soft"}, r"score='soft' is unknown\. Choose one of: sign, graded, aligned\."),
        ({"mappings": "none"}, r"mappings='none' is unknown\. Choose one of: both, correction, identity\."),
        ({"floor": 0.0}, r"floor=0.0 is not a number below 0\."),
        ({"floor": math.nan}, r"floor=nan is not a number below 0\."),
        ({"floor": -math.inf}, r"floor=-inf is not a number below 0"),
        ({"extra_tokens": -1}, r"extra_tokens=-1 is below 0\."),
        ({"score": "aligned"}, r"divergence=teacher writes none\. Set divergence=free\."),
        ({"shuffle": True, "reading": "sentence"}, r"no token rewards to shuffle"),
    ],
)
def test_wrong_settings_are_one_line(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        Seq2Seq(**wrong)
    assert len(str(caught.value).splitlines()) == 1


def test_all_arms_share_one_training_and_mappings_do_not() -> None:
    arms = [factory() for factory in ARMS.values()]
    assert len(set(arms)) == len(arms)
    assert len({(arm.recipe, *arm.training_settings.items()) for arm in arms}) == 1
    trained = {Seq2Seq(mappings=m).training_settings["mappings"] for m in ("both", "correction", "identity")}
    assert len(trained) == 3


@pytest.mark.parametrize("arm", ARMS)
def test_plugins_keep_the_rules_of_the_seam(arm: str) -> None:
    found = check("reward-model", f"rlhf_bench.reward_models.seq2seq:{arm}", {})
    assert [f for f in found if not f.ok] == []
    assert len(found) == 4


def test_mappings_choose_among_the_training_rows(tokenizer: Any) -> None:
    pair = Pair("1", "Where?", chosen="At the station.", rejected="At the bridge, Anna!")
    layout = Layout.of(tokenizer, "reuse")
    both = mapping_rows(layout, tokenizer, pair)
    assert len(both) == 2
    assert mapping_rows(layout, tokenizer, pair, "correction") == both[:1]
    assert mapping_rows(layout, tokenizer, pair, "identity") == both[1:]
    text = "".join(tokenizer.convert_ids_to_tokens(both[1]["input_ids"]))
    assert text.count("station") == 2
    assert "bridge" not in text


@pytest.mark.training
@pytest.mark.parametrize(("mappings", "steps"), [("both", 4), ("correction", 2), ("identity", 2)])
def test_training_takes_the_mappings_asked_for(tiny_gpt2: Tiny, tmp_path: Path, mappings: str, steps: int) -> None:
    """One epoch of batches of 2 over 4 pairs."""
    pairs = [Pair(str(i), f"Where is {i}?", f"At {i}.", f"Not at {i}, no.") for i in range(4)]
    folder, scratch = tmp_path / "work", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    job = TrainingJob(pairs, tiny_gpt2.folder, folder, scratch, 0, 20, "cpu")
    assert Seq2Seq(mappings=mappings, epochs=1, batch=2).train(job)["steps"] == steps
