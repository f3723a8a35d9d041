"""winrate-llm against a real server: `transformers serve` with a tiny model, offline, on a CPU."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_server import CASES
from tiny import make_tokenizer, save

from rlhf_bench.judges.llm.judge import WinRateLLM

MISSING = [name for name in ("fastapi", "uvicorn", "starlette") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"transformers[serving] is not installed: no {', '.join(MISSING)}"),
]
TEMPLATE = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}judge:"
ANSWER = '{"reason": "as told", "verdict": "A"}'


def parrot(tokenizer: Any) -> Any:
    """A GPT-2 that says ANSWER (one token) after anything, then ends: its layers add nothing, its head is a table."""
    import torch

    from rlhf_bench.harness.models.tiny_policy import tiny_model

    model = tiny_model(tokenizer, context=2048, layers=1, width=16, heads=2, seed=0)
    said, end = tokenizer.convert_tokens_to_ids(ANSWER), tokenizer.eos_token_id
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        head = torch.nn.Linear(16, len(tokenizer), bias=False)
        model.lm_head = head
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")) else 0.0)
        before, after = torch.eye(16)[0], torch.eye(16)[1]
        model.transformer.wte.weight[:] = before
        model.transformer.wte.weight[said] = after
        head.weight[said], head.weight[end] = before, after
    return model


def noise(tokenizer: Any) -> Any:
    """A GPT-2 of random weights: it says anything but a verdict."""
    from rlhf_bench.harness.models.tiny_policy import tiny_model

    return tiny_model(tokenizer, context=2048, layers=1, width=16, heads=2, seed=0)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def served(folder: Path, home: Path) -> Iterator[str]:
    """`transformers serve` on a model's folder; gives its base URL."""
    port = free_port()
    home.mkdir(exist_ok=True)
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu"],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(240):
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        assert process.poll() is None, (home / "log").read_text()[-3000:]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def made(kind: str, folder: Path) -> Path:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens([ANSWER])
    tokenizer.chat_template = TEMPLATE
    save({"parrot": parrot, "noise": noise}[kind](tokenizer), tokenizer, folder)
    return folder


def test_verdicts_cache_and_resume(tmp_path: Path) -> None:
    folder = made("parrot", tmp_path / "parrot")
    settings: dict[str, Any] = {"model": str(folder), "cache": str(tmp_path / "c.sqlite"), "max_tokens": 16}
    with served(folder, tmp_path / "home") as url:
        judge = WinRateLLM(base_url=url, concurrency=1, token_budget=3000, **settings)
        part = list(judge.measure(CASES, None))
        assert 0 < sum(v.reason == "budget" for v in part) < len(CASES)
        asked = judge.account["asked"]
        assert judge.account["tokens_in"] + judge.account["tokens_out"] <= 3000
        judge = WinRateLLM(base_url=url, **settings)
        whole = list(judge.measure(CASES, None))
        assert judge.account["cached"] == asked
        assert judge.account["asked"] == 2 * len(CASES) - asked
    # the parrot prefers whatever comes first: a flip everywhere, a tie everywhere
    assert [v.values for v in whole] == [{"win_rate": 0.5}] * len(CASES)
    assert [v.notes["orders"]["win_rate"] for v in whole] == [["win", "loss"]] * len(CASES)
    assert judge.account["honours"]
    assert list(WinRateLLM(base_url=url, **settings).measure(CASES, None)) == whole  # the server is gone


def test_noise_is_never_a_verdict(tmp_path: Path) -> None:
    folder = made("noise", tmp_path / "noise")
    with served(folder, tmp_path / "home") as url:
        judge = WinRateLLM(str(folder), url, cache=str(tmp_path / "c.sqlite"), max_tokens=24)
        found = list(judge.measure(CASES, None))
    assert all(v.values == {"win_rate": None} and v.reason for v in found)
    assert sum(judge.account["unusable"].values()) == 2 * len(CASES)
