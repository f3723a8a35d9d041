"""Whether a policy's tokenizer can be used and writes a prompt at all: a response needs a token before it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line

if TYPE_CHECKING:
    from rlhf_bench.harness.settings import Settings

PROMPT = "What is the capital of France?"


def check_prompt_tokens(source: str, settings: Settings) -> None:
    """Raises BenchError where the tokenizer of a policy's folder fails, or writes no token of a prompt.

    It fails where its class is that of a model, for example.  A hub id is not downloaded here.  What `load_tokenizer`
    refuses is left to the stage that loads it.
    """
    if not store.is_folder(folder := Path(source).expanduser()):
        return
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.text.templates import encode_prompts

    own = settings.policy
    try:
        ids = encode_prompts(load_tokenizer(folder, own.template, own.system, own.thinking), [PROMPT])
    except BenchError:
        return  # an adapter's base may be on the hub: a plan can be made without a network
    except Exception as error:  # whatever the libraries come to
        seen = f"The tokenizer of {source} cannot be used ({one_line(error)})."
        raise BenchError(seen, "Correct its tokenizer_config.json and the files beside it.") from error
    if not ids[0]:
        raise BenchError(
            f"The chat template of {source} writes no token of a prompt.",
            "Mend chat_template in its tokenizer_config.json, or choose --set policy.template=plain.",
        )
