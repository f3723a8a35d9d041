"""The other engine of the PPO comparison: the PPOTrainer of TRL 1.12, the last release that has one.

Runs in an environment of its own (trl==1.12.0); `benchmarks/performance.py --trl PYTHON` starts it.  One step for each
line it reads: the trainer is held at the end of every step.  --strong turns its two gc.collect() a step off and gives
its models the fused activation that ours have.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
import torch
from datasets import Dataset
from peer_model import OTHER, TEMPLATE, Sizes, make_classifier, make_policy, make_tokenizer, prompts, say
from transformers import TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Turns(TrainerCallback):
    """Waits for a line before every step, and answers with its seconds."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._wait({"ready": True})

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wall, cpu = time.perf_counter() - self.begun, time.process_time() - self.processor
        self._wait({"wall": wall, "cpu": cpu})

    def _wait(self, row: dict[str, Any]) -> None:
        say(row)
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)  # nobody wants another step, and the trainer has no way to be told
        self.begun, self.processor = time.perf_counter(), time.process_time()


def make_trainer(sizes: Sizes, folder: str, strong: bool) -> PPOTrainer:
    activation = "gelu_pytorch_tanh" if strong else "gelu_new"
    tokenizer = make_tokenizer(sizes.vocabulary)
    around = [OTHER] * TEMPLATE
    rows = [{"input_ids": around + row} for row in prompts(sizes, 8 * sizes.batch)]
    data = Dataset.from_list(rows)
    config = PPOConfig(
        output_dir=folder,
        learning_rate=1e-6,
        per_device_train_batch_size=sizes.batch,
        gradient_accumulation_steps=1,
        num_mini_batches=sizes.minibatches,
        num_ppo_epochs=1,
        total_episodes=10**6 * sizes.batch,
        local_rollout_forward_batch_size=sizes.batch,
        response_length=sizes.response,
        temperature=1.0,
        stop_token="eos" if sizes.mean else None,
        num_sample_generations=0,
        report_to=[],
        save_strategy="no",
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
        logging_steps=10**9,
        use_cpu=True,
    )
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=make_policy(sizes, activation),
        ref_model=make_policy(sizes, activation),
        reward_model=make_classifier(sizes, activation),
        value_model=make_classifier(sizes, activation),
        train_dataset=data,
        eval_dataset=data.select(range(sizes.batch)),
        callbacks=[Turns()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--strong", action="store_true")
    given = vars(parser.parse_args())
    threads, strong = given.pop("threads"), given.pop("strong")
    sys.stdout = sys.stderr  # what the trainer prints is no answer
    torch.set_num_threads(threads)
    if strong:
        ppo_trainer.gc = SimpleNamespace(collect=lambda *_: 0, __name__=gc.__name__)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(Sizes(**given), folder, strong)
        trainer.train()


if __name__ == "__main__":
    main()
