"""From a policy that thinks to verdicts: what it writes is chosen by hand, every step after sampling is real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rejudge import Results, make_results
from tiny import make_gpt2, make_tokenizer

from rlhf_bench.harness import store
from rlhf_bench.harness.nouns import Example, to_row
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import logprobs, make_rollout, pad_prompts
from rlhf_bench.harness.settings import EvalSettings
from rlhf_bench.harness.stages import evaluation
from rlhf_bench.harness.stages.evaluation import EvaluatedPolicy, Evaluation, baseline_generations, write_generations
from rlhf_bench.harness.text.chat import choose_prompt_format
from rlhf_bench.harness.text.templates import encode_prompts

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
THOUGHT = "They ask for a plan.\n</think>\n\n"
WRITTEN = {  # example: what the SFT policy writes, what the trained policy writes
    "e0": (f"{THOUGHT}Ben", f"{THOUGHT}Anna and Ben"),
    "e1": (f"{THOUGHT}Ben", f"{THOUGHT}Ben"),
    "e2": (f"{THOUGHT}Ben", "They never stop"),
    "e3": (f"{THOUGHT}Ben", f"{THOUGHT}   "),
}


class Counts:
    """A reward of 1 for every token that the model is shown."""

    def rewards(self, rollout: Any) -> Any:
        return rollout.mask.float()


def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thinking: str) -> tuple[Results, list[dict[str, Any]]]:
    """A results folder with the generations of a policy that thinks, judged; and those generations."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    choose_prompt_format(tokenizer, "auto", "", thinking=thinking)
    model = make_gpt2(tokenizer)
    column = [0]

    def sample(_: Any, tokenizer: Any, prompts: list[str], __: int, temperature: float, **more: Any) -> Any:  # noqa: ARG001
        ids, mask = pad_prompts(encode_prompts(tokenizer, prompts), tokenizer.pad_token_id, "cpu")
        rows = [[*tokenizer(WRITTEN[p][column[0]])["input_ids"], tokenizer.eos_token_id] for p in prompts]
        width = max(map(len, rows))
        response = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        rollout = make_rollout(tokenizer, prompts, ids, mask, response)
        with torch.no_grad():
            return replace(rollout, logprobs=logprobs(model, rollout, temperature))

    monkeypatch.setattr(evaluation, "sample", sample)
    results = make_results(tmp_path / thinking)
    asked = Evaluation([Example(name, name, "") for name in WRITTEN], 99, EvalSettings(greedy=False), 1.0, 0)
    policy = EvaluatedPolicy(model, model, tokenizer, NamedRewardModel("counts", Counts()))
    before = [to_row(one) for one in baseline_generations(model, tokenizer, asked)]
    store.write_rows(results.cell.folder("baseline") / "generations.jsonl", before)
    column[0] = 1
    path = results.cell.folder("generations") / "generations.jsonl"
    assert write_generations(path, policy, asked, 4, ["sample"], detailed=True) == len(WRITTEN)
    results.judge("length", "empty")
    return results, store.read_rows(path)


def values(results: Results, judge: str, measure: str) -> list[float]:
    return [row["values"][measure] for row in results.rows(judge)]


def test_judges_and_rewards_read_the_answer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, rows = judged(tmp_path, monkeypatch, "apart")
    # a block that is never closed holds no answer
    assert [row.get("response", "") for row in rows] == ["Anna and Ben", "Ben", "", ""]
    tokenizer = make_tokenizer()
    counts = [len(tokenizer(row.get("response", ""))["input_ids"]) for row in rows]
    assert values(results, "length", "length")[:3] == counts[:3]
    assert values(results, "length", "length_change")[:2] == [counts[0] - counts[1], 0]
    assert values(results, "empty", "empty_rate") == [0.0, 0.0, 1.0, 1.0]
    assert [row["reward"] for row in rows][:3] == [n + 1 for n in counts[:3]]  # and end-of-sequence
    assert all("They" not in str(row.get("response", "")) for row in rows)


def test_as_text_they_read_the_thinking_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, rows = judged(tmp_path, monkeypatch, "text")
    assert [row["response"] for row in rows] == [written for _, written in WRITTEN.values()]
    tokenizer = make_tokenizer()
    counts = [len(tokenizer(row["response"])["input_ids"]) for row in rows]
    assert values(results, "length", "length") == counts
    assert values(results, "empty", "empty_rate") == [0.0] * 4
    assert [row["reward"] for row in rows] == [n + 1 for n in counts]
