"""The page in a real Chromium with the network off: it works, complains about nothing, and runs no text it shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import Browser, find_browser
from stored import NAMES, SLICES, Stored, make, report_of

from rlhf_bench.harness.results.table import number, value_text
from rlhf_bench.reports import build

FOUND = find_browser()
pytestmark = pytest.mark.skipif(FOUND is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")
EMOJI = ("🙂", " naïve", " 👩‍🚀", " end", ".")


def write(root: Path, *parts: Stored) -> Path:
    """report.html of a store."""
    for stored in parts:
        make(root, stored)
    report, cells = report_of(root)
    build.write(report, root / "report", cells)
    return root / "report" / "report.html"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def words(rm: str, seed: int, prompt: int) -> tuple[str, ...]:
        return () if (rm, prompt) == ("length-only", 2) else EMOJI if prompt == 1 else ("They", f" meet {rm} {seed}")

    root = tmp_path_factory.mktemp("store")
    return write(root, Stored(NAMES[:4], (1, 2), 50, words=words), Stored(NAMES[:2], (1,), 4, "tldr", "real"))


def texts(tab: Browser, selector: str) -> list[str]:
    found: list[str] = tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((e) => e.textContent.trim())"
    )
    return found


def column(tab: Browser, place: int) -> list[float | None]:
    """data-v of a column of the first comparison, in the order shown."""
    rows = "[...document.querySelectorAll('.compare[data-task=\"0\"] tbody tr')]"
    found = tab.run(f"{rows}.map((row) => row.cells[{place}].dataset.v ?? null)")
    return [None if value is None else float(value) for value in found]


def test_it_opens_from_disk_without_a_complaint_or_a_request(tab: Browser, path: Path) -> None:
    tab.open(path)
    assert tab.complaints() == []
    assert tab.run("document.title").startswith("How good is the policy after PPO")
    assert "synthetic task (known ground truth)" in texts(tab, ".tag")
    assert "real data" in texts(tab, ".tag")


def test_what_is_forbidden_would_be_seen(tab: Browser, path: Path) -> None:
    tab.open(path)
    image = '<img src="https://example.org/x.png" onerror="window.ran=1">'
    tab.run(f"document.body.insertAdjacentHTML('beforeend', {json.dumps(image)})")
    tab.wait("document.images[0].complete")
    assert tab.complaints()
    assert tab.run("window.ran === undefined")


def test_sorting_by_click_and_by_key(tab: Browser, path: Path) -> None:
    tab.open(path)
    header = ".compare[data-task='0'] thead th:nth-child(3)"
    before = column(tab, 2)
    tab.click(f"{header} button")
    assert column(tab, 2) == sorted(before, reverse=True)  # type: ignore[type-var]
    assert tab.run(f'document.querySelector("{header}").ariaSort') == "descending"
    tab.run(f'document.querySelector("{header} button").focus()')
    tab.key("Enter", 13)
    assert column(tab, 2) == sorted(before)  # type: ignore[type-var]
    assert tab.run(f'document.querySelector("{header}").ariaSort') == "ascending"
    assert len(texts(tab, ".compare[data-task='0'] thead th[aria-sort]")) == 1


def test_the_address_carries_what_is_seen(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.click(".compare[data-task='0'] thead th:nth-child(4) button")
    tab.choose("select[name=base]", "1")
    tab.choose("select[name=filter]", "flips")
    tab.choose("input[name=q]", "station")
    tab.wait("location.hash.includes('q=station')")
    shown = (texts(tab, ".compare"), texts(tab, ".picks li"), texts(tab, ".detail"))
    tab.open(path, tab.run("location.hash.slice(1)"))
    assert (texts(tab, ".compare"), texts(tab, ".picks li"), texts(tab, ".detail")) == shown
    assert tab.complaints() == []


BROKEN = (
    "sort=9.9.up&base0=77&slice0=none&decoding0=x",
    "task=9&show=1,99,x&filter=toString&order=valueOf&by=12&prompt=none",
    "sort=0.0.descending&by=__proto__",
    "inside",
    "=&=&%E0%A4%A",
)


@pytest.mark.parametrize("fragment", BROKEN)
def test_a_broken_address_breaks_nothing(tab: Browser, path: Path, fragment: str) -> None:
    tab.open(path, fragment)
    assert tab.complaints() == []
    assert texts(tab, ".picks li")


def shown(tab: Browser, row: int, place: int) -> tuple[float, str]:
    """(data-v, interval) of a cell of the first comparison."""
    cell = f"document.querySelector('.compare[data-task=\"0\"] tbody').rows[{row}].cells[{place}]"
    value, interval = tab.run(f"[{cell}.dataset.v, {cell}.querySelector('.interval')?.textContent ?? '']")
    return float(value), interval


def test_another_baseline_shows_paired_differences_where_they_are_stored(tab: Browser, path: Path) -> None:
    tab.open(path)
    names = texts(tab, ".compare[data-task='0'] thead th")
    report = json.loads((path.parent / "report.json").read_text())
    labels = texts(tab, ".compare[data-task='0'] tbody th")
    tab.choose("select[name=base]", "1")
    place, compared = names.index("win rate"), 0
    for pair in report["comparison"]["pairs"]:
        sides = (pair["a_label"], pair["b_label"])
        if pair["statistic"] == "win_rate" and pair["task"] == "dialogsum" and labels[1] in sides:
            sign = 1 if sides[1] == labels[1] else -1
            value, interval = shown(tab, labels.index(sides[0] if sign == 1 else sides[1]), place)
            ends = sorted(sign * end for end in (pair["low"], pair["high"]))
            assert value == pytest.approx(sign * pair["value"])
            assert interval == f"[{number(ends[0])}, {number(ends[1])}]".replace("-", "−")
            compared += 1
    assert compared == 3
    assert "paired by prompt" in texts(tab, ".compare [data-note]")[0]
    assert texts(tab, ".compare[data-task='0'] tr.reference th") == [labels[1]]


def test_other_differences_are_of_points_and_say_so(tab: Browser, path: Path) -> None:
    tab.open(path)
    place = texts(tab, ".compare[data-task='0'] thead th").index("KL")
    whole = column(tab, 2)
    tab.choose("select[name=slice]", SLICES[0])
    before = column(tab, 2)
    tab.choose("select[name=base]", "1")
    assert before[1] is not None
    expected = [value if k == 1 or value is None else value - before[1] for k, value in enumerate(before)]
    assert column(tab, 2) == pytest.approx(expected)
    assert not tab.run("document.querySelector('.compare tbody tr:not(.reference) .interval')")
    assert "no interval" in texts(tab, ".compare [data-note]")[0]
    tab.choose("select[name=slice]", "all")
    assert shown(tab, 0, place)[1] == ""
    tab.choose("select[name=base]", "")
    assert column(tab, 2) == whole
    assert texts(tab, ".compare [data-note]")[0] == ""


def test_the_script_writes_numbers_as_the_template_does(tab: Browser, path: Path) -> None:
    tab.open(path)
    delivered = texts(tab, ".compare[data-task='0'] tbody td")
    tab.choose("select[name=slice]", SLICES[0])
    assert texts(tab, ".compare[data-task='0'] tbody td") != delivered
    tab.choose("select[name=slice]", "all")
    assert texts(tab, ".compare[data-task='0'] tbody td") == delivered
    values = [k / 16 for k in range(-40, 41)] + [k / 1000 for k in range(-150, 150)] + [0.565, 1.005, -0.0, 1e-5]
    shown = tab.run(f"{json.dumps(values)}.map(number)")
    assert [text.replace("−", "-") for text in shown] == [number(value) for value in values]
    shown = tab.run(f"{json.dumps(values)}.map((value) => written(value, 'percent'))")
    assert [text.replace("−", "-") for text in shown] == [value_text(value, "percent") for value in values]


def test_filter_search_and_drill_down(tab: Browser, path: Path) -> None:
    tab.open(path)
    assert texts(tab, "#browser > .note")[0] == "50 of 50 prompts"
    assert len(texts(tab, ".picks li")) == 40
    tab.click("button.plain")
    assert len(texts(tab, ".picks li")) == 50
    tab.choose("select[name=filter]", "empty")
    assert texts(tab, ".picks b") == ["test-2"]
    assert any("(empty)" in text for text in texts(tab, ".card .text"))
    tab.choose("select[name=filter]", "undecided")
    assert texts(tab, ".picks b") == ["test-3"]
    assert "undecided" in texts(tab, ".verdicts-of td")
    assert "winrate undecided: no answer" in texts(tab, ".card .note")
    tab.choose("select[name=filter]", "all")
    tab.choose("input[name=q]", "MEET? (17)")
    tab.wait("document.querySelectorAll('.picks li').length === 1")
    assert texts(tab, ".picks b") == ["test-17"]
    tab.choose("input[name=q]", "")
    tab.wait("document.querySelectorAll('.picks li').length === 40")
    tab.click(".picks li:nth-child(6) button")
    assert texts(tab, ".detail h3") == ["test-5"]
    assert texts(tab, ".picks [aria-current=true] b") == ["test-5"]
    assert "prompt=test-5" in tab.run("location.hash")


def test_largest_loss_first(tab: Browser, path: Path) -> None:
    tab.open(path, "order=loss")
    data = tab.run("DATA.inside.tasks[0]")
    place = next(k for k, m in enumerate(data["measures"]) if m["name"] == "gold_change")
    shown = [
        cell for k, cell in enumerate(data["cells"]) if cell["label"] not in [c["label"] for c in data["cells"][:k]]
    ]
    worst = [min(cell["rows"][k]["v"][place] for cell in shown) for k in range(50)]
    order = sorted(range(50), key=lambda k: (worst[k], k))[:40]
    assert texts(tab, ".picks b") == [f"test-{k}" for k in order]


def test_tokens_are_cut_where_they_are_stored(tab: Browser, path: Path) -> None:
    tab.open(path, "prompt=test-1")
    cards = "[...document.querySelectorAll('.cards .card:not(:first-child) .text')]"
    shown = tab.run(f"{cards}.map((text) => [...text.querySelectorAll('.tok')].map((e) => e.textContent))")
    assert shown == [[*EMOJI, "end"]] * 4


def test_a_correction_is_shown_as_a_diff_and_greedy_text_beside_it(tab: Browser, tmp_path: Path) -> None:
    def words(rm: str, *_: int) -> tuple[str, ...]:
        return ("They", " meet", " Ben") if rm == "scalar" else ("Same", " .")

    tab.open(write(tmp_path, Stored(NAMES[:1], (1,), 2, words=words, greedy=True, correction="They greet Ben today")))
    card = ".card:not(.wide)"
    assert texts(tab, f"{card} .text del")[-1:] == ["meet"]
    assert texts(tab, f"{card} .text ins") == ["greet", "today"]
    both = tab.run(f"[...document.querySelector('{card} .text ins').parentNode.childNodes].map((n) => n.textContent)")
    assert "".join(text for text in both if text.strip() not in ("greet", "today")) == "They meet Ben"
    assert "Greedy response" in texts(tab, f"{card} summary")
    tab.run("document.querySelectorAll('.picks button')[1].click()")
    assert texts(tab, f"{card} .text ins") == []  # of the second prompt no correction was kept


def test_cells_can_be_chosen_and_the_task_changed(tab: Browser, path: Path) -> None:
    tab.open(path)
    assert len(texts(tab, ".card")) == 5  # the baseline and the first seed of four reward models
    tab.click("fieldset label:nth-of-type(2) input")
    assert len(texts(tab, ".card")) == 7  # another seed brings its own baseline
    tab.choose("select[name=task]", "1")
    assert len(texts(tab, ".card")) == 3
    assert texts(tab, "#browser > .note")[0] == "4 of 4 prompts"
    assert tab.complaints() == []


@pytest.mark.parametrize(("width", "dark"), [(360, False), (360, True), (768, False), (1280, True)])
def test_nothing_hangs_over_the_edge(tab: Browser, path: Path, width: int, dark: bool) -> None:
    tab.screen(width, 740, dark=dark, phone=width < 500)
    tab.open(path)
    assert tab.run("document.documentElement.scrollWidth") <= width
    tab.screen(1280, 900)


def test_screen_readers_get_names(tab: Browser, path: Path) -> None:
    tab.open(path)
    tab.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    nodes = tab.send("Accessibility.getFullAXTree")["nodes"]
    roles = {
        "button",
        "combobox",
        "checkbox",
        "searchbox",
        "link",
        "table",
        "image",
        "img",
        "figure",
        "region",
        "heading",
    }
    named = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in roles - {"figure"}]
    assert len(named) > 50
    assert [n["role"]["value"] for n in named if not n.get("name", {}).get("value")] == []
    assert tab.run("[...document.querySelectorAll('table')].every((t) => t.caption || t.closest('.card'))")
    assert tab.run("[...document.querySelectorAll('thead th')].every((c) => c.scope === 'col')")


def test_it_prints(tab: Browser, path: Path, tmp_path: Path) -> None:
    tab.open(path)
    tab.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes()[:4] == b"%PDF"
    assert tab.complaints() == []


SHOWN_CELLS = "DATA.inside.tasks[0].cells.filter((c) => !c.file)"
HOSTILE = ("</script>", " 'a' \\ ${b} `c`", "\u2028\u2029", " \ud83d", "\r\n", " <!--", "__proto__")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with more responses than fit into it."""
    root = tmp_path_factory.mktemp("large")
    found = write(root, Stored(NAMES, (1, 2), 40, words=lambda *_: HOSTILE * 40, judge_note="</script>'\\"))
    assert list((found.parent / "details").iterdir())
    return found


