"""Responses as text: log-perplexity under the base policy and repeated n-grams, by hand and through a plan."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import SIZES
from tiny import SENTENCES, Tiny

from rlhf_bench.harness import store
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.nouns import Example, Generation, Measure, to_row
from rlhf_bench.harness.pipeline.context import Context
from rlhf_bench.harness.plan import cells
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.results import outputs
from rlhf_bench.harness.sampling.rollout import sample
from rlhf_bench.harness.stages.fluency import fluency, log_perplexities, measures, repetition
from rlhf_bench.harness.stages.judge import FLUENCY
from rlhf_bench.harness.stages.proxy import retokenised
from rlhf_bench.harness.text.templates import encode, encode_prompts
from rlhf_bench.reports.measures import KNOWN

PROMPT = "Where is Anna?"
TEXTS = ("At the station.", "", "", "On Sunday, with Ben and a lamp.", "At the station.")
FINISHED = (True, True, False, False, False)


def written(iteration: int = 1) -> list[Generation]:
    return [
        Generation(f"e{k}", iteration, "sample", f"{PROMPT} {k % 2}", text, 3, ended)
        for k, (text, ended) in enumerate(zip(TEXTS, FINISHED, strict=True))
    ]


def context(root: Path, sft: Path, source: str, rows: list[Generation] | None = None) -> Context:
    for name in ("work", "scratch", "prompts", "baseline", "generations"):
        (root / name).mkdir(parents=True, exist_ok=True)
    rows = rows or written()
    examples = [Example(row.example_id, row.prompt, source="one") for row in rows]
    store.write_rows(root / "prompts" / "examples.test.jsonl", map(to_row, examples))
    store.write_rows(root / "generations" / "generations.jsonl", map(to_row, rows))
    before = [replace(row, iteration=0, response=SENTENCES[0], finished=True) for row in rows]
    store.write_rows(root / "baseline" / "generations.jsonl", map(to_row, before))
    params = {"judge": {"name": FLUENCY, "settings": {}}, "policy": {"source": source}, "seed": 0}
    inputs = {"sft": sft, **{name: root / name for name in ("prompts", "baseline", "generations")}}
    return Context(params, inputs, root / "work", root / "scratch", "cpu")


def by_hand(tiny: Tiny, row: Generation) -> float:
    """A pass over one row without packing or batches."""
    prompt, response = encode_prompts(tiny.tokenizer, [row.prompt])[0], encode(tiny.tokenizer, [row.response])[0]
    if row.finished or not response:
        response = [*response, tiny.tokenizer.eos_token_id]
    with torch.no_grad():
        table = tiny.model(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
    terms = [float(table[len(prompt) + at - 1, token]) for at, token in enumerate(response)]
    return -sum(terms) / len(terms)


def test_log_perplexity_is_the_mean_over_the_tokens_of_a_response(tiny: Tiny, tmp_path: Path) -> None:
    rows = written()
    found = log_perplexities(tiny.model, tiny.tokenizer, rows, context(tmp_path, tiny.folder, "tiny"))
    assert found == pytest.approx([by_hand(tiny, row) for row in rows], rel=1e-3, abs=1e-3)
    assert found[0] != found[4], "a response that ended has one token more than the same one that was cut off"


def test_bytes_that_are_no_text_are_measured_as_far_as_the_model_reads(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    """A sampled byte is stored as a replacement character of three bytes: what fitted no longer does."""
    limit = policies.context_length(tiny_gpt2.model)
    assert limit
    prompt = encode_prompts(tiny_gpt2.tokenizer, [PROMPT])[0]
    fits = (limit - len(prompt) - 1) // 3  # 1: end-of-sequence
    rows = [
        Generation("e0", 1, "sample", PROMPT, "\ufffd" * count, count, True) for count in (fits, fits + 1, 2 * fits)
    ]
    cut = retokenised(tiny_gpt2.tokenizer, rows, "cpu", limit)
    assert cut.mask.sum(1).tolist() == [3 * fits + 1, limit - len(prompt), limit - len(prompt)]
    assert cut.finished.tolist() == [True, False, False]
    assert cut.responses[0] == rows[0].response
    assert cut.responses[1] == cut.responses[2] != rows[2].response
    assert [len(row) for row in cut.spans] == cut.mask.sum(1).tolist()
    found = log_perplexities(tiny_gpt2.model, tiny_gpt2.tokenizer, rows, context(tmp_path, tiny_gpt2.folder, "tiny"))
    assert found[0] is not None
    assert found[1] == pytest.approx(found[2])


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("one two three", 0.0),
        ("one two three four five", 0.0),
        ("a b c d a b c d", 1 - 4 / 5),
        ("a  a a a\na a a", 0.75),
        ("好好好好好好", 2 / 3),
    ],
)
def test_repetition_is_the_share_of_four_grams_that_stood_before(text: str, share: float) -> None:
    assert repetition(text) == pytest.approx(share)


def test_the_stage_scores_under_the_base_policy_and_against_the_baseline(
    tiny_gpt2: Tiny, tiny_llama: Tiny, tmp_path: Path
) -> None:
    """The base is another model than the SFT policy, which gives the tokenizer alone."""
    given = context(tmp_path, tiny_gpt2.folder, str(tiny_llama.folder))
    assert fluency(given) == {"cases": len(TEXTS), "undecided": 0}
    rows = store.read_rows(given.work / "verdicts.jsonl")
    for row, one in zip(rows, written(), strict=True):
        own = by_hand(tiny_llama, one)
        before = by_hand(tiny_llama, replace(one, response=SENTENCES[0], finished=True))
        assert row["values"]["log_perplexity"] == pytest.approx(own, abs=1e-2)
        assert row["values"]["log_perplexity_change"] == pytest.approx(own - before, abs=2e-2)
        assert row["source"] == "one"
    named = [Measure(**row) for row in store.read_json(given.work / "measures.json")]
    assert [one.name for one in named] == [*rows[0]["values"]]


def test_the_tiny_policy_has_no_base_and_the_column_says_so(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    given = context(tmp_path, tiny_gpt2.folder, "tiny")
    fluency(given)
    row = store.read_rows(given.work / "verdicts.jsonl")[0]
    assert row["values"]["log_perplexity_sft"] == pytest.approx(by_hand(tiny_gpt2, written()[0]), abs=1e-2)
    titles = {one.name: one.title for one in measures({"source": "tiny"})}
    assert titles["log_perplexity_sft"] == "log-perplexity under SFT"
    assert measures({"source": "folder"})[0].title == "log-perplexity under base"


def test_words_no_model_expects_have_a_higher_perplexity(tiny_gpt2: Tiny, tmp_path: Path) -> None:
    """A law of any model: its own greedy response is likelier per token than a random permutation of tokens."""
    greedy = sample(tiny_gpt2.model, tiny_gpt2.tokenizer, [PROMPT], 12)
    rows = [Generation("e", 1, "sample", PROMPT, text, 3, False) for text in (greedy.responses[0], "Qz #x ~~ 9 ù")]
    found = log_perplexities(tiny_gpt2.model, tiny_gpt2.tokenizer, rows, context(tmp_path, tiny_gpt2.folder, "tiny"))
    assert all(value is not None and math.isfinite(value) for value in found)
    assert found[0] < found[1]  # type: ignore[operator]


def test_a_value_that_is_not_finite_is_undecided_with_a_reason(
    tiny_gpt2: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rlhf_bench.harness.stages.fluency.logprobs", lambda _, rows: torch.full(rows.mask.shape, -math.inf)
    )
    given = context(tmp_path, tiny_gpt2.folder, "tiny")
    assert fluency(given)["undecided"] == len(TEXTS)
    row: dict[str, Any] = store.read_rows(given.work / "verdicts.jsonl")[0]
    assert row["values"]["log_perplexity_sft"] is None
    assert row["values"]["repetition"] == 0
    assert "no finite probability" in row["reason"]


# ---- in a plan ------------------------------------------------------------------------------------------------------


def test_every_cell_has_the_stage_among_its_judges() -> None:
    texts: dict[str, dict[str, str]] = {}
    for name, value in SIZES.items():
        group, _, key = name.partition(".")
        texts.setdefault(group, {})[key] = str(value)
    optimizers = ("ppo", "best-of-n", "dpo", "sft-tempered")
    made = make_plan(Request("dialogsum", ["length-only"], [0], "tiny", [], texts, optimizers=optimizers))
    assert cells.FLUENCY == FLUENCY
    for cell in made.cells:
        stage = made.judged[cell.name][FLUENCY]
        assert stage.inputs["generations"] is cell.stages["generations"]
        assert stage.kind == FLUENCY
    assert len({made.judged[cell.name][FLUENCY].key for cell in made.cells}) == len(made.cells) == 4


def test_reports_know_its_columns() -> None:
    """As they know those of the judges that come with the package."""
    for policy in ({"source": "tiny"}, {"source": "folder"}):
        for one in measures(policy):
            known = KNOWN.get((FLUENCY, one.name))
            assert (known is None) == (one.shown == ())
            if known:
                assert (known.title, known.format, known.shown) == (one.title, one.format, one.shown)


def test_stored_results_are_confirmed_without_it(tmp_path: Path) -> None:
    """Results of before it have none; a rerun that has it must not count as another result."""
    judges = {"length": ["verdicts", "l", "0" * 12], FLUENCY: [FLUENCY, "f", "0" * 12]}
    cell = {"reward_model": "a", "task": "t", "seed": 0, "stages": {"generations": ["ppo", "p", "0" * 12]}}
    for kind, label, name in (("ppo", "p", "generations"), ("verdicts", "l", "verdicts"), (FLUENCY, "f", "verdicts")):
        folder = tmp_path / kind / f"{label}-{'0' * 12}"
        folder.mkdir(parents=True)
        store.write_rows(folder / f"{name}.jsonl", [{"example_id": "x"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outputs.stamps, "sound_cells", lambda *_: [("run", {**cell, "judges": judges})])
        found = outputs.outputs({"runs": {}, "analyses": {}}, tmp_path)
    assert {*found["run: a on t"]["0"]} == {"generations", "length"}
