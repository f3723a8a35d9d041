"""The task `dialogsum`: summarise a dialogue.  A synthetic task, or DialogSum (arXiv 2105.06762) with `data`."""

from __future__ import annotations

from rlhf_bench.tasks.real import Corpus, RealSummaries
from rlhf_bench.tasks.settings import Setting, check_real_data, settings_of
from rlhf_bench.tasks.worlds.world import DialogueWorld

DIALOGSUM = Corpus(
    noun="dialogue",
    hub="knkarthick/dialogsum",
    files="dialogsum",
    column="dialogue",
    summaries=("summary", "summary1", "summary2", "summary3"),  # its test file has three references
    ids=("fname", "id"),  # in the files of the authors, and on the hub
    instruction="Summarize the dialogue above.",
    license="CC BY-NC-SA 4.0 (stated for DialogSum; its dialogues belong to the users who created them)",
)


@settings_of(DialogueWorld)
def dialogsum(*, data: str = "", response_tokens: int = 0, **settings: Setting) -> DialogueWorld | RealSummaries:
    """Summaries of dialogues (synthetic task, or DialogSum with data=).

    `data` is a folder, a file, "hub" or a hub dataset of real dialogues.  `response_tokens` 0 means 48 in the synthetic
    task and 64 with real data; every other setting is the synthetic task's alone (`DialogueWorld` explains them) and
    is refused together with `data`.
    """
    if not data:
        return DialogueWorld(**settings, response_tokens=response_tokens or DialogueWorld.response_tokens)
    check_real_data(data, settings, DialogueWorld)
    return RealSummaries(DIALOGSUM, data, response_tokens or RealSummaries.response_tokens)
