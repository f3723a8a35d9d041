"""The task `xsum`: summarise a news article.  A synthetic task, or XSum (arXiv 1808.08745) with `data`.

The synthetic task has the facts of `tldr` in other sentences, and the same gold: a policy trained on posts can be
evaluated on articles (`bench run --task tldr --prompts xsum`).  It is a whole task of its own, too.
"""

from __future__ import annotations

from rlhf_bench.tasks.real import Corpus, RealSummaries
from rlhf_bench.tasks.settings import Setting, check_real_data, refuse_prompts_only, settings_of
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


@settings_of(SummaryWorld)
def xsum(
    *, data: str = "", prompts_only: bool = False, response_tokens: int = 0, **settings: Setting
) -> SummaryWorld | RealSummaries:
    """Summaries of news articles (synthetic task, or XSum with data=).

    `data` is a folder, a file, "hub" or a hub dataset of real articles.  Its rows have the columns document and
    summary, and may have an id.  `prompts_only` reads held-out prompts alone (of a single file every row), for data too
    small to be a whole task.  `response_tokens` 0 means 48 in the synthetic task and 64 with real data; every other
    setting is the synthetic task's alone (`World` and `SummaryWorld` explain them) and is refused together with `data`.
    """
    # the world and the corpus have their own defaults, so 0 stands for either
    if not data:
        refuse_prompts_only(prompts_only)
        tokens = response_tokens or SummaryWorld.response_tokens
        return SummaryWorld(register=ARTICLE, response_tokens=tokens, **settings)
    check_real_data(data, settings, SummaryWorld)
    return RealSummaries(XSUM, data, response_tokens or RealSummaries.response_tokens, prompts_only)
