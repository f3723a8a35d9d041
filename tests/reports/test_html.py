"""The page without a browser: what it may load, what it escapes, what it says; equal input, equal bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from payloads import PAYLOADS
from stored import NAMES, Stored, make, report_of

from rlhf_bench.reports import answer, blocks, figures, html, inside
from rlhf_bench.reports.measures import Column

FINITE = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    root = tmp_path_factory.mktemp("store")
    make(root, Stored(NAMES[:3], (1, 2), 8))
    return report_of(root)


def page_of(report: dict[str, Any], cells: list[Any]) -> str:
    labels = {arm["arm"]: arm["label"] for arm in report["arms"]}
    found = blocks.read(cells)
    return html.page({**report, "distributions": blocks.distributions(found)}, inside.inside(found, labels).data)


class Elements(HTMLParser):
    """Start tags with attributes, and what stands in script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, str]] = []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style"):
            self.raw.append((self._in, data))

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._in = ""


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(made: tuple[dict[str, Any], list[Any]]) -> None:
    found = Elements(page_of(*made))
    policy = next(a["content"] for t, a in found.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = {part.split()[0]: part.split()[1:] for part in policy.split("; ")}
    assert rules["default-src"] == ["'none'"]
    for name, kind in (("script-src", "script"), ("style-src", "style")):
        texts = [text for tag, text in found.raw if tag == kind and not text.lstrip().startswith('{"compare"')]
        digests = ["'sha256-" + base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() + "'" for t in texts]
        assert rules[name] == digests
        assert len(digests) == 1
    # a picture of a figure is drawn from a blob, which only this script can make: nothing is loaded from anywhere
    assert rules["img-src"] == ["blob:"]
    assert not {"connect-src", "font-src", "frame-src"} & set(rules)


def test_nothing_is_loaded_and_nothing_is_inline(made: tuple[dict[str, Any], list[Any]]) -> None:
    found = Elements(page_of(*made))
    for tag, attributes in found.tags:
        assert not {"src", "style", "srcdoc", "action", "formaction", "srcset"} & set(attributes), tag
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    script = next(text for tag, text in found.raw if tag == "script" and "use strict" in text)
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttp",
        "import(",
    ):
        assert word not in script
    assert not re.search(r"url\(|@import|https?:", next(text for tag, text in found.raw if tag == "style"))


def test_equal_reports_give_equal_bytes(made: tuple[dict[str, Any], list[Any]], tmp_path: Path) -> None:
    make(tmp_path, Stored(NAMES[:3], (1, 2), 8))
    report, cells = report_of(tmp_path)
    assert page_of(report, list(reversed(cells))) == page_of(*made)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_island_of_data_ends_only_where_it_ends(payload: str) -> None:
    text = inside.embedded({payload: [payload]})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {payload: [payload]}


def test_text_stays_text(made: tuple[dict[str, Any], list[Any]]) -> None:
    report, cells = made
    everything = " ".join(PAYLOADS)
    plain = Elements(page_of(report, cells))
    bad = {**report, "question": everything, "warnings": [everything, *report["warnings"]]}
    arms = [{**arm, "label": arm["label"] + everything} for arm in report["arms"]]
    found = Elements(page_of({**bad, "arms": arms}, cells))
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in plain.tags}
    assert {name for _, a in found.tags for name in a} == {name for _, a in plain.tags for name in a}


def test_a_report_of_nothing_is_a_page(made: tuple[dict[str, Any], list[Any]]) -> None:
    report, _ = made
    manifest = {**report["manifest"], "stages": {}, "seeds": []}
    text = html.page({**report, "arms": [], "estimates": [], "samples": [], "data": [], "manifest": manifest})
    assert "No reward model has been measured." in text


def test_surrogates_and_controls_are_written(made: tuple[dict[str, Any], list[Any]]) -> None:
    report, cells = made
    text = page_of({**report, "question": "a\ud800b\x1b[31m\x00"}, cells)
    assert "\\x1b[31m\\x00" in text
    text.encode("utf-8", errors="backslashreplace")


def linear(share: float) -> float:
    """sRGB to light."""
    return share / 12.92 if share <= 0.04045 else float(((share + 0.055) / 1.055) ** 2.4)


