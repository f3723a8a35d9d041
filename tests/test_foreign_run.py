"""`bench run` on a file of preferences with reward models of every kind and tokenizer, against one tiny policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foreign import FAMILIES, classifier
from small import bench, settings
from tiny import SENTENCES

from rlhf_bench.harness import store
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.plan.request import Request, make_plan
from rlhf_bench.harness.presets import parse_assignments
from rlhf_bench.harness.results.text_rewards import score_texts

pytestmark = pytest.mark.training
FUNCTION = "def brief(prompts, responses): return [-float(len(r)) for r in responses]\n"
TINY = {"ppo.iterations": 2, "ppo.save_every": 1, "eval.prompts": 6, "eval.greedy": False, "dpo.epochs": 1,
        "preferences.response_tokens": 12, "t5-seq2seq.epochs": 1, "ppo.scale_prompts": 4}  # fmt: skip


class Made:
    """Where everything of the run lies, and how it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "runs"
        self.data = root / "preferences.jsonl"
        rows = [
            {"prompt": f"What of {i}? {SENTENCES[i % 4]}", "chosen": SENTENCES[i % 4], "rejected": f"No, {i}. 🤖"}
            for i in range(60)
        ]
        self.data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        (root / "own.py").write_text(FUNCTION)
        self.arms = {f"hf:{classifier(name, root / 'models' / name)}": f"hf:{name}~" for name in FAMILIES}
        self.arms[f"hf:{classifier('qwen', root / 'models' / 'tokens', level='Token')}"] = "hf:tokens~"
        self.arms |= {"own:brief": "own:brief", "t5-seq2seq": "t5-seq2seq"}

    def settings(self, everything: bool) -> list[str]:
        """group.key=value texts; those of all arms, or without the trained one's."""
        found = settings((), world=False, **TINY, **{"t5-seq2seq.model": self.root / "models" / "t5"})
        return [text for text in found if text != "--set" and (everything or not text.startswith("t5"))]

    def run(self, *more: str, arms: Any = ()) -> Any:
        """`bench run` of the arms (all of them), in a process of its own."""
        rms = [text for arm in arms or self.arms for text in ("--rm", arm)]
        sets = [text for pair in self.settings(not arms) for text in ("--set", pair)]
        where = ["--data", str(self.data), "--out", str(self.out), "--jobs", "1"]
        judges = ["--judge", "length", "--judge", "empty"]
        return bench("run", "--task", "preferences", *rms, *where, *judges, *sets, *more, cwd=self.root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    import torch
    import transformers as t
    from tokenizers_here import make

    made = Made(tmp_path_factory.mktemp("foreign"))
    tokenizer, folder = make("unigram"), made.root / "models" / "t5"
    torch.manual_seed(0)
    config: Any = t.T5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    t.T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    done = made.run()
    assert done.returncode == 0, done.stderr
    return made


def test_every_reward_model_reaches_the_report_by_a_short_name(made: Made) -> None:
    report = json.loads((made.out / "report" / "report.json").read_text())
    shown = {e["reward_model"] for e in report["estimates"]}
    for label in made.arms.values():
        assert any(name.startswith(label) for name in shown), label
    assert len(shown) == len(made.arms)
    assert max(map(len, shown)) < 24
    assert report["data"][0]["kind"] == "real"


def missing(made: Made, monkeypatch: pytest.MonkeyPatch, *arms: str) -> list[str]:
    """The stages that the same run, or one of other arms, would have to make."""
    monkeypatch.chdir(made.root)
    monkeypatch.syspath_prepend(made.root)
    arguments = made.settings(not arms)
    request = Request("preferences", arms or list(made.arms), (0,), "tiny", ("length", "empty"),
                      parse_assignments(tuple(arguments)), data=str(made.data))  # fmt: skip
    return [stage.name for stage in make_plan(request).order if not stage.done(store.Store(made.out))]


def test_the_same_again_makes_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(made, monkeypatch) == []


def test_other_files_in_the_folder_are_another_reward_model(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    (made.root / "models" / "bert" / "notes.txt").write_text("changed")
    fresh = missing(made, monkeypatch)
    (made.root / "models" / "bert" / "notes.txt").unlink()
    assert fresh
    assert all("bert" in name for name in fresh)


def test_a_text_is_scored_by_label_and_by_full_name(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.root)
    monkeypatch.syspath_prepend(made.root)
    name = next(arm for arm in made.arms if arm.endswith("tokens"))
    report = json.loads((made.out / "report" / "report.json").read_text())
    label = next(e["reward_model"] for e in report["estimates"] if e["reward_model"].startswith("hf:tokens~"))
    # a label names no path: the one in the record is the user's to name
    with pytest.raises(BenchError, match=f"--trust {name}"):
        score_texts(label, ["What?"], ["Anna will."], made.out)
    named = [(name, ()), (label, [name, name.partition(":")[2]]), ("own:brief", ())]
    scored = [score_texts(rm, ["What?"], ["Anna will."], made.out, named=trusted)[0] for rm, trusted in named]
    assert scored[0] == scored[1]
    assert sum(scored[2].rewards) == -len("Anna will.")


def test_a_trained_one_is_shared_by_path_and_judged_beside_dpo(made: Made) -> None:
    import shutil

    trained = next(made.out.glob("reward/*t5*"))
    shared = shutil.copytree(trained, made.root / "shared")
    done = made.run("--optimizer", "dpo", "--optimizer", "sft-chosen", "--optimizer", "ppo", arms=[f"path:{shared}"])
    assert done.returncode == 0, done.stderr
    report = json.loads((made.out / "report" / "report.json").read_text())
    labels = {arm["label"] for arm in report["arms"]}
    assert {label.partition(" ")[2] for label in labels} == {"", "(dpo)", "(sft-chosen)"}


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("own:none", "has no 'none' for the reward-model"),
        ("hf:{models}", "no model folder"),
        ("hf:org/never-heard-of", "HF_HUB_OFFLINE"),
        ("path:{models}/bert", "--rm hf:FOLDER"),
    ],
)
def test_one_that_cannot_be_used_is_seen_before_anything_is_computed(
    made: Made, monkeypatch: pytest.MonkeyPatch, arm: str, said: str
) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        missing(made, monkeypatch, arm.format(models=made.root / "models"))
    assert len(str(caught.value).splitlines()) == 1


def test_one_that_fails_costs_one_line_and_nothing_else(made: Made) -> None:
    (made.root / "own2.py").write_text("def bad(prompts, responses): return [1.0]\n")
    done = made.run(arms=["own2:bad"])
    assert done.returncode == 2
    assert "own2:bad returned 1 values for" in done.stderr
    assert "Traceback" not in done.stderr
