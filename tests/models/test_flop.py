"""The estimate of arithmetic: parameters by hand, passes counted, and how the page writes amounts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_bench.harness.models.flop import parameters_of, ppo_flop
from rlhf_bench.reports.costs import amount


def test_two_operations_a_parameter_and_token_without_embeddings_head_and_attention() -> None:
    """torch counts every matrix product; what the estimate leaves out is added here by hand."""
    width, layers, vocabulary, length = 32, 2, 50, 8
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=64, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(input_ids=torch.ones(1, length, dtype=torch.long))
    norms = (2 * layers + 1) * width  # parameters that multiply no matrix
    left_out = 2 * length * width * vocabulary + layers * 2 * 2 * length * length * width  # head, attention
    estimate = 2 * (parameters_of(model) - norms) * length
    assert counted.get_total_flops() - left_out == pytest.approx(estimate, rel=0.01)  # rotary angles are products too


def test_ppo_reads_thrice_and_trains_both() -> None:
    assert ppo_flop(tokens=10, policy=100, critic=40, epochs=3) == 10 * (2 * 240 + 3 * 6 * 140)
    assert ppo_flop(tokens=10, policy=100, critic=0, epochs=1) == 10 * (2 * 200 + 6 * 100)


def test_amounts_have_units_and_a_dash_where_there_are_none() -> None:
    def of(*values: float) -> str:
        return amount([{"figures": {"flop": v} if v else {}} for v in values], "flop")

    assert (of(0.0), of(999.0), of(600.0, 0.0, 634.0), of(2.5e12)) == ("–", "999", "1.23k", "2.5T")
