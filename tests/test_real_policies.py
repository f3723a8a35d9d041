"""Policies of the common families from end to end at toy size: SFT, PPO, evaluation, as `bench run` does."""

from __future__ import annotations

from pathlib import Path

import pytest
from families import FAMILIES
from small import SIZES

from rlhf_bench.harness import store
from rlhf_bench.harness.models.placement import choose_placement
from rlhf_bench.harness.pipeline.machine import Machine
from rlhf_bench.harness.plan import request as runs
from rlhf_bench.harness.presets import parse_assignments

pytestmark = pytest.mark.training
TOY = {
    **{k: v for k, v in SIZES.items() if not k.startswith("policy.")},
    "dialogsum.demonstrations": 16,
    "dialogsum.train_prompts": 8,
    "dialogsum.test_prompts": 4,
    "dialogsum.train_pairs": 4,
    "dialogsum.test_pairs": 4,
    "dialogsum.response_tokens": 96,
    "data.max_prompt_tokens": 400,
    "sft.steps": 2,
    "sft.batch": 2,
    "ppo.iterations": 1,
    "ppo.checkpoints": 1,
    "ppo.rollouts": 4,
    "ppo.scale_prompts": 2,
    "eval.prompts": 4,
    "ppo.save_every": 1,
}
HELD = {
    "gpt2": {},
    "gpt2-wordpiece": {"policy.lora": 2, "policy.dtype": "bfloat16"},
    "qwen2": {"policy.lora": 2, "policy.system": "Be brief."},
    "gemma": {"policy.dtype": "bfloat16", "policy.gradient_checkpointing": "true", "policy.system": "Be brief."},
    "llama": {"policy.template": "plain", "policy.gradient_checkpointing": "true", "policy.lora": 2},
}


@pytest.mark.filterwarnings("default")  # libraries' own: a run silences them
@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_family_runs_from_end_to_end(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if "policy.lora" in HELD[family]:
        pytest.importorskip("peft", reason="the optional package peft is not installed")
    policy = FAMILIES[family](tmp_path / family)
    sets = parse_assignments(tuple(f"{k}={v}" for k, v in {**TOY, **HELD[family]}.items()))
    request = runs.Request("dialogsum", ["length-only"], (0,), str(policy), ("length",), sets)
    made = runs.make_plan(request)
    root = store.Store(tmp_path / "runs")
    runs.raise_first(runs.run(made, root, Machine()))
    assert runs.finished(made, root)
    (trained,) = (root.root / "ppo").iterdir()
    AutoModelForCausalLM.from_pretrained(trained / "policy")
    AutoTokenizer.from_pretrained(trained / "policy")
    assert (trained / "adapter" / "adapter_model.safetensors").is_file() == ("policy.lora" in HELD[family])
    (sft,) = (root.root / "sft").iterdir()
    figures = store.read_json(sft / store.MARKER)["figures"]
    chat = family in ("qwen2", "gemma")
    assert figures["template"] == ("chat" if chat else "plain")
    # the preset takes auto, which is bfloat16 on processors that multiply in it
    auto = choose_placement({"dtype": "auto"}, "cpu").dtype
    assert figures["dtype"] == HELD[family].get("policy.dtype", auto)
