"""What a dry run and a run's first lines say: policy, precision, template, preset, rates, and lengths of the data."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from families import FAMILIES
from rich.console import Console
from small import bench, command

from rlhf_bench.harness import api
from rlhf_bench.harness.api.runs import PlannedStage, RunPlan
from rlhf_bench.harness.cli.memory import plan_rows
from rlhf_bench.harness.cli.run import show_plan, show_setup
from rlhf_bench.harness.cli.status import duration
from rlhf_bench.harness.models.placement import choose_placement
from rlhf_bench.harness.plan import lengths
from rlhf_bench.harness.plan.lengths import lengths_of

PROMPT, ANSWER = "Where do they meet on day {}?", "They meet at nine."


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    root = tmp_path_factory.mktemp("first")
    rows = [{"prompt": PROMPT.format(k), "chosen": ANSWER, "rejected": "No!"} for k in range(60)]
    (root / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    policy = str(FAMILIES["qwen2"](root / "qwen2"))
    return api.plan("preferences", "scalar", policy=policy, data=str(root / "pairs.jsonl"), out=root / "runs")


def said(planned: RunPlan) -> str:
    text = io.StringIO()
    found = lengths_of(planned.cells, planned.request.policy)
    show_setup([planned.cells], found, "cpu", Console(file=text, highlight=False))
    return text.getvalue()


def test_everything_is_named_before_anything_is_computed(planned: RunPlan) -> None:
    policy, rates, texts = said(planned).splitlines()
    precision = choose_placement({"dtype": "auto"}, "cpu").dtype  # the processor decides
    assert policy == f"Policy qwen2, all weights trained, precision {precision}, template chat, preset small."
    assert rates == "Learning rates: sft.lr 1e-05, scalar.lr 1e-05, ppo.lr 1e-06, ppo.critic_lr 5e-06."
    assert texts.endswith("responses of up to 128 tokens.")


def test_lengths_are_those_of_the_data(planned: RunPlan) -> None:
    from transformers import AutoTokenizer

    from rlhf_bench.harness.models.policies import load_tokenizer
    from rlhf_bench.harness.text.templates import encode_prompts

    source = planned.request.policy
    found = lengths_of(planned.cells, source)
    assert found is not None
    made = encode_prompts(load_tokenizer(Path(source), "auto", "", "auto"), [PROMPT.format(k) for k in range(60)])
    assert found.longest_prompt == max(map(len, made))
    assert min(map(len, made)) <= found.mean_prompt <= found.longest_prompt
    answer = AutoTokenizer.from_pretrained(source)(ANSWER, add_special_tokens=False)["input_ids"]
    assert found.mean_response == found.longest_response == len(answer)
    assert (found.limit, found.unit, found.sampled) == (128, "tokens", False)


def test_of_many_texts_some_are_looked_at(planned: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lengths, "MOST", 10)
    found = lengths_of(planned.cells, planned.request.policy)
    assert found is not None
    assert found.sampled
    assert "of 10 texts" in found.text


def test_a_policy_that_is_not_here_has_no_lengths(planned: RunPlan) -> None:
    assert lengths_of(planned.cells, "owner/name") is None


def test_memory_and_time_are_those_of_the_data(planned: RunPlan) -> None:
    source, settings = planned.request.policy, planned.cells.settings
    found = lengths_of(planned.cells, source)
    assert found is not None
    known, assumed = (plan_rows(source, settings, 128, "cpu", own) for own in (found, None))
    assert f"prompt {found.longest_prompt} + response 128 tokens" in known[0][1]
    assert "prompt 512 (assumed) + response 128 tokens" in assumed[0][1]


def test_stages_of_unknown_time_are_counted() -> None:
    def last(*seconds: float | None) -> str:
        text = io.StringIO()
        show_plan([PlannedStage(f"s{k}", False, one) for k, one in enumerate(seconds)], Console(file=text, width=200))
        return text.getvalue().splitlines()[-1]

    assert last(None, None) == "2 of 2 stages pending, 2 of them of unknown time, as none alike has finished here."
    assert last(7200.0, None).startswith(
        "2 of 2 stages pending, about 2.0 h of one core, and 1 of them of unknown time"
    )
    assert last(30.0, 30.0) == "2 of 2 stages pending, about 60 s of one core."


def test_a_duration_has_one_unit_that_fits() -> None:
    seconds = (4.0, 600.0, 6 * 3600.0, 174 * 3600.0)
    assert [duration(one) for one in seconds] == ["4 s", "10 min", "6.0 h", "7.2 days"]


def test_a_dry_run_of_the_tiny_policy_says_so_too(tmp_path: Path) -> None:
    found = bench(*command(tmp_path, "--dry-run"))
    first = found.stdout.splitlines()[0]
    assert first == "Policy tiny, all weights trained, precision float32, template plain, preset tiny."
    assert " words on average" in found.stdout
