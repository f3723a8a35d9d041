"""What an arm is, in one line: its reward model by the first line of the plugin's docstring, and its optimiser.

Docstrings are read from the source (`ast`): importing a reward model takes torch, and seconds.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from rlhf_bench.harness import plugins
from rlhf_bench.harness.plan import combination_names

OPTIMIZERS: Mapping[str, str] = {
    "ppo": "",
    "best-of-n": "Best-of-n: of n samples of the SFT policy the one with the highest reward; nothing is trained.",
    "dpo": "DPO: trained on the same pairs, without a reward model.",
    "sft-chosen": "SFT on the chosen responses of the same pairs, without a reward model.",
    "sft-tempered": "Control: the SFT policy sampled at lower temperatures; nothing is trained.",
}
"""By the name of `--optimizer`; PPO, the usual one, is not named beside every reward model."""
WITHOUT_REWARD = ("dpo", "sft-chosen", "sft-tempered")
"""Optimisers that read no reward: the reward model of the arm is only its name."""
FEATURES: Mapping[str, str] = {
    "li": "length",
    "rp": "no repetition",
    "qr": "relevance to the prompt",
    "qr_open": "relevance to the prompt, open-ended prompts",
    "rar": "relevance to the reference answer",
    "rar_closed": "relevance to the reference answer, closed-ended prompts",
    "closed": "closed-ended prompts",
}
"""The features of the package's own white-box rewards (reward_models/whitebox.py) in words."""


def described(reward_model: str, optimizer: str) -> str:
    """The arm in one line, "" where nothing is known: a plugin that is not installed here, or has no docstring."""
    said = OPTIMIZERS.get(optimizer, "")
    if optimizer in WITHOUT_REWARD:
        return said
    return f"{docstring_line(reward_model)} {said}".strip()


def feature(name: str) -> str:
    """A reward feature with its name in words, "li (length)"; a plugin's own feature by its name alone."""
    return f"{name} ({FEATURES[name]})" if name in FEATURES else name


def docstring_line(reward_model: str) -> str:
    """The first line of the docstring of a registered reward model, "" without one.

    Of NAME:SOURCE that of NAME.  A reward model that is named as module:attribute has none: its module may be
    anything that lies in the current folder, and a report reads no code that it was not given.
    """
    if said := combination_names.described(reward_model):
        return f"A combination: {said}."
    known = plugins.available("reward-model")
    found = known.get(reward_model) or known.get(reward_model.partition(":")[0])
    return _docstring_line(found.reference) if found else ""


@cache
def _docstring_line(reference: str) -> str:
    module, _, attribute = reference.partition(":")
    try:
        spec = importlib.util.find_spec(module)  # imports the packages around it, which may fail in any way
        body = ast.parse(Path(str(spec and spec.origin)).read_text(encoding="utf-8")).body
    except (Exception, SystemExit):
        return ""  # importing the plugin, which a run does, says what is wrong
    said = ""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            said = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == f"{attribute}.__doc__":
            said = str(ast.literal_eval(node.value)) if isinstance(node.value, ast.Constant) else ""
    return said.partition("\n")[0].strip()
