"""What benchmarks/coverage.py simulates: data whose true value is known, and the interval that should hold it."""

from __future__ import annotations

from collections.abc import Iterator

from coverage_data import Setting
from coverage_means import nested_seeds, one_seed_numbers, one_seed_verdicts, rates_over_seeds, several_seeds
from coverage_statistics import at_equal_kl, checkpoints, other_statistics, shares_of_a_ceiling, two_modes


def settings(repetitions: int) -> Iterator[Setting]:
    for part in (
        one_seed_verdicts,
        one_seed_numbers,
        several_seeds,
        rates_over_seeds,
        other_statistics,
        at_equal_kl,
        shares_of_a_ceiling,
        two_modes,
        checkpoints,
        nested_seeds,
    ):
        # by section, in the order of their first settings
        found = list(part(repetitions))
        for section in dict.fromkeys(setting.section for setting in found):
            yield from (setting for setting in found if setting.section == section)
