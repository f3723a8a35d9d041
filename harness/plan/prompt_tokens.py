"""Whether a policy's chat template writes a prompt at all: a response needs a token before it."""

from __future__ import annotations

from pathlib import Path

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.settings import Settings

PROMPT = "What is the capital of France?"


def check_prompt_tokens(source: str, settings: Settings) -> None:
    """Raises BenchError for a policy's folder whose chat template leaves no token of a prompt.

    A hub id is not downloaded here.  Other faults of a tokenizer are left to the stage that loads it, which names them.
    """
    if settings.policy.template == "plain" or not store.is_folder(folder := Path(source).expanduser()):
        return
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.text.templates import encode_prompts

    own = settings.policy
    try:
        ids = encode_prompts(load_tokenizer(folder, own.template, own.system, own.thinking), [PROMPT])
    except Exception:
        return
    if not ids[0]:
        raise BenchError(
            f"The chat template of {source} writes no token of a prompt.",
            "Mend chat_template in its tokenizer_config.json, or choose --set policy.template=plain.",
        )
