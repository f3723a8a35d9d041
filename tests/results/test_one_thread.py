"""Reports are computed on one thread of linear algebra."""

import pytest
import scipy.linalg  # noqa: F401  # loads the BLAS that is limited
from threadpoolctl import threadpool_info, threadpool_limits

from rlhf_bench.harness import cache
from rlhf_bench.harness.api.reports import make_report
from rlhf_bench.harness.results.one_thread import one_thread
from rlhf_bench.reports import build, experiments


def blas_threads() -> set[int]:
    found = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    assert found
    return found


def test_blas_has_one_thread_inside_and_its_own_number_afterwards() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert one_thread(blas_threads)() == {1}
        assert blas_threads() == {2}
        with pytest.raises(ZeroDivisionError):
            one_thread(lambda: 1 // 0)()
        assert blas_threads() == {2}


@pytest.mark.parametrize("function", [make_report, experiments.build_experiment, build.write])
def test_what_computes_numbers_of_reports_is_wrapped(function: object) -> None:
    assert hasattr(function, "__wrapped__")


def test_the_cache_is_shared_by_processes_with_other_numbers_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for number in ("1", "8"):
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            monkeypatch.setenv(name, number)
        found.add(cache.code.__wrapped__())
    assert len(found) == 1
