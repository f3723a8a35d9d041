"""The task `xsum`: summarise a news article.  A controlled world, or XSum (arXiv 1808.08745) with `data`.

Its world tells the facts of the world of `tldr` in other sentences, and its gold reads the same summaries: a policy
trained on posts can be asked about articles (`bench run --task tldr --prompts xsum`).  It is a whole task all the same.
"""

from __future__ import annotations

from rlhf_bench.tasks.real import Corpus, RealSummaries, check_data, parted, refuse_knobs, refuse_prompts_only
from rlhf_bench.tasks.worlds.lexicon_prose import ARTICLE
from rlhf_bench.tasks.worlds.world import SummaryWorld

XSUM = Corpus(
    noun="article",
    hub="EdinburghNLP/xsum",
    files="xsum",
    column="document",
    summaries=("summary",),
    ids=("id",),
    instruction="Summarize the article above in one sentence.",
    license="unknown (the hub states none for XSum; its articles belong to the BBC)",
)


def xsum(
    *,
    data: str = "",
    prompts_only: bool = False,
    response_tokens: int = 0,
    seed: int = SummaryWorld.seed,
    demonstrations: int = SummaryWorld.demonstrations,
    train_pairs: int = SummaryWorld.train_pairs,
    test_pairs: int = SummaryWorld.test_pairs,
    train_prompts: int = SummaryWorld.train_prompts,
    test_prompts: int = SummaryWorld.test_prompts,
    words: int = SummaryWorld.words,
    objects: str = SummaryWorld.objects,
    min_facts: int = SummaryWorld.min_facts,
    max_facts: int = SummaryWorld.max_facts,
    correction_rate: float = SummaryWorld.correction_rate,
    mention_rate: float = SummaryWorld.mention_rate,
    sft_drop: float = SummaryWorld.sft_drop,
    sft_wrong: float = SummaryWorld.sft_wrong,
    sft_invent: float = SummaryWorld.sft_invent,
    sft_filler: float = SummaryWorld.sft_filler,
    good_drop: float = SummaryWorld.good_drop,
    good_wrong: float = SummaryWorld.good_wrong,
    good_invent: float = SummaryWorld.good_invent,
    good_filler: float = SummaryWorld.good_filler,
    bad_drop: float = SummaryWorld.bad_drop,
    bad_wrong: float = SummaryWorld.bad_wrong,
    bad_invent: float = SummaryWorld.bad_invent,
    bad_filler: float = SummaryWorld.bad_filler,
    carelessness: float = SummaryWorld.carelessness,
    preference_noise: float = SummaryWorld.preference_noise,
) -> SummaryWorld | RealSummaries:
    """The controlled world, or with `data` (a folder, a file, "hub", a hub dataset) real articles.

    Real rows have the columns document and summary, and may have an id.  `prompts_only` reads nothing but held-out
    prompts (of a single file every row), for data too small to be a whole task.  `response_tokens` 0 means 48 in the
    world and 64 with real data; every other setting is the world's alone (`World` and `SummaryWorld` explain them) and
    is refused together with `data`.
    """
    knobs, tokens = parted(locals(), "data", "prompts_only")
    if not data:
        refuse_prompts_only(prompts_only)
        return SummaryWorld(register=ARTICLE, **knobs, **tokens)
    refuse_knobs(data, knobs, SummaryWorld)
    check_data(data)
    return RealSummaries(XSUM, data, prompts_only=prompts_only, **tokens)
