"""Plugins: found by name, imported alone, and every fault is one line that names the plugin.

Installed distributions are simulated by their metadata: entry points need no more than a dist-info folder on the path.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf_bench.harness import fingerprint as code
from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.plugins import GROUPS, available, build, find

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """install(distribution, {name: reference}, {module: source}) puts a distribution on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(distribution: str, judges: dict[str, str], modules: dict[str, str]) -> Path:
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[{GROUPS['judge']}]", *(f"{name} = {reference}" for name, reference in judges.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for name, source in modules.items():
            path = site / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return site

    yield put
    for name in [n for n, m in sys.modules.items() if str(tmp_path) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]


def refusal(call: Callable[[], Any]) -> str:
    """The message of the BenchError that `call` raises: one line."""
    with pytest.raises(BenchError) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_the_built_in_plugins_are_registered() -> None:
    assert "dialogsum" in available("task")
    assert {"scalar", "seq2seq-token", "seq2seq-sentence", "seq2seq-token-positive"} <= set(available("reward-model"))
    assert {"winrate", "utility", "length", "empty"} <= set(available("judge"))


@pytest.mark.parametrize("kind", ["task", "reward-model", "judge"])
def test_every_built_in_plugin_can_be_imported(kind: Any) -> None:
    for plugin in available(kind).values():
        assert callable(plugin.factory())
        assert len(plugin.fingerprint()) == 64


def test_a_misspelt_name_gets_a_hint() -> None:
    message = refusal(lambda: find("judge", "lenght"))
    assert "'lenght'" in message
    assert "Did you mean 'length'?" in message
    assert "winrate" in message


def test_a_name_unlike_all_others_gets_the_whole_list() -> None:
    message = refusal(lambda: find("reward-model", "zzz"))
    assert "Did you mean" not in message
    assert "seq2seq-token" in message
    assert "module:attribute" in message
    assert did_you_mean("x", []) == "Known: none."


def test_an_installed_plugin_is_found_and_built(install: Install) -> None:
    install(
        "nice", {"mine": "mine_judge:Mine"}, {"mine_judge.py": "class Mine:\n    def __init__(self, n=1): self.n = n\n"}
    )
    assert find("judge", "mine").distribution == "nice"
    assert build("judge", "mine", {"n": 3}).n == 3


