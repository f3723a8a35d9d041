"""The other engine of the PPO comparison: the PPOTrainer of TRL 1.12, the last release that has one.

Runs in an environment of its own (trl==1.12.0); `benchmarks/performance.py --trl PYTHON` starts it.  One step for each
line it reads: the trainer is held at the end of every step.  --strong turns its two gc.collect() a step off and gives
its models the fused activation that ours have.
"""

from __future__ import annotations

import argparse
import gc
import json
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
from peer_model import OTHER, PROMPTS, TEMPLATE, Sizes, make_classifier, make_policy, make_tokenizer, prompts, say
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


def random_parts(sizes: Sizes, strong: bool) -> dict[str, Any]:
    """What the trainer is given: models of random weights, their tokenizer and prompts."""
    activation = "gelu_pytorch_tanh" if strong else "gelu_new"
    around = [OTHER] * TEMPLATE
    return {
        "processing_class": make_tokenizer(sizes.vocabulary),
        "model": make_policy(sizes, activation),
        "ref_model": make_policy(sizes, activation),
        "reward_model": make_classifier(sizes, activation),
        "value_model": make_classifier(sizes, activation),
        "train_dataset": Dataset.from_list([{"input_ids": around + row} for row in prompts(sizes, 8 * sizes.batch)]),
    }


def real_parts(prepared: Path, lora: int, dtype: str) -> dict[str, Any]:
    """The same of a folder of `perf_real.prepare`: adapters on every linear layer, the reference without them.

    The value model has adapters of its own, injected in place: the trainer calls its trunk and its head.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(prepared / "policy", padding_side="left")
    kind = getattr(torch, dtype)

    def classifier() -> Any:
        load = AutoModelForSequenceClassification.from_pretrained
        model = load(prepared / "reward", num_labels=1, dtype=kind)
        model.config.pad_token_id = tokenizer.pad_token_id
        return model

    value, layers = classifier(), {"r": lora, "lora_alpha": 16, "lora_dropout": 0.0}
    names = sorted({name.rpartition(".")[2] for name, module in value.model.named_modules()
                    if isinstance(module, torch.nn.Linear)})  # fmt: skip
    value = inject_adapter_in_model(LoraConfig(**layers, target_modules=names), value)
    value.score.requires_grad_(True)
    ids = json.loads((prepared / PROMPTS).read_text(encoding="utf-8"))["ids"]
    return {
        "processing_class": tokenizer,
        "model": AutoModelForCausalLM.from_pretrained(prepared / "policy", dtype=kind),
        "ref_model": None,
        "reward_model": classifier().requires_grad_(False),
        "value_model": value,
        "peft_config": LoraConfig(**layers, target_modules=names, task_type="CAUSAL_LM"),
        "train_dataset": Dataset.from_list([{"input_ids": row} for row in ids]),
    }


def make_trainer(sizes: Sizes, folder: str, parts: dict[str, Any]) -> PPOTrainer:
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
    data = parts["train_dataset"]
    return PPOTrainer(args=config, eval_dataset=data.select(range(sizes.batch)), callbacks=[Turns()], **parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, value in asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--strong", action="store_true")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--lora", type=int, default=0)
    given = vars(parser.parse_args())
    threads, strong = given.pop("threads"), given.pop("strong")
    model, lora, dtype = given.pop("model"), given.pop("lora"), given.pop("dtype")
    sys.stdout = sys.stderr  # what the trainer prints is no answer
    torch.set_num_threads(threads)
    if strong:
        ppo_trainer.gc = SimpleNamespace(collect=lambda *_: 0, __name__=gc.__name__)
    with tempfile.TemporaryDirectory() as folder:
        sizes = Sizes(**given)
        parts = real_parts(model, lora, dtype) if model else random_parts(sizes, strong)
        trainer = make_trainer(sizes, folder, parts)
        trainer.train()


if __name__ == "__main__":
    main()
