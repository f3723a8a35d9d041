"""Published figures follow from published rows, by the functions behind this project's own numbers."""

import csv
import gzip
import math
from pathlib import Path

import numpy as np
import pytest

from rlhf_bench.harness.statistics.intervals import interval, wilson
from rlhf_bench.harness.statistics.length_control import predicted

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
ALPACA, TLDR = SHARED / "alpaca_eval", SHARED / "tldr" / "oai1b.csv_judged.csv"
needs_alpaca = pytest.mark.skipif(not ALPACA.is_dir(), reason="needs ../shared/data/alpaca_eval, which is not here")
needs_tldr = pytest.mark.skipif(not TLDR.is_file(), reason="needs ../shared/data/tldr, which is not here")

LEADERBOARD = "leaderboards/data_AlpacaEval_2__weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
REJUDGED = {("alpaca_eval_gpt4_turbo_fn", "Mistral-7B-Instruct-v0.2")}
"""Its published rate does not follow from the preferences stored beside it."""
UNWEIGHTED = {
    "NullModel", "dbrx-instruct", "gpt35_turbo_instruct", "llama-2-70b-chat-hf", "minotaur-13b", "platolm-7b",
    "text_davinci_001", "alpaca-7b_verbose", "alpaca-7b_concise", "phi-2",
}  # fmt: skip
"""Their published length-controlled rates do not follow from the published weights."""


def table(name):
    path = ALPACA / name
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        return list(csv.DictReader(file))


def mean_and_error(values):
    """In points; the error of a t interval of one seed's verdicts, as AlpacaEval reports it."""
    return 100 * values.mean(), 100 * values.std(ddof=1) / math.sqrt(values.size)


@needs_alpaca
def test_alpaca_eval_win_rates_and_standard_errors():
    preferences = {}
    for row in table("preferences_slim.csv.gz"):
        if row["preference"]:
            name = (row["annotator"], row["model_dir"])
            preferences.setdefault(name, []).append(float(row["preference"]))
    published = [row for row in table("expected_winrates.csv") if row["published_win_rate"]]
    assert len(published) == 123
    differing = set()
    for row in published:
        name = (row["annotator"], row["model_dir"])
        preference = np.array(preferences[name])
        verdicts = np.where(preference == 0, 0.5, preference - 1)  # 1 to 2, 2 for a win; 0 and 1.5 for a draw
        rate, error = mean_and_error(verdicts)
        wanted = float(row["published_win_rate"]), float(row["published_standard_error"])
        if (rate, error) != pytest.approx(wanted, abs=1e-6):
            differing.add(name)
        found = interval("win", verdicts, 0.95, np.random.default_rng(0))
        assert 100 * found.value == pytest.approx(rate, abs=1e-9)
    assert differing == REJUDGED


@needs_alpaca
def test_alpaca_eval_length_controlled_predictions():
    weights = {row[""]: row for row in table("weights__length_controlled_v1__baseline_gpt4_1106_preview.csv")}
    difficulties = [float(row["instruction_difficulty"]) for row in table("instruction_difficulty_recovered.csv")]
    published = {row[""]: row for row in table(LEADERBOARD)}
    models = sorted(weights.keys() & {name for name, row in published.items() if row["length_controlled_winrate"]})
    models = [name for name in models if name in {row["model"] for row in table("expected_lc_winrates.csv")}]
    assert len(models) == 199
    differing = set()
    for name in models:
        intercept = float(weights[name]["not_gamed_baseline.astype(float)"])
        found = predicted(intercept, float(weights[name]["instruction_difficulty"]), difficulties)
        rate, error = (published[name][column] for column in ("length_controlled_winrate", "lc_standard_error"))
        if 100 * found[0] != pytest.approx(float(rate), abs=1e-6):
            differing.add(name)
        elif error:  # some models were published without
            assert 100 * found[1] == pytest.approx(float(error), abs=1e-6)
    assert differing == UNWEIGHTED


@pytest.fixture(scope="module")
def judged():
    csv.field_size_limit(10**9)
    with TLDR.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["preferred"]]


@needs_tldr
def test_tldr_win_rate_of_a_thousand_verdicts(judged):
    """PPO against the reference: 64.0% with a standard error of 1.52 points."""
    ours = np.array([row["preferred"] == "ours" for row in judged], dtype=float)
    rate, error = mean_and_error(ours)
    assert (len(ours), rate, round(error, 2)) == (1000, pytest.approx(64.0), 1.52)
    found = wilson(ours, 0.95)
    assert found.value == pytest.approx(0.64)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error / 100, rel=0.01)


@needs_tldr
def test_the_tldr_judge_prefers_position_a_and_the_longer_summary(judged):
    """Longer in characters as stored; of the 11 pairs of equal length the reference counts as the longer."""
    first = [(row["preferred"] == "ours") == (row["shuffled_index"] == "0") for row in judged]
    assert wilson(first, 0.95).value == pytest.approx(0.584)
    longer = [len(row["postprocessed_response"]) > len(row["reference_responses"]) for row in judged]
    chosen = [(row["preferred"] == "ours") == ours for row, ours in zip(judged, longer, strict=True)]
    assert wilson(chosen, 0.95).value == pytest.approx(0.678)
    assert wilson(chosen, 0.95).low > 0.5
