"""What a gold scorer and the proxy that it measures have in common, from the records of their trainings.

Errors that two reward models share are counted as gains: the gold scorer must have other data, another seed and another
beginning (Gao et al. 2022; the records are those of training/record.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_bench.harness import forms
from rlhf_bench.harness.training.record import SAMPLE

if TYPE_CHECKING:
    from rlhf_bench.harness.text.types import Row


def shared(gold: Row, proxy: Row) -> list[str]:
    """Clauses about what two trainings have in common; [] for nothing, and where a record is of another form.

    Named are the same training, common pairs whatever their labels, a head or adapters drawn from one seed, and one SFT
    policy to start from.
    """
    if forms.problem(gold, forms.TRAINED) or forms.problem(proxy, forms.TRAINED):
        return []
    same_seed = gold["seed"] == proxy["seed"]
    same_policy = gold["policy"]["sha256"] == proxy["policy"]["sha256"]
    alike = all(gold[name] == proxy[name] for name in ("recipe", "settings"))
    if alike and same_seed and same_policy and gold["pairs"]["sha256"] == proxy["pairs"]["sha256"]:
        return ["it was trained exactly as the proxy, so it is the proxy itself"]
    found = []
    if count := common_pairs(gold["pairs"], proxy["pairs"]):
        # whole numbers up to the size of a record, an estimate beyond
        about = "" if _is_whole(gold["pairs"], proxy["pairs"]) else "about "
        found.append(f"{about}{count} of its {gold['pairs']['count']} training pairs are the proxy's too")
    drawn = [
        what
        for what, both in (
            ("heads", gold["head_std"] and proxy["head_std"]),
            ("adapters", gold["adapters"] and proxy["adapters"]),
        )
        if both and same_seed
    ]
    if drawn:
        found.append(f"the {' and '.join(drawn)} of both were drawn from seed {gold['seed']}")
    if same_policy:
        found.append("both start from the same SFT policy")
    return found


def common_pairs(one: Row, other: Row) -> int:
    """How many pairs two records have in common; exact where each names all of its pairs.

    Otherwise from the SAMPLE smallest hashes of the union, a random sample of it: the share of them that both have is
    the share of the union that both have (Broder 1997).
    """
    a, b = set(one["sample"]), set(other["sample"])
    if _is_whole(one, other):
        return len(a & b)
    smallest = sorted(a | b)[:SAMPLE]
    share = len(a & b & {*smallest}) / max(1, len(smallest))
    # |A and B| = J |A or B|, and |A or B| = |A| + |B| - |A and B|
    total = int(one["count"]) + int(other["count"])
    return round(share * total / (1 + share))


def _is_whole(*pairs: Row) -> bool:
    return all(own["count"] <= len(own["sample"]) for own in pairs)
