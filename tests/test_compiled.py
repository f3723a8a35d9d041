"""The compiled decoding step writes what the plain loop writes: same tokens, same draws, log-probabilities to 1e-4.

Mostly without code generation (backends eager and aot_eager trace the same step), once with inductor.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_runs import SMALL, make_policy, make_run
from tiny import Tiny, louder, save

from rlhf_bench.harness import compiled
from rlhf_bench.harness.chat import Form, keep_form
from rlhf_bench.harness.compiled import CompiledSampler, open_compiled
from rlhf_bench.harness.engine_check import check_sampler
from rlhf_bench.harness.engines import open_sampler
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.ppo import train
from rlhf_bench.harness.rollout import make_generator, sample
from rlhf_bench.harness.tiny_policy import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own import

PROMPTS = ["Who?", "Where do Anna and Ben meet on Sunday, and when?", "What will Ben bring to the station?", "naß"] * 4


@pytest.fixture
def sampler() -> Iterator[CompiledSampler]:
    with open_compiled(len(PROMPTS), 80, "cpu", backend="eager") as found:
        yield found


def same(one: Rollout, two: Rollout) -> None:
    assert one.responses == two.responses
    assert torch.equal(one.response_ids, two.response_ids)
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.finished, two.finished)
    torch.testing.assert_close(one.logprobs, two.logprobs, rtol=1e-4, atol=1e-4)


def both(sampler: CompiledSampler, tiny: Tiny, prompts: list[str], max_new: int, *names: object) -> Rollout:
    """The compiled sampler's rollout, greedy without names, after a look at whether it is the plain one's."""
    more = [{"generator": make_generator(*names), "temperature": 3.0} if names else {} for _ in range(2)]
    found = sampler(tiny.model, tiny.tokenizer, prompts, max_new, **more[0])
    same(found, sample(tiny.model, tiny.tokenizer, prompts, max_new, **more[1]))
    return found


def test_greedy(tiny: Tiny, sampler: CompiledSampler) -> None:
    both(sampler, tiny, PROMPTS, 16)


@pytest.fixture
def ending(tiny: Tiny) -> Tiny:
    """The policy with many tokens that end a response."""
    tokenizer = copy.deepcopy(tiny.tokenizer)
    keep_form(tokenizer, Form(ends=tuple(range(100, 116))))
    return tiny._replace(tokenizer=tokenizer)


def test_draws_while_rows_end_and_the_batch_shrinks(ending: Tiny, sampler: CompiledSampler) -> None:
    lengths = set()
    for number in range(3):
        found = both(sampler, ending, PROMPTS, 30, "draws", number)
        lengths |= set(found.mask.sum(1).tolist())
    assert len(lengths) > 3
    assert len(sampler._caches) > 1  # it did shrink


def test_rows_are_traced_once_per_size(ending: Tiny) -> None:
    traced: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        traced.append(len(inputs))
        return graph.forward

    torch.compiler.reset()
    sampler = CompiledSampler(len(PROMPTS), 80, lambda f: torch.compile(f, backend=counting, dynamic=False))
    both(sampler, ending, PROMPTS, 30, "draws", 0)
    first = len(traced)
    for number in range(3):
        both(sampler, ending, PROMPTS[number:] + PROMPTS[:number], 20, "draws", 0)
    assert first >= len(sampler._caches)
    assert len(traced) == first
    torch.compiler.reset()


@pytest.mark.parametrize("count", [1, 3, 9, 20])
def test_any_number_of_rows(count: int, tiny: Tiny, sampler: CompiledSampler) -> None:
    both(sampler, tiny, (PROMPTS * 2)[:count], 8, "rows", count)


def test_more_room_than_was_said(tiny: Tiny, sampler: CompiledSampler) -> None:
    both(sampler, tiny, PROMPTS[:2], 4)
    both(sampler, tiny, ["Where do they meet? " * 6], 40)
    both(sampler, tiny, PROMPTS[:2], 1, "one token")


def test_weights_are_those_of_the_moment(tmp_path: Path, tokenizer: Any, sampler: CompiledSampler) -> None:
    tiny = save(louder(tiny_model(tokenizer, 256, layers=2, width=16, heads=2, seed=0), 16.0), tokenizer, tmp_path)
    before = both(sampler, tiny, PROMPTS, 10)
    louder(tiny.model, -0.7)
    assert both(sampler, tiny, PROMPTS, 10).responses != before.responses


def test_traced_for_training(tiny: Tiny) -> None:
    with open_compiled(len(PROMPTS), 80, "cpu", backend="aot_eager") as sampler:
        both(sampler, tiny, PROMPTS, 12, "aot")


def test_ppo_is_the_same(tmp_path: Path, sampler: CompiledSampler) -> None:
    policy = make_policy(tmp_path / "sft")
    plain = train(make_run(policy, tmp_path / "plain"))
    found = train(make_run(policy, tmp_path / "compiled", replace(SMALL, compile=True), sampler=sampler))
    for one, two in zip(plain, found, strict=True):
        assert one == pytest.approx(two, rel=1e-3, abs=1e-4)


def test_a_model_that_sees_a_window_is_refused(tokenizer: Any, sampler: CompiledSampler) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, sliding_window=4, pad_token_id=0, bos_token_id=None,
    )  # fmt: skip
    with pytest.raises(BenchError, match="mistral has others"):
        sampler(MistralForCausalLM(config).eval(), tokenizer, PROMPTS, 4)


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(BenchError, match=r"ppo\.compile needs a C\+\+ compiler"), open_compiled(4, 40, "cpu"):
        pass


@pytest.mark.slow
def test_inductor_on_a_cpu(tiny_llama: Tiny) -> None:
    findings = check_sampler("compiled", tiny_llama.folder, "cpu")
    assert not [one for one in findings if not one.ok], findings
    settings = replace(SMALL, compile=True, rollouts=len(PROMPTS))
    with open_sampler(settings, tiny_llama.folder, tiny_llama.tokenizer, PROMPTS, 30, "cpu") as sampler:
        assert isinstance(sampler, CompiledSampler)
        both(sampler, tiny_llama, PROMPTS, 30, "inductor")
