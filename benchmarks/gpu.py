"""What real policies cost on one GPU, measured in one call: `benchmarks/gpu.sh [--policy FOLDER] [--out FILE.json]`.

Without a GPU, and with `--toy`, sizes are small: that everything works, not how fast.  The weights are random ones of
real shapes, or those of `--policy` with an end that it hardly ever writes: time and memory do not depend on what a
model has learned, except through the lengths of responses, which are all equal here.  Written as JSON: rollout tokens
per second against transformers' generate, and of a compiled step and of vLLM where they can be had; a PPO iteration by
phase with its share of the speed of a matrix product, its peak memory and its plan, for adapters and all weights; the
cost of seq2seq scoring over a scalar pass; the time of a paper-2b iteration; the plan of a 7B cell.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import torch
from peer_model import PROMPTS, Sizes

from rlhf_bench.harness.checks.engine import ENGINES
from rlhf_bench.harness.cli.memory import plan_rows
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.models import memory
from rlhf_bench.harness.models.placement import Placement, choose_placement, save_placement
from rlhf_bench.harness.models.policies import (
    load_classifier,
    load_policy,
    load_sampler,
    load_tokenizer,
    pick_device,
    save_model,
)
from rlhf_bench.harness.models.tiny_policy import train_tokenizer
from rlhf_bench.harness.nouns import Example, Rollout
from rlhf_bench.harness.pipeline.stage import environment
from rlhf_bench.harness.ppo import loop
from rlhf_bench.harness.ppo.actors import make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.presets import make_settings
from rlhf_bench.harness.sampling.engines import Sampler, open_sampler
from rlhf_bench.harness.sampling.rollout import make_generator, pad_prompts, sample
from rlhf_bench.harness.settings import PPOSettings, Settings
from rlhf_bench.harness.text.templates import encode_prompts

QWEN2_1_5B = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip
TOY = {
    "model_type": "qwen2", "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much is measured: rows, tokens, repeats, and the shapes."""

    rows: int
    prompt: int
    response: int
    repeats: int
    micro_batch: int
    policy: dict[str, Any]
    paper: dict[str, Any]


FULL = Size(64, 512, 128, 3, 8, QWEN2_1_5B, memory.GEMMA_2B)
SMALL = Size(4, 24, 6, 1, 2, TOY, TOY)


class LengthOnly:
    """A reward without a model."""

    def rewards(self, rollout: Rollout) -> torch.Tensor:
        return rollout.mask.float()


def make_folder(shape: dict[str, Any], size: Size, placement: Placement, folder: Path) -> Path:
    """An SFT folder of random weights in this shape; its tokenizer knows 300 of the vocabulary's tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = train_tokenizer(["a b c d e f g"] * 4, 300)
    more = {"max_position_embeddings": 4 * (size.prompt + size.response), "eos_token_id": tokenizer.eos_token_id}
    shape = {**shape, **more, "bos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)  # a random 2B model in half the disk and time
    try:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape))
    finally:
        torch.set_default_dtype(torch.float32)
    save_model(model, tokenizer, folder)
    save_placement(placement, folder)
    return folder


def take_policy(model: Path, size: Size, placement: Placement, folder: Path) -> Path:
    """An SFT folder of a pretrained model, whose responses are all equally long; prompts.json lies beside it."""
    from perf_real import prepare

    for name in ("policy", "reward"):
        (folder / name).mkdir(parents=True)
    prepare(model, folder, Sizes(prompt=size.prompt, response=size.response, batch=size.rows), ends=False)
    save_placement(placement, folder / "policy")
    return folder / "policy"


def prompts_of(size: Size, folder: Path) -> list[str]:
    """Texts of about `size.prompt` tokens in the policy's form."""
    given = folder.parent / PROMPTS
    if given.is_file():
        found: list[str] = json.loads(given.read_text(encoding="utf-8"))["texts"][: size.rows]
        return found
    tokenizer = load_tokenizer(folder)
    empty = len(encode_prompts(tokenizer, [""])[0])
    return [chr(97 + i % 7) * max(1, size.prompt - empty) for i in range(size.rows)]