FAULTS = {
    "RuntimeError": "raise RuntimeError('no luck\\nsecond line')",
    "SyntaxError": "def broken(:",
    "ModuleNotFoundError": "import not_there_at_all",
    "SystemExit": "raise SystemExit(3)",
    "AttributeError": "",
    "ValueError": "Mine = 1; raise ValueError",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_plugin_is_one_line_that_names_it(install: Install, fault: str) -> None:
    install("fine", {"fine": "fine_judge:Fine"}, {"fine_judge.py": "class Fine: pass"})
    install("broken", {"bad": "bad_judge:Mine"}, {"bad_judge.py": FAULTS[fault]})
    message = refusal(lambda: find("judge", "bad").factory())
    for part in ("'bad'", "bad_judge:Mine", "broken", fault):
        assert part in message
    assert "second line" not in message
    assert build("judge", "fine", {}), "other plugins still work"


def test_an_interrupt_is_passed_on(install: Install) -> None:
    install("slow", {"slow": "slow_judge:Slow"}, {"slow_judge.py": "raise KeyboardInterrupt"})
    with pytest.raises(KeyboardInterrupt):
        find("judge", "slow").factory()


@pytest.mark.parametrize("body", ["raise RuntimeError('no luck\\nsecond')", "raise SystemExit(3)", "return {}['k']"])
def test_a_factory_that_fails_is_one_line_that_names_it(install: Install, body: str) -> None:
    install("broken", {"bad": "bad_factory:make"}, {"bad_factory.py": f"def make():\n    {body}\n"})
    assert "'bad' cannot be made" in refusal(lambda: build("judge", "bad", {}))


def test_the_factorys_own_error_is_shown_as_it_is(install: Install) -> None:
    source = (
        "from rlhf_bench.harness.errors import BenchError\ndef make():\n    raise BenchError('n is 0.', 'Raise it.')\n"
    )
    install("picky", {"picky": "picky_judge:make"}, {"picky_judge.py": source})
    assert refusal(lambda: build("judge", "picky", {})) == "n is 0. Raise it."


def test_what_is_not_callable_is_refused(install: Install) -> None:
    install("odd", {"odd": "odd_judge:table"}, {"odd_judge.py": "table = {}"})
    assert "odd_judge:table is not callable" in refusal(lambda: find("judge", "odd").factory())


def test_a_name_registered_twice_is_an_error_that_names_both(install: Install) -> None:
    install("first", {"twin": "one_judge:One"}, {"one_judge.py": "class One: pass"})
    install("second", {"twin": "two_judge:Two"}, {"two_judge.py": "class Two: pass"})
    message = refusal(lambda: find("judge", "twin"))
    for part in ("'twin'", "one_judge:One of first", "two_judge:Two of second"):
        assert part in message


def test_one_plugin_registered_twice_is_one(install: Install) -> None:
    """An editable install beside a wheel."""
    install("first", {"twin": "one_judge:One"}, {"one_judge.py": "class One: pass"})
    install("second", {"twin": "one_judge:One"}, {})
    assert find("judge", "twin").reference == "one_judge:One"


def test_only_the_named_plugin_is_imported(install: Install) -> None:
    install("one", {"one": "lone_one:One"}, {"lone_one.py": "class One: pass"})
    install("two", {"two": "lone_two:Two"}, {"lone_two.py": "class Two: pass"})
    assert {"one", "two"} <= set(available("judge"))
    assert not {"lone_one", "lone_two"} & set(sys.modules)
    find("judge", "one").factory()
    assert {"lone_one", "lone_two"} & set(sys.modules) == {"lone_one"}


def test_importing_a_built_in_plugin_imports_no_other_and_no_torch() -> None:
    code = (
        "import sys; from rlhf_bench.harness.plugins import available, find\n"
        "find('judge', 'length').factory(); find('reward-model', 'scalar').factory()\n"
        "folders = ('rlhf_bench.judges.', 'rlhf_bench.reward_models.', 'rlhf_bench.tasks.')\n"
        "print(*sorted(n for n in sys.modules if n.startswith(folders) or n in ('torch', 'transformers', 'trl')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["rlhf_bench.judges.length", "rlhf_bench.reward_models.scalar"]


def test_module_and_attribute_are_found_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "my_judges.py").write_text("class Outer:\n    class Inner:\n        size = 5\n")
    code = "from rlhf_bench.harness.plugins import build; print(build('judge', 'my_judges:Outer.Inner', {}).size)"
    program = f"import sys; sys.path = [p for p in sys.path if p]\n{code}"  # a console script has no '' on its path
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout == "5\n"


@pytest.mark.parametrize("name", ["not_there_at_all:Judge", "json:Judge", ":", "json:", ":Judge", "a b:c", "..x:y"])
def test_a_wrong_module_or_attribute_is_one_line(name: str) -> None:
    assert repr(name) in refusal(lambda: find("judge", name).factory())


# --- fingerprints

ORIGINAL = '''"""A judge."""
import json

class Judge:
    """Counts."""

    limit = 3

    def measure(self, case):
        """One verdict."""
        total = len(case)  # characters
        return total + self.limit
'''

SAME = {
    "comments": ORIGINAL.replace("# characters", "# of the response\n        # alone"),
    "docstrings": ORIGINAL.replace("A judge.", "Another text.").replace("One verdict.", "Its verdict."),
    "blank lines": ORIGINAL.replace("\n\n", "\n\n\n\n").replace("total = len", "\n        total = len"),
    "layout": ORIGINAL.replace("len(case)", "len(\n            case,\n        )"),
    "a removed docstring": ORIGINAL.replace('        """One verdict."""\n', ""),
    "the module's removed docstring": ORIGINAL.replace('"""A judge."""\n', ""),
}
OTHER = {
    "a number": ORIGINAL.replace("limit = 3", "limit = 4"),
    "an operator": ORIGINAL.replace("total + self", "total - self"),
    "a name": ORIGINAL.replace("class Judge", "class Other"),
    "a string that is no docstring": ORIGINAL.replace("limit = 3", "limit = '3'"),
    "broken": ORIGINAL + "def (",
}


@pytest.fixture
def fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    monkeypatch.syspath_prepend(tmp_path)

    def of(source: str) -> str:
        (tmp_path / "printed_judge.py").write_text(source)
        return find("judge", "printed_judge:Judge").fingerprint()

    return of


@pytest.mark.parametrize("change", SAME)
def test_a_fingerprint_ignores(fingerprint: Callable[[str], str], change: str) -> None:
    assert SAME[change] != ORIGINAL
    assert fingerprint(SAME[change]) == fingerprint(ORIGINAL)


@pytest.mark.parametrize("change", OTHER)
def test_a_fingerprint_changes_with(fingerprint: Callable[[str], str], change: str) -> None:
    assert fingerprint(OTHER[change]) != fingerprint(ORIGINAL)


def test_a_fingerprint_imports_nothing(fingerprint: Callable[[str], str]) -> None:
    assert fingerprint("raise SystemExit")
    assert "printed_judge" not in sys.modules
    assert fingerprint("\0")


@pytest.mark.parametrize(
    "style", ["from kit.helper import f", "from .helper import f", "import kit.helper", "from . import helper"]
)
def test_a_fingerprint_includes_the_siblings_that_the_plugin_imports(install: Install, style: str) -> None:
    site = install("kit", {}, {"kit/__init__.py": "", "kit/judge.py": style, "kit/helper.py": "from .deep import g"})
    (site / "kit" / "deep.py").write_text("g = 1")
    (site / "kit" / "alone.py").write_text("h = 1")
    plugin = find("judge", "kit.judge:Judge")
    before = plugin.fingerprint()
    (site / "kit" / "alone.py").write_text("h = 2")
    assert plugin.fingerprint() == before
    (site / "kit" / "deep.py").write_text("g = 2")
    assert plugin.fingerprint() != before


@pytest.mark.parametrize("fault", ["raise RuntimeError", "raise SystemExit", "import not_there_at_all", "def (:"])
def test_a_package_that_cannot_be_imported_does_not_stop_a_fingerprint(install: Install, fault: str) -> None:
    """Python imports a module's package to find the module; the one-line error comes when the plugin is imported."""
    install(
        "kit", {"bad": "bad_kit.judge:Judge"}, {"bad_kit/__init__.py": fault, "bad_kit/judge.py": "class Judge: pass"}
    )
    assert find("judge", "bad").fingerprint()
    assert "'bad'" in refusal(lambda: find("judge", "bad").factory())


def test_fingerprints_of_several_modules_differ() -> None:
    names = ("rlhf_bench.harness.store", "rlhf_bench.harness.nouns")
    prints = {code.of(*n) for n in [names, names[:1], names[1:], ("not_there_at_all",)]}
    assert len(prints) == 4


def test_a_name_may_carry_what_its_factory_calls_source(install: Install) -> None:
    code = "def reads(*, source, more=1): return source, more\ndef plain(*, more=1): return more\n"
    install("carrying", {"reads": "carry:reads", "carry": "carry:plain"}, {"carry.py": code})
    assert build("judge", "reads:a:b/c@d", {}) == ("a:b/c@d", 1)
    assert build("judge", "reads:a", {"more": 2}) == ("a", 2)
    assert build("judge", "carry:plain", {}) == 1  # its factory has no `source`, so this is module:attribute
    assert "carries nothing" in refusal(lambda: find("judge", "reads: "))
    assert "reads:" in find("judge", "reads:a").label
