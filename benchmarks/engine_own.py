"""One engine of the PPO comparison: the harness's own runner, one step for each line it reads.

`benchmarks/performance.py` starts it, also with an earlier state of the sources, so it asks for little.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
from peer_model import PROMPTS, Sizes, link_models, prompts, save, take_turns

from rlhf_bench.harness.models.policies import load_classifier, load_tokenizer
from rlhf_bench.harness.nouns import Example
from rlhf_bench.harness.pipeline import machine
from rlhf_bench.harness.ppo import loop
from rlhf_bench.harness.ppo.actors import make_actors
from rlhf_bench.harness.ppo.arithmetic import Standard
from rlhf_bench.harness.ppo.run import PPORun
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.settings import PPOSettings
from rlhf_bench.reward_models.scalar import ScalarScorer

SAMPLE, UPDATE = "sample", "update"
OTHER = "rewards, reference, values and rest"


def make_run(
    sizes: Sizes, folder: Path, critic: str = "own", dtype: str = "float32", model: Path | None = None, lora: int = 0
) -> PPORun:
    """A run against a scalar reward model of the policy's size, everything of random weights.

    `model`: a folder of `perf_real.prepare`, whose models and prompts are taken instead.
    """
    if model:
        link_models(model, folder)
        texts = json.loads((model / PROMPTS).read_text(encoding="utf-8"))["texts"]
    else:
        save(sizes, folder)
        texts = [" ".join(f"w{i}" for i in row) for row in prompts(sizes, 8 * sizes.batch)]
    held = {"dtype": dtype, **({"lora": lora} if lora else {})}
    (folder / "policy" / "holding.json").write_text(json.dumps(held), encoding="utf-8")
    more: dict[str, Any] = {"critic": critic} if critic != "own" else {}
    more |= {"samples": 1} if model else {}  # TRL samples once from each prompt, too
    settings = PPOSettings(
        iterations=10**6, rollouts=sizes.batch, minibatches=sizes.minibatches, lr=1e-6, critic_lr=1e-6, **more
    )
    tokenizer = load_tokenizer(folder / "reward")
    shared = {"shared": True} if critic == "trunk" else {}
    return PPORun(
        actors=make_actors(folder / "policy", "cpu", settings.lr, settings.critic_lr, **shared),
        reward_model=NamedRewardModel("scalar", ScalarScorer(load_classifier(folder / "reward", tokenizer, "cpu"))),
        examples=[Example(str(i), text) for i, text in enumerate(texts)],
        settings=settings,
        standard=Standard(),
        max_new=sizes.response,
        seed=0,
        scratch=folder,
        evaluate=lambda _: None,
        progress=lambda *_: None,
    )


class Engine:
    """Steps of a run, with their seconds by phase."""

    def __init__(self, run: PPORun) -> None:
        self.run, self.iteration = run, 0
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}
        loop.update = self._timed(UPDATE, loop.update)
        if hasattr(run, "sampler"):
            self.run = replace(run, sampler=self._timed(SAMPLE, run.sampler))
        else:  # an earlier state of the repository
            loop.sample = self._timed(SAMPLE, loop.sample)

    def _timed(self, phase: str, function: Any) -> Any:
        def timed(*given: Any, **named: Any) -> Any:
            begun, processor = time.perf_counter(), time.process_time()
            found = function(*given, **named)
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begun
            self.processor[phase] = self.processor.get(phase, 0.0) + time.process_time() - processor
            return found

        return timed

    def step(self) -> dict[str, Any]:
        self.seconds.clear()
        self.processor.clear()
        begun, processor = time.perf_counter(), time.process_time()
        experience = loop.collect(self.run, self.iteration)
        loop.update(self.run, experience, self.iteration)
        self.iteration += 1
        wall, processor = time.perf_counter() - begun, time.process_time() - processor
        phases = {**self.seconds, OTHER: wall - sum(self.seconds.values())}
        own = {**self.processor, OTHER: processor - sum(self.processor.values())}
        tokens = int(experience.rollout.mask.sum())
        read = int(experience.rollout.prompt_mask.sum())
        counts = {"tokens": tokens, "prompt_tokens": read}
        return {"wall": wall, "cpu": processor, **counts, "phases": phases, "cpu_phases": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--critic", default="own")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lora", type=int, default=0)
    given = vars(parser.parse_args())
    threads, critic, dtype = given.pop("threads"), given.pop("critic"), given.pop("dtype")
    model, lora = given.pop("model"), given.pop("lora")
    machine.set_threads(threads)
    machine.quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        take_turns(Engine(make_run(Sizes(**given), Path(folder), critic, dtype, model, lora)).step)


if __name__ == "__main__":
    main()
