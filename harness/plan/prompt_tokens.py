"""Whether a policy's tokenizer can be used and writes a prompt at all: a response needs a token before it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError, one_line

if TYPE_CHECKING:
    from rlhf_bench.harness.plan.request import Plan

PROMPT = "What is the capital of France?"


def check_prompt_tokens(source: str, plans: Iterable[Plan], root: store.Store) -> None:
    """Raises BenchError where the tokenizer of a policy's folder fails, or writes no token of a prompt.

    It fails where its class is that of a model, for example.  A hub id is not downloaded here.  What `load_tokenizer`
    refuses is left to the stage that loads it.  Where `root` has all results nothing is tried: it takes seconds.
    """
    if not store.is_folder(folder := Path(source).expanduser()):
        return
    made = list(plans)
    if all((stage.folder(root) / store.MARKER).is_file() for plan in made for stage in plan.order):
        return
    # runs of an experiment mostly have the same
    formats = {(p.template, p.system, p.thinking) for p in (plan.settings.policy for plan in made)}
    for template, system, thinking in sorted(formats):
        _check(source, folder, template, system, thinking)


def _check(source: str, folder: Path, template: str, system: str, thinking: str) -> None:
    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.text.templates import encode_prompts

    try:
        ids = encode_prompts(load_tokenizer(folder, template, system, thinking), [PROMPT])
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
