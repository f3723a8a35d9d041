"""The site builds offline without a broken link; commands, settings, paths and numbers on the pages are current."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
from pages import PAGES, ROOT, commands, links, name, spans
from test_layers import LAYERS

from rlhf_bench.harness import plugins, presets
from rlhf_bench.harness.cli.main import bench
from rlhf_bench.harness.plan import experiments, own_experiments
from rlhf_bench.harness.settings import GROUPS, Settings

COMMANDS = [
    pytest.param(words, id=f"{name(page)}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in commands(page.read_text(encoding="utf-8"))
]
KINDS = {"--task": "task", "--prompts": "task", "--train-prompts": "task", "--rm": "reward-model", "--judge": "judge"}
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocs_click")


def parsed(words: list[str]) -> tuple[click.Command, dict[str, Any]]:
    """The command and its options by their first long name, parsed and not executed."""
    group = click.Context(bench, info_name="bench")
    command = bench.get_command(group, words[0])
    assert command is not None, f"no command {words[0]!r}"
    context = command.make_context(words[0], words[1:], parent=group)
    names = {p.name: max(p.opts, key=len) for p in command.params}
    return command, {names[key]: value for key, value in context.params.items()}


def known_names(kind: str) -> set[str]:
    """The registered plugins of a kind, and those of examples/third_party."""
    example = tomllib.loads((ROOT / "examples" / "third_party" / "pyproject.toml").read_text(encoding="utf-8"))
    points = example["project"]["entry-points"][plugins.GROUPS[kind]]  # type: ignore[index]
    return {*plugins.available(kind), *points}  # type: ignore[arg-type]


def is_placeholder(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Z_]+(@[A-Z]+)?", text))


# ---- commands -------------------------------------------------------------------------------------------------------


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_on_a_page_parses(words: list[str]) -> None:
    parsed(words)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_command_on_a_page_names_what_exists(words: list[str]) -> None:
    command, options = parsed(words)
    for option, kind in KINDS.items():
        given = options.get(option) or ()
        for one in [given] if isinstance(given, str) else given:
            one = one.removeprefix("+")  # +NAME: a judge beside the default ones
            assert ":" in one or is_placeholder(one) or one in known_names(kind), f"no {kind} {one!r}"
    assert options.get("--preset", "") in {"", *presets.load_presets()}
    if command.name == "experiment":
        name = options["name"]
        assert name in experiments.load() or own_experiments.read(ROOT / name)
    if command.name == "check" and options["kind"] != "engine":
        assert options["kind"] == "store" or options["name"] in known_names(options["kind"])


@pytest.mark.parametrize("words", COMMANDS)
def test_a_setting_of_a_command_on_a_page_exists(words: list[str]) -> None:
    _, options = parsed(words)
    for group, values in presets.parse_assignments(options.get("--set", ())).items():
        if group in GROUPS:
            presets.make_settings("tiny", {group: values}, frozenset())
            continue
        found = [p for kind in plugins.GROUPS for p in plugins.registered(kind) if fnmatch.fnmatch(p.name, group)]  # type: ignore[arg-type]
        assert found, f"no settings group {group!r}"
        for plugin in found:
            assert set(values) <= set(inspect.signature(plugin.factory()).parameters), plugin.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_setting_or_command_in_a_sentence_exists(page: Path) -> None:
    settings, text = Settings(), page.read_text(encoding="utf-8")
    if page.name == "CHANGELOG.md":
        text = re.sub(r"### Removed\n.*?(?=\n## )", "", text, flags=re.DOTALL)
    for span in spans(text):
        for group, key in re.findall(rf"\b({'|'.join(GROUPS)})\.([a-z_]+)\b", span):
            if key not in ("md", "py"):
                assert key in settings.group(group), f"{span!r} on {name(page)}"
        if command := re.match(r"bench ([a-z]+)\b", span):
            assert command[1] in bench.commands, f"{span!r} on {name(page)}"


# ---- README and CONTRIBUTING ----------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_and_paths_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [target for target in links(text) if not (ROOT / target).exists()] == []
    paths = [span for span in spans(text) if re.fullmatch(r"[\w./-]+(\.(py|toml|md|cff)|/)", span) and span != "site/"]
    under = ("", "harness/")  # the map names the folders of harness/ without it
    assert [path for path in paths if not any((ROOT / top / path).exists() for top in under)] == []


def test_findings_of_the_readme_are_those_of_the_results() -> None:
    pages = [*(ROOT / "docs").glob("results*.md"), *(ROOT / "docs" / "results").glob("*.md")]
    results = "".join(page.read_text(encoding="utf-8") for page in pages if not page.name.endswith("-intro.md"))
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    found = re.findall(r"-?\d\.\d+ \[-?\d\.\d+, -?\d\.\d+\]|-?\d\.\d+ \(-?\d\.\d+ \[.*?\]\)", text)
    assert len(found) >= 7
    assert [one for one in found if one not in results.replace("\\", "")] == []


def test_the_layers_are_those_of_the_test() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert " ".join(re.search(r"(?m)^(?:    \S.*\n)+", text)[0].split()) == " ".join(LAYERS)  # type: ignore[index]


def test_every_experiment_is_named() -> None:
    text = (ROOT / "docs" / "experiments-and-results.md").read_text(encoding="utf-8")
    assert set(experiments.load()) <= set(spans(text))


def test_the_citation_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{version}]\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# ---- the site -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning, such as a broken link, is an error."""
    if missing := [module for module in NEEDED if find_spec(module) is None]:
        pytest.skip(f"the extra `docs` is not installed: no {', '.join(missing)}")
    out = tmp_path_factory.mktemp("site")
    made = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    return out