def test_details_come_from_beside_the_page_as_they_were_stored(tab: Browser, large: Path) -> None:
    tab.open(large)
    tab.wait(f"{SHOWN_CELLS}.length === 4")
    tab.wait("document.querySelectorAll('.card .tok').length > 0")
    beside = (large.parent / "details").resolve().as_uri()
    assert all(text.startswith(f"request: {beside}") for text in tab.complaints())
    assert tab.run(f"{SHOWN_CELLS}[0].rows.every((row) => row.x === {json.dumps(''.join(HOSTILE * 40))})")
    seeds = texts(tab, "fieldset label")
    tab.click("fieldset label:nth-of-type(2) input")  # the second seed of the first reward model
    tab.wait(f"{SHOWN_CELLS}.length === 5")
    assert seeds[:2] == ["1", "2"]
    assert len([part for part in texts(tab, ".card h4") if part.endswith("seed 2")]) == 2  # with its baseline
    assert texts(tab, "#browser > .note")[0] == "40 of 40 prompts"


def test_only_the_page_s_own_script_adds_scripts(tab: Browser, large: Path) -> None:
    evil = large.with_name("evil.js")
    evil.write_text("window.ran = 1;")
    other = large.with_name("other.html")
    added = '<script src="evil.js"></script><script>window.ran = 1</script>'
    other.write_text(large.read_text().replace("<main", f"{added}<main", 1))
    assert added in other.read_text()
    tab.open(other)
    tab.wait(f"{SHOWN_CELLS}.length === 4")
    assert tab.run("window.ran === undefined")