def luminance(colour: str) -> float:
    red, green, blue = (linear(int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_both_schemes() -> None:
    style = html.packaged("page.css")
    schemes = [
        dict(re.findall(r"(--[\w-]+): (#\w{3,6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    light, dark = schemes[0], schemes[1]
    assert set(dark) == set(light)
    for colours in (light, dark):
        full = {k: v if len(v) == 7 else "#" + "".join(2 * c for c in v[1:]) for k, v in colours.items()}
        for text in ("--ink", "--soft", "--accent", "--worse"):
            for ground in ("--paper", "--raised", "--faint", "--warn"):
                assert contrast(full[text], full[ground]) >= 4.5, (text, ground)
        for shade in ("--p1", "--p2", "--p3", "--p4", "--n1", "--n2", "--n3", "--n4"):
            assert contrast(full["--ink"], full[shade]) >= 4.5, shade
        for slot in range(figures.SLOTS):
            assert contrast(full[f"--s{slot}"], full["--paper"]) >= 3  # graphics


# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
VISION = {
    "normal": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def lab(colour: str, vision: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of a colour as it is seen."""
    parts = [linear(int(colour[k : k + 2], 16) / 255) for k in (1, 3, 5)]
    seen = [min(1.0, max(0.0, sum(m * c for m, c in zip(row, parts, strict=True)))) for row in VISION[vision]]
    weights = ((0.4124, 0.3576, 0.1805, 0.9505), (0.2126, 0.7152, 0.0722, 1.0), (0.0193, 0.1192, 0.9505, 1.089))
    x, y, z = (sum(w * c for w, c in zip(row, seen, strict=False)) / row[3] for row in weights)
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("vision", VISION)
def test_the_colours_of_series_differ_for_every_eye(vision: str) -> None:
    """A distance of 20 is plain to see (about 2.3 is just noticed); every series has a marker of its own besides."""
    for block in re.findall(r":root \{(.*?)\}", html.packaged("page.css"), re.S)[:2]:
        colours = re.findall(r"--s\d: (#\w{6})", block)
        assert len(colours) == figures.SLOTS == len(set(figures.MARKERS))
        assert min(math.dist(lab(a, vision), lab(b, vision)) for a, b in combinations(colours, 2)) >= 20


@given(st.lists(FINITE, max_size=8), st.integers(2, 8))
def test_an_axis_holds_its_values_between_round_numbers(values: list[float], marks: int) -> None:
    found = figures.axis(values, marks)
    assert found.low < found.high
    slack = 1e-6 * (found.high - found.low)
    assert all(found.low - slack <= v <= found.high + slack for v in values)
    assert all(0 <= found.share(v) <= 1 for v in values)
    assert 2 <= len(found.ticks) <= 2 * marks + 3
    steps = [b - a for a, b in pairwise(found.ticks)]
    assert max(steps) == pytest.approx(min(steps))
    digits = f"{steps[0]:.3e}".partition("e")[0]
    assert digits in ("1.000", "2.000", "5.000")
    inner = figures.tight(values, marks)
    assert found.low - slack <= inner.low < inner.high <= found.high + slack


@given(st.lists(st.tuples(FINITE, FINITE, st.floats(0, 10)), min_size=1, max_size=5), FINITE)
def test_figures_stay_inside_their_box(points: list[tuple[float, float, float]], mark: float) -> None:
    series = [figures.Series("a<b&\"'", figures.Look(9), [figures.Point(x, y, y - w, y + w) for x, y, w in points])]
    for text in (figures.lines(series, "x", "y", 'said "<b>"', mark), figures.scatter(series, "x", "y", "said", mark)):
        assert "<b" not in text.replace("&lt;b", "")
        width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0])
        for name, limit in (("x1", width), ("x2", width), ("x", width), ("y1", height), ("y2", height), ("y", height)):
            assert all(0 <= float(v) <= limit for v in re.findall(rf'\b{name}="([-\d.]+)"', text))


def estimate(**values: Any) -> dict[str, Any]:
    return {"task": "t", "judge": "winrate", "statistic": "win_rate", "slice": "all", "decoding": "sample",
            "iteration": 9, "n": 50, "n_invalid": 0, "note": "", "level": 0.95, **values}  # fmt: skip


def small_report(*ends: tuple[float | None, float | None, float | None], seeds: int = 3) -> dict[str, Any]:
    arms = [
        {"task": "t", "arm": f"a{k}", "label": f"rm{k}", "reward_model": f"rm{k}", "seeds": [*range(seeds)]}
        for k in range(len(ends))
    ]
    rows = [estimate(arm=f"a{k}", value=v, low=lo, high=hi) for k, (v, lo, hi) in enumerate(ends)]
    return {"arms": arms, "estimates": rows}


@pytest.mark.parametrize(
    ("ends", "side"),
    [((0.7, 0.6, 0.8), "better"), ((0.3, 0.2, 0.4), "worse"), ((0.6, 0.5, 0.7), "undecided"),
     ((0.6, None, None), "undecided"), ((None, None, None), "unknown")],
)  # fmt: skip
def test_only_a_whole_interval_decides(ends: tuple[float | None, float | None, float | None], side: str) -> None:
    report = small_report(ends)
    (column,) = answer.answering(report) or [Column("winrate", "win_rate", "win", "win rate", reference=0.5)]
    assert answer.outcomes(report, "t", column)[0].side == side


def test_the_answer_in_a_sentence() -> None:
    several = answer.sentence(small_report((0.7, 0.6, 0.8), (0.3, 0.2, 0.4), (0.5, 0.4, 0.6)), "t")
    assert several == (
        "On t, PPO leaves the policy better than the SFT baseline under 1 of 3 reward models (rm0), worse under 1 of 3 "
        "reward models (rm1), and 1 is undecided; the largest estimate is rm0's win rate 0.70 [0.60, 0.80] "
        "(3 training seeds, 50 prompts)."
    )
    one = answer.sentence(small_report((0.45, 0.4, 0.6), seeds=1), "t")
    assert one == (
        "On t, PPO against rm0 leaves the policy not clearly better or worse than the SFT baseline: win rate 0.45 "
        "[0.40, 0.60] (one training seed, 50 prompts: conditional on this training run)."
    )
    silent = small_report((0.7, 0.6, 0.8))
    silent["estimates"][0]["statistic"] = "length_change"
    assert "no judge measured" in answer.sentence(silent, "t")
