"""Every registered reward model and judge has a one-line description of its own, which `bench list` shows."""

from __future__ import annotations

import inspect

import pytest

from rlhf_bench.harness import plugins


@pytest.mark.parametrize("kind", ["reward-model", "judge"])
def test_first_lines_describe_the_factories(kind: plugins.Kind) -> None:
    documented = {name: inspect.getdoc(plugin.target()) or "" for name, plugin in plugins.available(kind).items()}
    lines = {name: text.split("\n")[0] for name, text in documented.items()}
    assert all(20 < len(line) <= 115 and line.endswith(".") for line in lines.values()), lines
    assert all(text.split("\n")[1:2] in ([], [""]) for text in documented.values())  # the first line is a sentence
    assert len(set(lines.values())) == len(lines)  # a variant without its own would have the docstring of `partial`