def test_a_page_without_its_details_says_so(tab: Browser, large: Path, tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    alone.write_bytes(large.read_bytes())
    tab.open(alone)
    tab.wait("document.querySelector('#browser > .note').textContent.includes('keep the folder')")
    assert len(texts(tab, ".card .text")) > 4  # responses of first seeds are in the page, without token rewards
    assert not texts(tab, ".card .tok")


@pytest.mark.slow
def test_ten_cells_of_five_hundred_prompts_are_small_and_quick(tab: Browser, tmp_path: Path) -> None:
    page = write(tmp_path, Stored(NAMES, (1, 2), 500, repeat=3))
    assert page.stat().st_size < 3e6
    assert tab.run("1") == 1
    waited = tab.open(page)
    taken = tab.work()
    assert len(tab.run("DATA.inside.tasks[0].cells")) == 10
    tab.wait(f"{SHOWN_CELLS}.length === 4")  # whose files beside the page have arrived
    assert all("t" in row for row in tab.run(f"{SHOWN_CELLS}.map((c) => c.rows[7])"))
    assert 0.01 < taken < 1.0, (taken, waited)
    before = tab.work()
    tab.choose("select[name=order]", "spread")
    tab.choose("select[name=filter]", "flips")
    assert tab.work() - before < 0.5