def seconds(device: str, function: Callable[[], object], repeats: int) -> float:
    """The median time of a call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_gib(device: str) -> float | None:
    """The peak since the last call, None where the device does not count."""
    if not device.startswith("cuda"):
        return None
    found = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return round(found, 3)


def free(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def rollouts(folder: Path, size: Size, device: str) -> dict[str, Any]:
    """Tokens per second of our sampler and of transformers' generate, same model, prompts and lengths."""
    model, tokenizer = load_sampler(folder, device)
    texts = prompts_of(size, folder)
    ids, mask = pad_prompts(encode_prompts(tokenizer, texts), tokenizer.pad_token_id, device)

    def ours() -> Rollout:
        return sample(model, tokenizer, texts, size.response, generator=make_generator("gpu"))

    def theirs() -> object:
        with torch.no_grad():
            return model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=size.response, min_new_tokens=size.response,
                do_sample=True, top_k=0, top_p=1.0,
            )  # fmt: skip

    written = int(ours().mask.sum())
    one, two = seconds(device, ours, size.repeats), seconds(device, theirs, size.repeats)
    rates = written / one, size.rows * size.response / two
    return {"ours_tokens_per_s": rates[0], "generate_tokens_per_s": rates[1], "ratio": rates[0] / rates[1],
            "peak_gib": peak_gib(device)}  # fmt: skip


def engines(folder: Path, size: Size, device: str) -> dict[str, Any]:
    """Tokens per second of the samplers that PPO can have, the plain loop first; the first call alone.

    One that cannot be opened says why.
    """
    model, tokenizer = load_sampler(folder, device)
    texts = prompts_of(size, folder)
    found: dict[str, Any] = {}
    for name, chosen in {"plain": {}, **ENGINES}.items():
        settings = replace(PPOSettings(rollouts=size.rows), **chosen)  # type: ignore[arg-type]
        free(device)
        try:
            with open_sampler(settings, folder, tokenizer, texts, size.response, device) as sampler:
                found[name] = _speed(partial(_draw, sampler, model, tokenizer, texts, size), size, device)
        except (BenchError, RuntimeError) as error:
            found[name] = {"failed": str(error).split("\n")[0]}
    return found


def _draw(sampler: Sampler, model: Any, tokenizer: Any, texts: list[str], size: Size) -> Rollout:
    return sampler(model, tokenizer, texts, size.response, generator=make_generator("gpu"))


def _speed(draw: Callable[[], Rollout], size: Size, device: str) -> dict[str, Any]:
    start = time.perf_counter()
    written = int(draw().mask.sum())
    _wait(device)
    first = time.perf_counter() - start
    return {
        "first_s": first,
        "tokens_per_s": written / seconds(device, draw, size.repeats),
        "peak_gib": peak_gib(device),
    }


def iteration(folder: Path, size: Size, device: str, speed: float) -> dict[str, Any]:
    """One PPO iteration by phase: seconds, peak memory, and the share of a matrix product's speed in the update."""
    from rlhf_bench.harness.models.placement import read_placement

    placement = read_placement(folder)
    settings = replace(PPOSettings(), rollouts=size.rows, micro_batch=size.micro_batch, minibatches=2, lr=1e-6)
    actors = make_actors(folder, device, settings.lr, settings.critic_lr)
    found: dict[str, Any] = {"weights_gib": peak_gib(device)}
    examples = [Example(str(i), text) for i, text in enumerate(prompts_of(size, folder))]
    scorer = NamedRewardModel("length", LengthOnly())
    run = PPORun(
        actors=actors, reward_model=scorer, examples=examples, settings=settings, standard=Standard(),
        max_new=size.response, seed=0, scratch=folder, evaluate=lambda _: None, progress=lambda *_: None,
    )  # fmt: skip
    experience = loop.collect(run, 0)
    found["collect_s"] = seconds(device, lambda: loop.collect(run, 0), size.repeats)
    found["collect_peak_gib"] = peak_gib(device)
    found["update_s"] = seconds(device, lambda: loop.update(run, experience, 0), size.repeats)
    found["update_peak_gib"] = peak_gib(device)
    total = sum(p.numel() for p in actors.reference.parameters())
    tokens = int(experience.rollout.prompt_mask.sum() + experience.rollout.mask.sum())
    backward = (2 if placement.lora else 4) + (2 if placement.gradient_checkpointing else 0)
    flops = 2.0 * (2 + backward) * total * tokens  # policy and critic; recomputation counts as work that is done
    found |= {"parameters": total, "tokens": tokens, "update_share_of_matmul": flops / found["update_s"] / speed}
    return found


