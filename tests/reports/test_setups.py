"""What a report says its arms were trained with, and labels of arms that several commands made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stored import Means, Stored, make, report_of

from rlhf_bench.harness import store
from rlhf_bench.harness.results.found import find_cells
from rlhf_bench.harness.text.types import JsonObject
from rlhf_bench.reports import build, markdown
from rlhf_bench.reports.files import texts
from rlhf_bench.reports.setups import setup_lines

PPO = {"lr": 1e-6, "critic_lr": 5e-6, "kl": 0.05, "temperature": 1.0}
POLICY = {"lora": 8, "dtype": "auto", "template": "auto"}


def arm(
    root: Path, name: str, optimizer: str = "ppo", policy: str = "qwen2", ppo: JsonObject = PPO, **by_hand: str
) -> None:
    """A finished cell whose stages say what they were computed with, as a command of its own."""
    made = root / name
    for path in make(made, Stored(rms=("scalar",), seeds=(1,), prompts=4)):
        record = store.read_json(path)
        params: dict[str, JsonObject] = {
            "sft": {"policy": {"settings": POLICY}, "sft": {"lr": 1e-5}},
            "scale": {"rm": {"name": "scalar", "settings": {"lr": 3e-4, "epochs": 1}}},
            "ppo": {"ppo": ppo} if optimizer == "ppo" else {"best_of_n": {"n": [1, 4], "pool": 4}},
        }
        for role, own in params.items():
            kind, label, key = record["stages"][role]
            file = made / kind / f"{label}-{key}" / store.MARKER
            stage = store.read_json(file)
            figures = {"dtype": "bfloat16", "template": "chat", "parameters": 15248} if role == "sft" else {}
            file.write_text(json.dumps({**stage, "params": own, "figures": {**stage["figures"], **figures}}))
        if optimizer != "ppo":
            record["stages"].pop("ppo")
        record |= {"arm": name, "optimizer": optimizer, "policy": policy, "preset": "small", "differing": by_hand}
        path.write_text(json.dumps(record))


def reported(root: Path) -> dict[str, Any]:

    cells, missing = find_cells(sorted(root.iterdir()))
    assert not missing
    return build.build(cells, missing, Means(), "bench report")


def labels(root: Path) -> set[str]:
    return {one["label"] for one in reported(root)["arms"]}


def test_a_label_leaves_out_what_the_other_command_has_by_its_preset(tmp_path: Path) -> None:
    arm(tmp_path, "a", **{"ppo.kl": "0.05", "policy.lora": "8", "scalar.lr": "3e-4"})
    arm(tmp_path, "b", "best-of-n", **{"best_of_n.n": "1,4"})
    assert labels(tmp_path) == {"scalar", "scalar (best-of-n)"}


def test_a_label_names_the_values_that_differ(tmp_path: Path) -> None:
    arm(tmp_path, "a", **{"ppo.kl": "5e-2", "ppo.lr": "1e-6"})
    arm(tmp_path, "b", ppo={**PPO, "kl": 0.2}, **{"ppo.lr": "0.000001"})
    arm(tmp_path, "c", "best-of-n")
    assert labels(tmp_path) == {"scalar (ppo.kl=0.05)", "scalar", "scalar (best-of-n)"}


def test_of_one_setting_at_a_time_a_label_has_that_one(tmp_path: Path) -> None:
    arm(tmp_path, "a", ppo=PPO)
    arm(tmp_path, "b", ppo={**PPO, "kl": 0.2}, **{"ppo.kl": "0.2"})
    arm(tmp_path, "c", ppo={**PPO, "lr": 0.5}, **{"ppo.lr": "0.5"})
    assert labels(tmp_path) == {"scalar", "scalar (ppo.kl=0.2)", "scalar (ppo.lr=0.5)"}


def test_another_policy_is_named(tmp_path: Path) -> None:
    arm(tmp_path, "a")
    arm(tmp_path, "b", policy="llama")
    assert labels(tmp_path) == {"scalar (qwen2)", "scalar (llama)"}


def test_many_settings_are_counted(tmp_path: Path) -> None:
    more = {f"dialogsum.s{k}": "1" for k in range(7)}
    arm(tmp_path, "a", ppo={**PPO, "kl": 0.2}, **more, **{"ppo.kl": "0.2"})
    arm(tmp_path, "b", "best-of-n")
    (long,) = labels(tmp_path) - {"scalar (best-of-n)"}
    assert long == "scalar (dialogsum.s0=1, dialogsum.s1=1, dialogsum.s2=1, dialogsum.s3=1, 3 more)"


def test_a_report_names_policy_adapters_precision_template_preset_and_rates(tmp_path: Path) -> None:
    arm(tmp_path, "a")
    arm(tmp_path, "b", "best-of-n")
    found = reported(tmp_path)
    setups = {one["label"]: one["setup"] for one in found["arms"]}
    rates = {"sft.lr": 1e-5, "ppo.lr": 1e-6, "ppo.critic_lr": 5e-6}
    same = {
        "policy": "qwen2",
        "preset": "small",
        "lora": 8,
        "dtype": "bfloat16",
        "template": "chat",
        "parameters": 15248,
    }
    assert setups == {"scalar": {**same, "rates": rates}, "scalar (best-of-n)": {**same, "rates": {"sft.lr": 1e-5}}}
    lines = [
        "Policy qwen2 (15,248 parameters), LoRA adapters of rank 8, precision bfloat16, template chat, preset small.",
        "Learning rates: sft.lr 1e-05, ppo.lr 1e-06, ppo.critic_lr 5e-06.",
    ]
    assert setup_lines(found["arms"]) == lines
    written = dict(texts(found, []))
    assert f"- {lines[0]}" in markdown.markdown(found)
    assert all(line in written["report.html"] for line in lines)
    # a report of an earlier version does not say
    assert setup_lines([{"label": "scalar"}]) == []


def test_arms_are_named_where_they_differ(tmp_path: Path) -> None:
    arm(tmp_path, "a")
    arm(tmp_path, "b", ppo={**PPO, "lr": 2e-6}, **{"ppo.lr": "2e-6"})
    (_, rates) = setup_lines(reported(tmp_path)["arms"])
    assert "ppo.lr 1e-06 (scalar) or 2e-06 (scalar (ppo.lr=2e-06))" in rates


def test_records_of_another_form_say_nothing(tmp_path: Path) -> None:
    make(tmp_path, Stored(rms=("scalar",), seeds=(1,), prompts=4))
    (one,) = report_of(tmp_path)[0]["arms"]
    assert one["setup"] == {"policy": "tiny"}
