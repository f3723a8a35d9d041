"""The task `tldr`: summarise a post.  A synthetic task, or TL;DR (arXiv 2009.01325) with `data`.

TL;DR is published in pieces: summaries in one dataset, comparisons in another, and tables that judge one policy's
summaries against the human ones.  `RealTldr` turns rows of any of these kinds into posts, and splits the posts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rlhf_bench.harness.errors import BenchError, did_you_mean
from rlhf_bench.harness.nouns import Example, Origin, Pair, Split
from rlhf_bench.tasks.real import (
    HELD_OUT_FIRST,
    NAMES,
    File,
    candidate_files,
    needed_splits,
    refuse_training,
    split_file,
    split_rows,
    text_key,
)
from rlhf_bench.tasks.settings import Setting, check_real_data, check_tokens, refuse_prompts_only, settings_of
from rlhf_bench.tasks.sources import Row, content_sha256, hub_rows, read_rows, text
from rlhf_bench.tasks.worlds.lexicon_prose import POST
from rlhf_bench.tasks.worlds.world import SummaryWorld

# On the hub: prompt, chosen, rejected (train, validation); prompt, completion (train, validation, test).
PAIRS, POSTS = "trl-lib/tldr-preference", "trl-lib/tldr"

LICENSE = "modified MIT (OpenAI's comparisons); CC BY 4.0 as OpenAI states it for the posts"

# What a judged row may prefer: postprocessed_response ("ours") or reference_responses.
VERDICTS = ("ours", "reference")


class Post(NamedTuple):
    """One post: its human summaries, and preferences as (chosen, rejected)."""

    id: str
    prompt: str
    summaries: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]

    @property
    def example(self) -> Example:
        """The completion is the first human summary, else the first chosen text, else ""; the others are references."""
        completions = self.summaries or tuple(dict.fromkeys(chosen for chosen, _ in self.pairs)) or ("",)
        return Example(self.id, self.prompt, completions[0], completions[1:])


class Posts(NamedTuple):
    """The posts by split, and what was left out: posts that a more held-out split has, pairs of equal texts."""

    files: Mapping[File, list[Post]]
    copies: int
    equal: int


@dataclass(frozen=True)
class RealTldr:
    """Human summaries of posts and preferences.  `data` is a folder, a file, "hub", or the name of a hub dataset.

    A row holds a prompt, and a completion (a human summary) or chosen and rejected or both.  Or it holds query,
    postprocessed_response, reference_responses and preferred ("ours", "reference", or blank: no verdict), the columns
    of a judged table: the reference is then the human summary, and a verdict makes a pair of the two texts.

    Rows about one post are put together.  Even-numbered train posts are the demonstrations (those with a human summary
    if any has one, else with their first chosen text), odd-numbered ones the PPO prompts; all train posts with a
    preference are training pairs.  Held-out prompts are the test posts, or the dev posts where there is no test split;
    held-out pairs come from both.  A single file is split 80/10/10 by the posts' hash.  `prompts_only` is as in
    `RealSummaries`.
    """

    rubric = "summary"  # for judges that read responses; without annotation, so that it is no dataclass field

    data: str
    response_tokens: int = 64
    prompts_only: bool = False

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)

    @property
    def max_response_tokens(self) -> int:
        """As set; human summaries have at most 44 words in the judged table that this was tried on."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read and left out; the hash is of the rows as they were, before anything was left out."""
        files, copies, equal = self._posts
        counts = ", ".join(
            f"{len(posts)} {file} ({sum(len(post.pairs) for post in posts)} pairs)" for file, posts in files.items()
        )
        demonstrations = "human summaries"
        if self.prompts_only:
            demonstrations = "none, held-out prompts only"
        elif not self._has_summaries:
            demonstrations = "chosen texts, as no train post has a human summary"
        rows, news = self._rows
        description = (
            f"Posts, human summaries and preferences from {self.data}: {counts}. Left out: {copies} train rows on "
            f"posts a held-out split has (but for case, spaces and punctuation), {equal} pairs of equal texts, "
            f"{news} rows that are about news articles. Demonstrations: {demonstrations}."
        )
        stated = LICENSE if self.data in ("hub", PAIRS, POSTS) else "unknown"
        return Origin("real", description, content_sha256(rows.items()), stated)

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts; the completion is the human summary, else a chosen text, "" where a post has neither.

        Raises BenchError where the train posts leave none for "sft" or "train".
        """
        if split != "test":
            self._check_training()
        files = self._posts.files
        if split == "test":
            return [post.example for post in files.get("test") or files["dev"]]
        if split == "train":
            # By position among the distinct posts, so the two halves share no post.
            half, missing = files["train"][1::2], "odd-numbered train post"
        else:
            half, missing = files["train"][::2], "even-numbered train post with a summary"
            # Chosen texts are demonstrations only where no train post has a human summary.
            half = [post for post in half if post.summaries or (post.pairs and not self._has_summaries)]
        if not half:
            fix = "Even ones are the demonstrations, odd ones the PPO prompts: give more posts."
            raise BenchError(f"{self.data} has no {missing}.", fix)
        return [post.example for post in half]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Preferences about train posts, or about held-out ones.

        None for "sft".  Ids are the post's with a number; a post may have several pairs.  Raises BenchError under
        prompts_only.
        """
        if split == "sft":
            return []
        self._check_training()
        files = self._posts.files
        posts = files["train"] if split == "train" else [*files.get("dev", []), *files.get("test", [])]
        return [
            Pair(f"{post.id}/{number}", post.prompt, chosen, rejected)
            for post in posts
            for number, (chosen, rejected) in enumerate(post.pairs)
        ]

    def _check_training(self) -> None:
        if self.prompts_only:
            refuse_training(self.data)

    @cached_property
    def _has_summaries(self) -> bool:
        return any(post.summaries for post in self._posts.files.get("train", []))

    @cached_property
    def _rows(self) -> tuple[Mapping[File, list[Row]], int]:
        """Rows by split, and the number of rows left out because they are about news articles."""
        path = Path(self.data).expanduser()
        if self.data == "hub":
            posts = needed_splits(POSTS, hub_rows(POSTS), ("test",) if self.prompts_only else ("train", "test"))
            if self.prompts_only:
                return posts, 0
            # PAIRS has no test split, and POSTS no preferences: the two complete each other
            preferences = needed_splits(PAIRS, hub_rows(PAIRS), ("train", "dev"))
            # The validation split of PAIRS has news articles too; only a post begins with its subreddit.
            kept = {
                file: [row for row in rows if text(row, "prompt").startswith("SUBREDDIT:")]
                for file, rows in preferences.items()
            }
            news = sum(len(preferences[file]) - len(kept[file]) for file in kept)
            return {"train": posts["train"] + kept["train"], "dev": kept["dev"], "test": posts["test"]}, news
        # not a path, so a name on the hub (`check_data` refused everything else)
        if not path.exists():
            splits = hub_rows(self.data)
            known = [file for file, names in NAMES.items() if any(splits.get(name) for name in names)]
            return needed_splits(self.data, splits, self._wanted(known)), 0
        if path.is_dir():
            known = [file for file in NAMES if candidate_files(path, file, "tldr")]
            return {file: read_rows(split_file(path, file, "tldr")) for file in self._wanted(known)}, 0
        rows = read_rows(path)
        if self.prompts_only:
            return {"test": rows}, 0
        return split_rows(path, rows, "query" if is_judged(rows[0]) else "prompt"), 0

    def _wanted(self, known: Sequence[File]) -> list[File]:
        """The splits to read of those that exist; raises BenchError where a needed one does not."""
        held: list[File] = [file for file in known if file != "train"]
        if not held:
            raise BenchError(f"{self.data} has neither a test nor a dev split.", "Add one: posts to evaluate on.")
        if self.prompts_only:
            return held[-1:]  # the test split where there is one, else the dev split
        if "train" not in known:
            raise BenchError(f"{self.data} has no train split.", "Add one, or read it with prompts_only.")
        return ["train", *held]

    @cached_property
    def _posts(self) -> Posts:
        """Rows about one post put together, in the most held-out split that has it.

        What the train split says of a held-out post is left out.  No held-out split is trained on, so dev rows about a
        test post join it.
        """
        files = {file: [read_post(row) for row in rows] for file, rows in self._rows[0].items()}
        found: dict[str, tuple[File, Post]] = {}
        copies = equal = 0
        for file in HELD_OUT_FIRST:
            for number, (prompt, summary, pair) in enumerate(files.get(file, ())):
                home, post = found.get(text_key(prompt), (file, Post(f"{file}-{number}", prompt, (), ())))
                if file == "train" != home:  # a held-out split has this post
                    copies += 1
                    continue
                if pair and pair[0] == pair[1]:
                    equal, pair = equal + 1, None
                # dict.fromkeys drops repeated texts and keeps their order, on which ids of pairs depend.
                summaries = dict.fromkeys((*post.summaries, *([summary] if summary else [])))
                pairs = dict.fromkeys((*post.pairs, *([pair] if pair else [])))
                found[text_key(prompt)] = home, post._replace(summaries=tuple(summaries), pairs=tuple(pairs))
        posts = {file: [post for home, post in found.values() if home == file] for file in files}
        return Posts(posts, copies, equal)


