"""Blind reading: what is drawn, what the file shows, and what labels come to."""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stored
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import blind_reading

from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.results import blind
from rlhf_bench.harness.results.blind import Drawn, Pair
from rlhf_bench.harness.results.calibration import LABELS
from rlhf_bench.harness.results.found import find_cells


def pair(k: int, gold: blind.Golds = (1.0, 0.0), arm: str = "ppo scalar") -> Pair:
    return Pair(f"test-{k}", 1, (arm, blind.SFT), f"prompt {k}", (f"one {k}", f"other {k}"), gold)


PAIRS = [pair(k, arm=arm) for k in range(12) for arm in ("ppo scalar", "best-of-n gold")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs")
    stored.make(out, stored.Stored(prompts=8))
    return out


def test_pairs_are_of_the_last_checkpoint_and_have_the_judge_s_gold(runs: Path) -> None:
    cells, _ = find_cells([runs])
    found = blind.pairs_of(cells, "dialogsum")
    assert {one.arms for one in found} == {("ppo scalar", "SFT"), ("ppo seq2seq-token", "SFT")}
    assert {one.seed for one in found} == {1, 2}
    for one in found:
        k, name = int(one.prompt_id.split("-")[1]), one.arms[0].removeprefix("ppo ")
        assert one.responses == ("".join(stored.plain_words(name, int(one.seed), k)),
                                 "".join(stored.plain_words("", int(one.seed), k)))  # fmt: skip
        assert one.gold == (((k + len(name) + int(one.seed)) % 7) / 7, (k % 5) / 5)
        assert one.responses[0] != one.responses[1]


def test_two_arms_are_paired_by_seed_and_prompt(runs: Path) -> None:
    cells, _ = find_cells([runs])
    found = blind.pairs_of(cells, "dialogsum", "ppo scalar")
    assert {one.arms for one in found} == {("ppo seq2seq-token", "ppo scalar")}
    against = {(o.seed, o.prompt_id): o.responses[0] for o in blind.pairs_of(cells, "dialogsum")
               if o.arms[0] == "ppo scalar"}  # fmt: skip
    assert all(against.get((one.seed, one.prompt_id), one.responses[1]) == one.responses[1] for one in found)
    with pytest.raises(BenchError, match="ppo scala"):
        blind.pairs_of(cells, "dialogsum", "ppo scala")
    with pytest.raises(BenchError, match="dialogsum"):
        blind.pairs_of(cells, "dialogsun")


@given(st.integers(0, 99), st.integers(1, 30), st.randoms())
def test_a_draw_depends_on_the_pairs_and_the_seed_alone(seed: int, count: int, shuffler: Any) -> None:
    mixed = list(PAIRS)
    shuffler.shuffle(mixed)
    drawn = blind.draw(mixed, count, seed)
    assert drawn == blind.draw(PAIRS, count, seed)
    assert [one.number for one in drawn] == list(range(1, min(count, len(PAIRS)) + 1))
    assert len({(one.pair.arms, one.pair.prompt_id) for one in drawn}) == len(drawn)
    shares = Counter(one.pair.arms for one in drawn)
    assert max(shares.values()) - min(shares.values() if len(drawn) > 1 else [0, 1]) <= 1


def test_sides_and_order_are_random() -> None:
    draws = [blind.draw(PAIRS, 24, seed) for seed in range(40)]
    swapped = np.mean([one.swapped for drawn in draws for one in drawn])
    assert 0.44 < swapped < 0.56  # 960 draws: .5 +- 4 standard errors
    firsts = Counter(drawn[0].pair.arms for drawn in draws)
    assert min(firsts.values()) >= 8
    assert len({tuple(one.pair.prompt_id for one in drawn) for drawn in draws}) == 40


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_the_file_names_no_arm_and_its_labels_are_read_back(ending: str, tmp_path: Path) -> None:
    odd = [replace(PAIRS[0], responses=("=HYPERLINK(1)", '-"x",\ny'), prompt="@x"), *PAIRS[1:]]
    drawn, path = blind.draw(odd, 24, 3), tmp_path / f"pairs{ending}"
    blind.write_pairs(path, drawn)
    text = path.read_text(encoding="utf-8")
    assert not [name for name in ("scalar", "ppo", "SFT", "best-of-n", "test-") if name in text]
    rows = read(path)
    assert tuple(rows[0]) == blind.COLUMNS
    if ending == ".csv":
        assert not [cell for row in rows for cell in row.values() if str(cell).startswith(("=", "-", "@"))]
    with pytest.raises(BenchError, match="may hold labels"):
        blind.write_pairs(path, drawn)
    with pytest.raises(BenchError, match="no label"):
        blind.read_labels(path, drawn)
    labels = {one.number: LABELS[one.number % 3] for one in drawn if one.number != 5}
    write(path, [{**row, "label": labels.get(int(row["pair"]), "").upper()} for row in rows])
    assert blind.read_labels(path, drawn) == labels
    write(path, rows[::-1][:-1])  # another order, fewer rows
    for other, change, said in (
        (blind.draw(odd, 24, 4), {}, "not of this draw"),
        (drawn, {"label": "left"}, "'left'"),
        (drawn, {"pair": "99"}, "not of this draw"),
    ):
        write(path, [{**rows[0], "label": "a", **change}])
        with pytest.raises(BenchError, match=said):
            blind.read_labels(path, other)
    write(path, [{**rows[0], "label": "a"}] * 2)
    with pytest.raises(BenchError, match="twice"):
        blind.read_labels(path, drawn)


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, blind.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@given(st.integers(0, 50))
def test_who_always_prefers_the_arm_agrees_with_a_gold_that_does(seed: int) -> None:
    drawn = blind.draw(PAIRS, 24, seed)
    for_arm = {one.number: "b" if one.swapped else "a" for one in drawn}
    found = blind.read_out(drawn, for_arm, 0.95)  # type: ignore[arg-type]
    assert {share.value for _, share in found.wins.values()} == {1.0}
    assert found.agreed.value == found.firm.value == 1.0
    assert len(found.wins) == 3  # two arms, and all of them
    other = {number: "a" if label == "b" else "b" for number, label in for_arm.items()}
    against = blind.read_out(drawn, other, 0.95)  # type: ignore[arg-type]
    assert {share.value for _, share in against.wins.values()} == {0.0}
    assert against.agreed.value == 0.0


def test_the_reading_by_hand() -> None:
    golds: list[blind.Golds] = [(2, 1), (1, 2), (1, 1), (None, 1), (3, 1)]
    drawn = [Drawn(k, pair(k, gold), bool(k % 2)) for k, gold in enumerate(golds)]
    # k    0: a is the arm's   1: b is the arm's   2: tie   3: b is the arm's   4: a is the arm's
    found = blind.read_out(drawn, {0: "a", 1: "b", 2: "tie", 3: "a", 4: "b"}, 0.95)
    (count, share), *_ = found.wins.values()
    assert (count, share.value) == (5, pytest.approx((1 + 1 + 0.5 + 0 + 0) / 5))
    # gold: a, a (the SFT side of a swapped pair), tie, none, a
    assert found.by_gold == 4
    assert found.agreed.value == pytest.approx(2 / 4)
    assert found.firm.value == pytest.approx(1 / 3)
    # labels a b t b against a a t a: chance = (1*3 + 2*0 + 1*1) / 16
    assert found.kappa.value == pytest.approx((0.5 - 0.25) / 0.75)
    assert found.side_a.value == pytest.approx(2 / 4)
    assert (found.counts, found.read) == ({"a": 2, "b": 2, "tie": 1}, 5)
    shown = blind.reading_tables(found)
    assert "5 of 5 drawn pairs" in shown[0].note


def test_an_interval_widens_where_pairs_share_a_prompt() -> None:
    rng = np.random.default_rng(0)
    apart = [Drawn(k, pair(k), False) for k in range(60)]
    alike = [Drawn(k, pair(k // 6), False) for k in range(60)]
    coin = rng.integers(0, 2, 10)
    labels = {k: LABELS[coin[k // 6]] for k in range(60)}
    widths = []
    for drawn in (apart, alike):
        _, share = next(iter(blind.read_out(drawn, labels, 0.95).wins.values()))
        assert share.low is not None
        assert share.high is not None
        widths.append(share.high - share.low)
    assert widths[1] > 1.5 * widths[0]


def test_the_script_writes_reads_and_says_what_is_wrong(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "pairs.jsonl", tmp_path / "reading.json"
    asked = [str(runs), "--task", "dialogsum", "--count", "20", "--seed", "2"]
    blind_reading.main([*asked, "--write", str(path)])
    write(path, [{**row, "label": "a"} for row in read(path)])
    blind_reading.main([*asked, "--labels", str(path), "--out", str(out)])
    assert "Reader and gold model" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["read"], found["counts"], found["against"]) == (20, {"a": 20, "b": 0, "tie": 0}, "SFT")
    assert len(found["tables"]) == 2
    with pytest.raises(SystemExit) as ended:
        blind_reading.main([str(runs), "--task", "dialogsum", "--labels", str(path)])
    assert ended.value.code == 2
    assert "not of this draw" in capsys.readouterr().err
