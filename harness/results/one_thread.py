"""Reports are computed on one thread of linear algebra, so that their numbers do not depend on the machine's cores."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """A decorator: BLAS has one thread while the function runs, and the threads that it had before afterwards.

    More threads sum in another order, which changes last digits: `bench run`, whose process trains on several, and
    `bench report` would write different files, and could not share what the cache keeps.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        import scipy.linalg  # noqa: F401  # its BLAS must be loaded before it can be limited
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):
            return function(*args, **kwargs)

    return called