def is_judged(row: Row) -> bool:
    """Whether a row is of a judged table.

    The columns decide: query in place of prompt.
    """
    return "query" in row.values and "prompt" not in row.values


def read_post(row: Row) -> tuple[str, str, tuple[str, str] | None]:
    """(prompt, human summary or "", (chosen, rejected) or None) of a row; raises BenchError for an unusable one."""
    # Tables leave cells empty: an empty string there is the same as a missing column.
    filled = {column for column, value in row.values.items() if value not in (None, "")}
    if not is_judged(row):
        prompt = text(row, "prompt")
        if not filled & {"chosen", "rejected"}:
            return prompt, text(row, "completion").strip(), None
        summary = text(row, "completion").strip() if "completion" in filled else ""
        return prompt, summary, (text(row, "chosen").strip(), text(row, "rejected").strip())
    prompt, reference = text(row, "query"), text(row, "reference_responses").strip()
    # a blank verdict is none: the human summary still counts
    if "preferred" not in filled:
        return prompt, reference, None
    ours, verdict = text(row, "postprocessed_response").strip(), row.values["preferred"]
    if verdict not in VERDICTS:
        fix = f"{did_you_mean(str(verdict), VERDICTS)} Leave it empty where there is no verdict."
        raise BenchError(f"{row.where}: 'preferred' holds {verdict!r}.", fix)
    return prompt, reference, (ours, reference) if verdict == "ours" else (reference, ours)


@settings_of(SummaryWorld)
def tldr(
    *, data: str = "", prompts_only: bool = False, response_tokens: int = 0, **settings: Setting
) -> SummaryWorld | RealTldr:
    """Summaries of posts (synthetic task, or TL;DR with data=).

    `data` is a folder, a file, "hub" or a hub dataset of real posts; `RealTldr` says which columns its rows have, and
    "hub" takes summaries and preferences from two datasets.  `prompts_only` reads held-out prompts alone (of a single
    file every row).  `response_tokens` 0 means 48 in the synthetic task and 64 with real data; every other setting is
    the synthetic task's alone (`World` and `SummaryWorld` explain them) and is refused together with `data`.
    """
    if not data:
        refuse_prompts_only(prompts_only)
        tokens = response_tokens or SummaryWorld.response_tokens
        return SummaryWorld(register=POST, response_tokens=tokens, **settings)
    check_real_data(data, settings, SummaryWorld)
    return RealTldr(data, response_tokens or RealTldr.response_tokens, prompts_only)
