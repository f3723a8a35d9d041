"""For all tests: one thread, no network, tiny.py's models on disk, and the judges' server of fault_server.py."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported: sums in one order, and the machine is shared
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
from browser import Browser, browser, find_browser
from hypothesis import settings
from tiny import Tiny, make_gpt2, make_llama, make_tokenizer, save

# the cache of reports (harness/cache.py): no test reads or fills that of the user
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="rlhf-bench-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

# A shell that starts the tests in the background makes them ignore Ctrl-C, and so every command that they start: tests
# that interrupt something would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("laws", deadline=None)  # a busy machine is no failure
settings.load_profile("laws")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train something come first: two workers are then busy to the end, with the short files."""
    longest = {item.path for item in items if item.get_closest_marker("training")}
    items.sort(key=lambda item: item.path not in longest)  # stable: otherwise in the order of the folders


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="session")
def tiny_gpt2(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return save(make_gpt2(tokenizer), tokenizer, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture(scope="session")
def tiny_llama(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return save(make_llama(tokenizer), tokenizer, tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Both architectures in turn."""
    made: Tiny = request.getfixturevalue(f"tiny_{request.param}")
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A `FaultServer` without faults so far."""
    from fault_server import healthy  # here: other tests need none of what it imports

    yield from healthy(monkeypatch)


@pytest.fixture
def make(server: Any, tmp_path: Path) -> Callable[..., Any]:
    """Makes language-model judges that ask the server."""
    from fault_server import maker

    return maker(server, tmp_path)


@pytest.fixture(scope="module")
def tab() -> Iterator[Browser]:
    """One tab of a Chromium; modules that use it skip where there is none."""
    found = find_browser()
    assert found is not None
    with browser(found) as opened:
        opened.screen(1280, 900)
        yield opened