class Loads(HTMLParser):
    """What a page loads from another host, and its links."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        if tag == "a":
            self.links.append(given.get("href", ""))
            return
        found = [given.get(key, "") for key in ("src", "srcset", "data", "poster")]
        found += (
            [given.get("href", "")] if tag == "link" and given.get("rel") not in ("canonical", "next", "prev") else []
        )
        self.external += [f"<{tag}> {url}" for url in found if re.match(r"(https?:)?//", url)]
        if "mermaid" in given.get("class", "").split():
            self.external.append(f"<{tag}> a diagram whose script the theme would load")


def loaded(page: Path) -> Loads:
    found = Loads()
    found.feed(page.read_text(encoding="utf-8"))
    return found


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    assert {page.name: found for page in pages if (found := loaded(page).external)} == {}
    styles = [sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css")]
    assert not any(re.search(r"@import|url\(\s*[\"']?(https?:)?//", sheet) for sheet in styles)


def test_commands_and_docstrings_are_on_the_site(site: Path) -> None:
    text = (site / "commands" / "index.html").read_text(encoding="utf-8")
    for command in bench.commands.values():
        assert f"bench {command.name}" in text
        assert all(option in text for p in command.params for option in p.opts if option.startswith("--"))
    for page, members in {
        "api": ("run", "load_report", "Report.to_pandas", "report"),
        "nouns": ("Rollout", "Verdict"), "seams": ("RewardModel", "TrainingJob"), "plugins": ("find",),
        "settings": ("PPOSettings",), "errors": ("BenchError",), "statistics": ("interval", "rank", "wilson"),
        "ppo-arithmetic": ("gae",),
    }.items():  # fmt: skip
        ids = set(re.findall(r'id="rlhf_bench\.([\w.]+)"', (site / "api" / page / "index.html").read_text("utf-8")))
        assert {m for m in members if not any(one.endswith(f".{m}") for one in ids)} == set(), page


def test_the_sample_report_and_the_generated_pages_are_reachable(site: Path) -> None:
    assert (site / "sample-report" / "report.html").is_file()
    assert "sample-report/report.html" in loaded(site / "index.html").links
    targets = loaded(site / "experiments-and-results" / "index.html").links
    assert {"../results/", "../results-whitebox/", "../performance/", "../coverage/"} <= set(targets)
    own = {f"{page.stem}/" for page in (ROOT / "docs" / "results").glob("*.md")}
    assert own
    assert own <= set(loaded(site / "results" / "index.html").links)
