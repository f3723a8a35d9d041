"""The page on a pretrained model: from a results folder written by hand, with hostile text in it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import stored

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import blind_reading
import real_results

from rlhf_bench.harness import store
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments
from rlhf_bench.reports import experiments as built_experiments

HOSTILE = "```\n# Not a heading\n<script>alert(1)</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment `real`, without training."""
    root = tmp_path_factory.mktemp("real")

    def words(rm: str, seed: int, prompt: int) -> Any:
        return (HOSTILE,) if rm and prompt == 1 else stored.plain_words(rm, seed, prompt)

    cells = stored.make(root, stored.Stored(prompts=12, words=words))
    plain = {"name": "real", "question": "Does it | gain?", "seeds": [1, 2], "command": "bench experiment real"}
    record = {**plain, "runs": {"safety, PPO": [cell.stem for cell in cells]}, "analyses": {}, "left_out": {}}
    path = experiments.record_path(root, "real")
    path.parent.mkdir()
    store.write_json(path, integrity.sealed(record, path.name))
    built = built_experiments.build_experiment(record, root, stored.Means())
    folder = built_experiments.folder_of(record, root)
    folder.mkdir()
    store.write_json(folder / built_experiments.FILE, integrity.sealed(built, built_experiments.FILE))
    return root


def outside_of_fences(text: str) -> str:
    return re.sub(r"(?ms)^(`{3,})text\n.*?^\1$", "", text)


def test_the_page_has_its_parts_and_runs_no_text_of_a_model(runs: Path, tmp_path: Path) -> None:
    out, pairs, reading = tmp_path / "page.md", tmp_path / "pairs.jsonl", tmp_path / "reading.json"
    asked = [str(runs), "--task", "dialogsum", "--count", "6"]
    blind_reading.main([*asked, "--write", str(pairs)])
    pairs.write_text(pairs.read_text().replace('"label": ""', '"label": "tie"'))
    blind_reading.main([*asked, "--labels", str(pairs), "--out", str(reading), "--reader", "a <b>student</b>"])
    real_results.main([str(runs), "--out", str(out), "--reading", str(reading)])
    text = out.read_text(encoding="utf-8")
    plain = outside_of_fences(text)
    for part in ("Does it", "Settings", "At the last checkpoint", "Read blind", "Reader and gold model", "Samples"):
        assert part in plain, part
    assert "6 of 6 drawn pairs were read" in plain
    assert "Reader: a" in plain
    assert "<b>" not in plain
    assert plain.rstrip().endswith(real_results.LIMITS.strip())
    # every sample: a heading, and two texts behind it; prompts are not ours to print
    samples = text.partition("## Samples")[2].partition("## What cannot")[0]
    assert len(re.findall(r"(?m)^### dialogsum \d+: .*, prompt \S+$", samples)) == real_results.SAMPLES
    assert len(re.findall(r"(?m)^`{3,}text$", samples)) == 2 * real_results.SAMPLES
    prompts = {json.loads(line)["prompt"] for line in pairs.read_text(encoding="utf-8").splitlines()}
    assert prompts
    assert not any(prompt in text for prompt in prompts)
    assert HOSTILE in text
    assert "<script>" not in plain
    assert "# Not a heading" not in plain


def test_places_on_a_disk_are_left_out() -> None:
    command = "bench experiment real --policy /a/b/model --set x.data=/c/d.json.gz --set y.data=e/f --seeds 1/2"
    assert real_results.PLACES.sub(r"\1", command) == (
        "bench experiment real --policy model --set x.data=d.json.gz --set y.data=e/f --seeds 1/2"
    )


def test_prompts_are_printed_on_request(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    (tmp_path / "page-intro.md").write_text("What was *asked*.\n", encoding="utf-8")
    real_results.main([str(runs), "--out", str(out), "--prompts"])
    assert "What was *asked*.\n\n## Settings" in out.read_text(encoding="utf-8")
    samples = out.read_text(encoding="utf-8").partition("## Samples")[2]
    assert len(re.findall(r"(?m)^Prompt:$", samples)) == real_results.SAMPLES
    assert len(re.findall(r"(?m)^`{3,}text$", samples)) == 3 * real_results.SAMPLES


def test_what_it_took_is_the_sum_of_each_stage_once(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.md"
    real_results.main([str(runs), "--out", str(out)])
    rows = dict(re.findall(r"(?m)^\| (\w+) \| (\d+) \|", out.read_text().partition("## What it took")[2]))
    markers = list(runs.glob("*/*/stage.json"))
    assert int(rows["all"]) == len(markers)
    assert int(rows["sft"]) == 2  # of two seeds, shared by two arms
    assert "No pair was read" in out.read_text()


def test_a_seed_draws_the_samples(runs: Path, tmp_path: Path) -> None:
    texts = []
    for number, seed in enumerate(("1", "1", "2")):
        out = tmp_path / f"{number}.md"
        real_results.main([str(runs), "--out", str(out), "--seed", seed])
        texts.append(out.read_text())
    assert texts[0] == texts[1] != texts[2]


def test_what_is_not_there_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([str(tmp_path)], [str(runs), "--reading", str(tmp_path / "none.json")]):
        with pytest.raises(SystemExit) as ended:
            real_results.main([*arguments, "--out", str(tmp_path / "page.md")])
        assert ended.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("Error: ")
        assert said.count("\n") == 1
    assert not (tmp_path / "page.md").exists()
