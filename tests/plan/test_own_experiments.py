"""Experiments of a user's own file: what is read, what is refused with line and key, and results without the file."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import stored
from click.testing import CliRunner

from rlhf_bench.harness import store
from rlhf_bench.harness.api.experiments import plan_experiment
from rlhf_bench.harness.cli.main import bench
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.pipeline import integrity
from rlhf_bench.harness.plan import experiments, own_experiments, stamps
from rlhf_bench.harness.results import claims
from rlhf_bench.reports import experiments as built_experiments
from rlhf_bench.reports import ledger

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "lengths.toml"
SCHEMA = json.loads(files("rlhf_bench.harness.plan").joinpath("experiment_schema.json").read_text(encoding="utf-8"))
HEAD = '[mine]\nquestion = "Which?"\nseeds = "1-2"\n'
RUN = 'runs = [{ task = "dialogsum", rms = ["scalar"] }]\n'


def test_the_example_is_read_and_planned(tmp_path: Path) -> None:
    planned = plan_experiment(str(EXAMPLE), (7,), {}, "tiny", "", tmp_path)
    made = planned.experiment
    assert (made.name, made.seeds, made.shows) == ("lengths", "401-405", ("sampled", "diagnostics"))
    assert made.runs[0].set == {"ppo.kl": 0.05}
    (plan,) = planned.made.plans.values()
    assert plan.settings.ppo.kl == 0.05
    assert [cell.reward_model for cell in plan.cells] == ["scalar", "seq2seq-token"]
    jsonschema.validate(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")), SCHEMA)


def test_an_experiment_of_a_file_is_one_of_the_package_in_all_but_its_name() -> None:
    text = files("rlhf_bench.harness.plan").joinpath("experiments.toml").read_text(encoding="utf-8")
    known = experiments.load()
    written = 0
    for name, values in tomllib.loads(text).items():
        if any(run.get("kind") in ("credit", "overhead") for run in values["runs"]) or values.get("pretrained"):
            continue
        found = own_experiments.of_definition("mine", values)
        assert replace(found, name=name, definition={}) == known[name]
        jsonschema.validate({"mine": values}, SCHEMA)
        written += 1
    assert written > 5


@pytest.mark.parametrize(
    ("line", "text", "named"),
    [
        (1, "", "0 entries"),
        (1, 'question = "x"', "[my-experiment]"),
        (1, HEAD + RUN + "[other]\nx = 1", "2 entries"),
        (3, HEAD.replace("seeds", "seed") + RUN, "'seeds'"),
        (5, HEAD + RUN + 'claim = "x"', "'claims'"),
        (4, HEAD + 'runs = [{ task = "dialogsum", rm = ["scalar"] }]', "'rms'"),
        (4, HEAD + 'runs = [{ task = "dialogsum", rms = "scalar" }]', "rms"),
        (4, HEAD + "runs = []", "no run"),
        (4, HEAD + 'runs = [{ kind = "credit", task = "dialogsum", rms = ["scalar"] }]', "'credit'"),
        (4, HEAD + 'runs = [{ rms = ["scalar"] }, { rms = ["gold"] }]', "'main'"),
        (4, HEAD + 'runs = [{ rms = ["scalar"] }, { name = "b", kind = "tuning", of = ["c"] }]', "'c'"),
        (4, HEAD + 'runs = [{ rms = ["scalar"] }, { name = "b", kind = "agreement", of = ["main"] }]', "best-of-n"),
        (3, HEAD.replace("1-2", "x") + RUN, "'x'"),
        (1, HEAD.replace("mine", "headline") + RUN, "packaged"),
        (1, HEAD.replace("mine", '"../x"') + RUN, "plain name"),
        (5, HEAD + RUN + 'contrasts = [{ a = "gold", b = "scalar", judge = "utility", statistic = "gold" }]', "'gold'"),
        (4, HEAD + 'runs = [{ task = "os:getcwd", rms = ["scalar"] }]', "--trust os:getcwd"),
        (5, HEAD + RUN + 'set = { "function.source" = "os:getcwd" }', "--trust os:getcwd"),
    ],
)
def test_an_error_names_line_and_key(tmp_path: Path, line: int, text: str, named: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError) as caught:
        own_experiments.read(path)
    said = str(caught.value)
    assert str(path) in said
    assert "entries" in said or f"line {line}:" in said, said
    assert named in said


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"arm": "gold"}, "'gold'"),
        ({"run": "nowhere"}, "'nowhere'"),
        ({"side": "left"}, "'left'"),
        ({"comparison": ""}, "comparison"),
        ({"figure": [3.0, 1.0]}, "figure"),
    ],
)
def test_a_claim_that_cannot_be_decided(change: dict[str, Any], named: str) -> None:
    definition = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))["lengths"]
    definition["claims"]["scalar-grows-longer"] |= change
    with pytest.raises(BenchError, match=named):
        claims.of_record({"name": "lengths", "definition": definition})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment of the example's file, without training."""
    root = tmp_path_factory.mktemp("own")
    cells = stored.make(root, stored.Stored(prompts=12))
    own = own_experiments.read(EXAMPLE)
    plain = {"name": own.name, "question": own.question, "seeds": [1, 2], "command": "bench experiment lengths.toml"}
    record = {**plain, "runs": {"ppo": [cell.stem for cell in cells]}, "analyses": {}, "left_out": {}}
    path = experiments.record_path(root, own.name)
    path.parent.mkdir()
    store.write_json(path, integrity.sealed({**record, "definition": dict(own.definition)}, path.name))
    return root


def test_results_are_read_where_the_file_is_not(runs: Path) -> None:
    ((record, root),) = built_experiments.find_records([runs])
    built = built_experiments.build_experiment(record, root, stored.Means())
    (claim,) = built["claims"]
    assert claim["id"] == "scalar-grows-longer"
    assert claim["verdict"] in ("supported", "contradicted", "inconclusive", "not run")
    text = ledger.experiment_markdown(built)
    assert "scalar-grows-longer" in text
    # the tables that it chose, and no others
    assert "At the last checkpoint" in text
    assert "Every two reward models" not in text
    with pytest.raises(BenchError, match="no page"):
        stamps.stamped(record, root)


def test_the_ledger_of_the_papers_leaves_it_out(runs: Path) -> None:
    done = CliRunner().invoke(bench, ["claims", str(runs)], catch_exceptions=False)
    assert "lengths is of a file of its own" in done.output


@pytest.mark.parametrize("definition", [{}, 3, {"question": "x", "seeds": "1", "runs": [{"kind": "os:system"}]}])
def test_a_record_of_others_is_checked(runs: Path, tmp_path: Path, definition: object) -> None:
    path = experiments.record_path(runs, "lengths")
    record = {**integrity.unsealed(store.read_json(path)), "definition": definition}
    target = experiments.record_path(tmp_path, "lengths")
    target.parent.mkdir()
    store.write_json(target, integrity.sealed(record, target.name))
    with pytest.raises(BenchError):
        built_experiments.find_records([tmp_path])


def test_the_schema_has_the_keys_of_the_forms() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    forms = {
        "experiment": own_experiments.DEFINITION,
        "run": own_experiments.RUN,
        "contrast": own_experiments.CONTRAST,
        "claim": own_experiments.CLAIM,
    }
    for name, form in forms.items():
        assert set(SCHEMA["$defs"][name]["properties"]) == {key.removesuffix("?") for key in form}
        needed = {key for key in form if not key.endswith("?")}
        assert set(SCHEMA["$defs"][name].get("required", ())) == needed
    assert SCHEMA["$defs"]["run"]["properties"]["kind"]["enum"] == list(own_experiments.KINDS)
