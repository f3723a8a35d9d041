"""Loading a classifier of others and its tokenizer, from a folder or the hub, whatever tool saved it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rlhf_bench.harness.errors import BenchError, one_line
from rlhf_bench.harness.hub import load_error, split_revision
from rlhf_bench.harness.models import policies
from rlhf_bench.harness.models.adapter_folders import check_merged, merge_folder, read_adapter
from rlhf_bench.harness.models.tensors import check_report
from rlhf_bench.harness.text.tokens import check_has_vocabulary
from rlhf_bench.harness.text.vet import check_bounded
from rlhf_bench.reward_models.heads import find_head, install_head
from rlhf_bench.reward_models.sources import LEVELS, check_config, is_classifier, read_config

if TYPE_CHECKING:
    from rlhf_bench.harness.forward.types import Classifier
    from rlhf_bench.harness.text.types import Tokenizer

T = TypeVar("T")


def load_scoring_tokenizer(source: str) -> Tokenizer:
    """The classifier's own tokenizer.  Raises BenchError where there is none or it reads no text."""
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = _load(str(policies.tokenizer_source(source)), AutoTokenizer.from_pretrained, "tokenizer")
    check_has_vocabulary(tokenizer, source)
    check_bounded(tokenizer, source)
    return tokenizer


def load_scoring_model(source: str, level: str, head: str, device: str) -> Classifier:
    """The classifier in float32 evaluation mode.

    `level` and `head` as in `ClassifierScorer`.  Raises BenchError unless it has one output and all its weights.
    """
    import torch
    import transformers
    from transformers.utils import logging

    config = read_config(source)
    # Checked again here: `check_classifier` does not see the configuration of a hub id.
    check_config(source, config, (level,), head)
    adapter, native = read_adapter(source), is_classifier(config, (level,))
    # the head of its own classes is read by transformers
    foreign = level == "sequence" and (not native or bool(head or adapter))
    stored = find_head(source, head) if foreign else None
    device = policies.pick_device(device)
    # the bar of the weights would tear the command's own display
    logging.disable_progress_bar()
    auto = getattr(transformers, f"AutoModelFor{LEVELS[level]}")
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True, "num_labels": 1}
    base = adapter.base if adapter else source
    with policies.quiet_transformers():
        model, report = _load(base, auto.from_pretrained, "model", **options, ignore_mismatched_sizes=True)
    check_merged(model, base)
    # tensors beside the classifier's are common: the head of the language model that it was made from
    check_report(base, report, new=lambda name: bool(stored) and name.startswith("score."), left=lambda _: True)
    if stored is None and "score.bias" in report["unexpected_keys"]:
        stored = find_head(source, "score")  # transformers would drop the bias
    if adapter:
        model = merge_folder(model, adapter, left=(stored.weight, stored.bias) if stored else ())
    loaded: Classifier = model
    if stored:
        install_head(loaded, stored, config, source)
    return loaded.to(device).eval()


def _load(source: str, load: Callable[..., T], what: str, **options: object) -> T:
    """What `load` (a `from_pretrained`) makes of the source; raises BenchError where it fails for any reason."""
    name, revision = split_revision(source)
    try:
        return load(name, revision=revision, trust_remote_code=False, **options)
    except Exception as error:
        if not Path(name).is_dir():
            raise load_error(error, source, what) from error
        seen = f"No {what} can be loaded from {source}: {one_line(error)}."
        raise BenchError(seen, "Give a complete model folder.") from error