def scoring(folder: Path, size: Size, device: str) -> dict[str, Any]:
    """Seconds of a seq2seq-token scoring and of a scalar pass over the same rollout, both in float32."""
    from rlhf_bench.reward_models.scalar import ScalarScorer
    from rlhf_bench.reward_models.seq2seq import Seq2SeqScorer, token

    model, tokenizer = load_policy(folder, device)
    texts = prompts_of(size, folder)
    rollout = sample(model, tokenizer, texts, size.response, generator=make_generator("gpu"))

    def timed(scorer: Any) -> float:
        named = NamedRewardModel("timed", scorer, batch=size.micro_batch)
        return seconds(device, lambda: named.rewards(rollout), size.repeats)

    one = timed(Seq2SeqScorer(model, tokenizer, token()))
    two = timed(ScalarScorer(load_classifier(folder, tokenizer, device, head_std=0.02)))
    return {"seq2seq_s": one, "scalar_s": two, "ratio": one / two}


def paper_cell(folder: Path, size: Size, device: str, speed: float) -> dict[str, Any]:
    """A paper-2b iteration, and the hours of its 200."""
    found = iteration(folder, size, device, speed)
    count = make_settings("paper-2b", {}, frozenset()).ppo.iterations
    hours = count * (found["collect_s"] + found["update_s"]) / 3600
    return {**found, "iterations": count, "hours_without_reward_model": hours}


def plan_of(folder: Path, size: Size, device: str) -> list[list[str]]:
    """The memory plan of PPO with adapters as `iteration` runs it, to be read beside its peaks."""
    sets = {
        "policy": {"lora": "8"},
        "ppo": {"rollouts": str(size.rows), "micro_batch": str(size.micro_batch), "minibatches": "2", "samples": "1"},
    }
    settings = make_settings("small-lora", sets, frozenset())
    return [list(row) for row in plan_rows(str(folder), settings, size.response, device)]


def needs_of_7b(device: str) -> list[list[str]]:
    """The memory plan of preset paper-7b on this device."""
    settings: Settings = make_settings("paper-7b", {}, frozenset())
    policy = next(name for name, shape in memory.KNOWN.items() if shape is memory.LLAMA_2_7B)
    return [list(row) for row in plan_rows(policy, settings, memory.RESPONSE, device)]


def measure(size: Size, device: str, scratch: Path, model: Path | None = None) -> dict[str, Any]:
    """Everything, each part on its own; a part that fails says why and costs no other."""
    half = choose_placement({"dtype": "auto"}, device).dtype
    speed = memory.measured_speed(device, half == "bfloat16")
    found: dict[str, Any] = {"device": _name(device), "dtype": half, "matmul_flops": speed, "size": asdict(size)}
    adapters, whole = Placement(lora=8, dtype=half), Placement(dtype=half)
    policy = {
        name: take_policy(model, size, held, scratch / name)
        if model
        else make_folder(size.policy, size, held, scratch / name)
        for name, held in (("lora", adapters), ("full", whole))
    }
    found["policy"] = model.resolve().name if model else "random weights"
    parts: dict[str, Callable[[], Any]] = {
        "rollouts_lora": lambda: rollouts(policy["lora"], size, device),
        "rollouts_full": lambda: rollouts(policy["full"], size, device),
        "engines": lambda: engines(policy["full"], size, device),
        "ppo_lora": lambda: iteration(policy["lora"], size, device, speed),
        "plan_lora": lambda: plan_of(policy["lora"], size, device),
        "ppo_full": lambda: iteration(policy["full"], size, device, speed),
        "scoring": lambda: scoring(policy["lora"], size, device),
        "paper_2b": lambda: paper_cell(make_folder(size.paper, size, adapters, scratch / "2b"), size, device, speed),
        "needs_of_7b": lambda: needs_of_7b(device),
    }
    for name, part in parts.items():
        free(device)
        print(name, file=sys.stderr, flush=True)
        try:
            found[name] = part()
        except (BenchError, torch.OutOfMemoryError) as error:
            found[name] = {"failed": str(error).split("\n")[0]}
    return found | environment()


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def main() -> None:
    """Measure and write."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/gpu.json"))
    arguments.add_argument("--toy", action="store_true", help="A minute on a CPU: that it works, not how fast.")
    arguments.add_argument("--device", default="")
    arguments.add_argument("--policy", type=Path, help="a pretrained model's folder, in place of random weights")
    given = arguments.parse_args()
    device = pick_device(given.device)
    size = SMALL if given.toy or not device.startswith("cuda") else FULL
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(size, device, Path(scratch), given.policy)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(given.out)


if __name__ == "__main__":
    main()
