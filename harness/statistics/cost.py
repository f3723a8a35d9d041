"""The cost of scoring: operations counted, and trends fitted to the measurements of `stages/overhead.py`.

A seq2seq reward model reads the prompt once and the response twice where a scalar one reads each once.  The cost of
that depends on the lengths and on the size of the model; these functions estimate how it grows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import special

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.statistics.cells import Array, upper_tail
from rlhf_bench.harness.statistics.intervals import Interval, allow_non_finite, bounded, unbounded, undefined

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row

KINDS = ("scalar", "seq2seq", "generation")
"""A scalar pass, a seq2seq-token pass, and, for reference, generating the response with a KV cache."""
METHOD = "log-log least squares"


@dataclass(frozen=True)
class OverheadSettings:
    """The grid that is measured: every size at every length, one response at a time.

    `widths` and `layers` are paired by index, heads have 32 dimensions, lengths are in tokens.  `repeats` of both
    passes are timed in turn; generation is timed in the first `generation_repeats` of them (0: not at all), since it
    takes most of the time.  Raises BenchError for values out of range.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    layers: tuple[int, ...] = (2, 4, 4, 8)
    lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    prompt: int = 64
    vocabulary: int = 1024
    repeats: int = 5
    generation_repeats: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("widths", "layers", "lengths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        if len(self.widths) != len(self.layers) or not self.widths or not self.lengths:
            seen = f"{len(self.widths)} widths, {len(self.layers)} layers, {len(self.lengths)} lengths."
            raise BenchError(seen, "Give as many layers as widths, and at least one length.")
        if any(width < 32 or width % 32 for width in self.widths):
            raise BenchError(f"widths={list(self.widths)}.", "Give multiples of 32.")
        if min(*self.layers, self.prompt, self.repeats) < 1 or min(self.lengths) < 2 or self.generation_repeats < 0:
            raise BenchError("Layers, prompt and repeats must be at least 1, lengths at least 2, generation_repeats 0.")
        # the stage's tokenizer has up to 300 ids, and the marker's tokens must be in the model's vocabulary
        if self.vocabulary < 512:
            raise BenchError(f"vocabulary={self.vocabulary}.", "Give at least 512.")


# ---- counting -------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """What one pass over one response costs, in counts.

    tokens: those that pass through the layers.   logits: positions at which logits over the vocabulary are computed.
    """

    tokens: int
    logits: int


def pass_of(kind: str, prompt: int, response: int, marker: int) -> Pass:
    """The pass over a prompt, a response (its end-of-sequence token counted) and a correction marker, in tokens.

    kind: one of KINDS; raises BenchError for another.
    """
    passes = {
        "scalar": Pass(prompt + response, 0),
        # [prompt; response without its end; marker; response], logits for the response's tokens
        "seq2seq": Pass(prompt + response - 1 + marker + response, response),
        # the last token generated is never an input
        "generation": Pass(prompt + response - 1, response),
    }
    if kind not in passes:
        raise BenchError(f"No pass is called {kind!r}.", f"Choose one of: {', '.join(KINDS)}.")
    return passes[kind]


def layer_parameters(width: int, layers: int) -> int:
    """Weights of a GPT-2's layers, without embeddings, biases and norms: 12 width^2 each (Kaplan 2020, 2001.08361).

    Per layer 4 width^2 of attention and 8 width^2 of the feed-forward part, whose inner width is 4 width.
    """
    return 12 * layers * width * width


def forward_flop(width: int, layers: int, tokens: int, logits: int, vocabulary: int) -> int:
    """Floating-point operations of one causal pass; a multiplication and an addition are two.

    The sum of the layers' weights, of attention, and of the logits (Kaplan 2020).  Norms, biases, activations and
    softmax are left out.
    """
    weights = 2 * layer_parameters(width, layers) * tokens  # 2 N per token for the N weights
    # Queries times keys and weights times values of each token with those up to it.  Kaplan (2020), Table 1, sums to
    # this up to the diagonal; a kernel that computes masked entries does up to twice as much.
    attention = 2 * layers * width * tokens * (tokens + 1)
    return weights + attention + 2 * width * vocabulary * logits


# ---- trends ---------------------------------------------------------------------------------------------------------


@allow_non_finite
def overhead_estimates(rows: Sequence[Row], level: float) -> dict[str, Interval]:
    """Trends of the rows of overhead.jsonl, by name.

    "KIND seconds ~ response length" and "~ parameters": exponents of a power law in both, by least squares on
    logarithms of the median seconds, with t intervals that measure how well such a law fits the grid (not how the
    figures would vary on another machine).  The prompt is fixed, so that short responses cost nearly alike: the
    exponent is that of the range measured.
    "time ratio seq2seq / scalar": per repeat the geometric mean over sizes and lengths, then a t interval on its
    logarithm over repeats; the same at each length, and over generation.   "tokens", "flop" and "memory" ratios: the
    geometric mean, the range in the note.
    """
    # refuses a wrong level, also where there is nothing to fit
    upper_tail(level)
    found: dict[str, Interval] = {}
    for kind in KINDS:
        timed = [row for row in rows if row["kind"] == kind and row["seconds"]]
        if not timed:
            continue
        seconds = np.array([np.median(row["seconds"]) for row in timed], float)
        factors = {
            "length": np.array([row["response"] for row in timed], float),
            "size": np.array([row["parameters"] for row in timed], float),
        }
        # A factor with one value has no exponent; the other is then fitted alone.
        varying = [name for name, column in factors.items() if len(set(column)) > 1]
        fits = dict(zip(varying, power_law([factors[name] for name in varying], seconds, level), strict=True))
        for name, label in (("length", "response length"), ("size", "parameters")):
            found[f"{kind} seconds ~ {label}"] = fits.get(name, undefined(f"one {name} was measured"))
    both = _matched(rows, "seq2seq", "scalar")
    for at in sorted({int(row["response"]) for row, _ in both}):
        pairs = [pair for pair in both if pair[0]["response"] == at]
        found[f"time ratio seq2seq / scalar at {at} tokens"] = time_ratio(pairs, level)
    for over in ("scalar", "generation"):
        pairs = _matched(rows, "seq2seq", over)
        found[f"time ratio seq2seq / {over}"] = time_ratio(pairs, level)
        for name, column in (("tokens", "tokens"), ("flop", "flop"), ("memory", "peak_bytes")):
            found[f"{name} ratio seq2seq / {over}"] = count_ratio(pairs, column)
    return found


@allow_non_finite
def power_law(factors: Sequence[Array], values: Array, level: float) -> list[Interval]:
    """Exponents b of values [n] = a product of factors [n] to the powers b, by least squares on logarithms.

    t intervals with n - 1 - factors degrees of freedom.  The exponents are undefined unless every number is above 0 and
    the factors vary independently; without a degree of freedom they have no bounds.
    """
    if not factors:
        return []
    # log y = c + sum of b log x: x [n, 1 + factors]
    x = np.stack([np.ones(len(values)), *(np.log(np.asarray(factor, float)) for factor in factors)], axis=1)
    y = np.log(np.asarray(values, float))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return [undefined("not every number is above 0", METHOD)] * len(factors)
    solution, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    if rank < x.shape[1]:
        return [undefined("the factors do not vary independently", METHOD)] * len(factors)
    freedom = len(y) - x.shape[1]
    if freedom < 1:
        note = "as many points as parameters: no interval"
        return [unbounded(float(b), METHOD, note) for b in solution[1:]]
    error = float(((y - x @ solution) ** 2).sum())
    spread = float(((y - y.mean()) ** 2).sum())
    note = f"R2 = {1 - error / spread:.3f} over {len(y)} points" if spread else "the values do not vary"
    # Standard errors: sqrt of the diagonal of (x'x)^-1 times the residual variance.
    halves = special.stdtrit(freedom, upper_tail(level)) * np.sqrt(np.diag(np.linalg.inv(x.T @ x)) * error / freedom)
    return [
        bounded(float(b), float(b - half), float(b + half), METHOD, note)
        for b, half in zip(solution[1:], halves[1:], strict=True)
    ]


Pairs = list[tuple["Row", "Row"]]
"""Rows of two kinds at the same size and length."""


def _matched(rows: Sequence[Row], over: str, under: str) -> Pairs:
    # a cell lacks a kind where that was not timed, as generation with generation_repeats=0
    cells: dict[tuple[int, int, int], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        cells[row["width"], row["layers"], row["response"]][row["kind"]] = row
    return [(cell[over], cell[under]) for cell in cells.values() if over in cell and under in cell]


@allow_non_finite
def time_ratio(pairs: Pairs, level: float) -> Interval:
    """Geometric mean of the seconds' ratio, with a t interval over the repeats that all cells have.

    The interval covers the variation between repeats on this machine, not between machines.
    """
    method = "t on logarithms over repeats"
    repeats = min((min(len(a["seconds"]), len(b["seconds"])) for a, b in pairs), default=0)
    if not repeats:
        return undefined("not measured", method)
    # Repeat r of both kinds is timed in turn, so the ratio is taken within a repeat; [cells, repeats] -> [repeats].
    logs = np.log([np.divide(a["seconds"][:repeats], b["seconds"][:repeats]) for a, b in pairs]).mean(axis=0)
    mean, note = float(logs.mean()), f"{repeats} repeats of {len(pairs)} cells, on this machine"
    if repeats == 1:
        return unbounded(math.exp(mean), method, note)
    half = float(special.stdtrit(repeats - 1, upper_tail(level)) * logs.std(ddof=1)) / math.sqrt(repeats)
    return bounded(math.exp(mean), math.exp(mean - half), math.exp(mean + half), method, note)


def count_ratio(pairs: Pairs, column: str) -> Interval:
    """Geometric mean of the ratio of a count such as tokens or bytes; the note gives its range.

    A count varies with size and length alone, so that there are no bounds.  Rows without the count are left out.
    """
    # `peak_bytes` of generation is null: its profile is too large (stages/overhead.py)
    known = [(a[column], b[column]) for a, b in pairs if a.get(column) and b.get(column)]
    if not known:
        return undefined("not measured", "geometric mean")
    logs = np.log([a / b for a, b in known])
    note = f"from {math.exp(logs.min()):.3g} to {math.exp(logs.max()):.3g} over {len(known)} cells"
    return unbounded(float(np.exp(logs.mean())), "geometric mean", note)
