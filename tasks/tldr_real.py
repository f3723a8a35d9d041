"""Real posts with human summaries and preferences between summaries: TL;DR (arXiv 2009.01325).

TL;DR is published in pieces: summaries in one data set, comparisons in another, and tables that judge one policy's
summaries against the human ones.  Here rows of any of these kinds become posts, and posts are split.
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
    NAMES,
    File,
    by_role,
    candidates,
    check_tokens,
    find,
    key,
    refuse_training,
    split_rows,
)
from rlhf_bench.tasks.sources import Row, content_sha256, hub_rows, read_rows, text

PAIRS, POSTS = "trl-lib/tldr-preference", "trl-lib/tldr"
"""On the hub: prompt, chosen, rejected (train, validation); prompt, completion (train, validation, test)."""

LICENSE = "modified MIT (OpenAI's comparisons); CC BY 4.0 as OpenAI states it for the posts"

VERDICTS = ("ours", "reference")
"""What a judged row may prefer: postprocessed_response ("ours") or reference_responses."""


class Post(NamedTuple):
    """One post: the summaries that people wrote, and preferences as (chosen, rejected)."""

    id: str
    prompt: str
    summaries: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


class Posts(NamedTuple):
    """The posts by split, and what was left out: posts that a more held-out split has, pairs of equal texts."""

    files: Mapping[File, list[Post]]
    copies: int
    equal: int


@dataclass(frozen=True)
class RealTldr:
    """Human summaries of posts and preferences.  `data` is a folder, a file, "hub", or the name of a hub dataset.

    A row holds a prompt, and a completion (a human summary) or chosen and rejected or both; or it holds query,
    postprocessed_response, reference_responses and preferred ("ours", "reference", or blank: no verdict), the columns
    of a judged table: the reference is then the human summary, and a verdict makes a pair of the two texts.

    Rows about one post are put together.  Even-numbered train posts are the demonstrations (those with a human summary
    if any has one, else with their first chosen text), odd-numbered ones the PPO prompts; all train posts with a
    preference are training pairs.  Held-out prompts are the test posts, or the dev posts where there is no test split;
    held-out pairs come from both.  A single file is split 80/10/10 by the posts' hash.  `prompts_only` is as in
    `RealSummaries`.
    """

    rubric = "summary"  # of judges that read; no annotation, so that it is no field

    data: str
    response_tokens: int = 64
    prompts_only: bool = False

    def __post_init__(self) -> None:
        check_tokens(self.response_tokens)

    @property
    def max_response_tokens(self) -> int:
        """As set; human summaries have 44 words at most in the judged table that this was tried on."""
        return self.response_tokens

    @cached_property
    def origin(self) -> Origin:
        """What was read and left out; the hash is of the rows as they were, before anything was left out."""
        files, copies, equal = self._posts
        counts = ", ".join(
            f"{len(posts)} {file} ({sum(len(post.pairs) for post in posts)} pairs)" for file, posts in files.items()
        )
        rows, foreign = self._rows
        description = (
            f"Posts, human summaries and preferences from {self.data}: {counts}. Left out: {copies} train rows on "
            f"posts a held-out split has (but for case, spaces and punctuation), {equal} pairs of equal texts, "
            f"{foreign} rows that are about news articles. Demonstrations: {self._kind_of_demonstrations}."
        )
        return Origin("real", description, content_sha256(rows.items()), LICENSE if self._is_original else "unknown")

    def examples(self, split: Split) -> Sequence[Example]:
        """Prompts; the completion is the human summary, else a chosen text, "" where a post has neither."""
        if split == "test":
            return [_example(post) for post in self._held_out()]
        self._check_split()
        return [_example(post) for post in self._half(0 if split == "sft" else 1)]

    def pairs(self, split: Split) -> Sequence[Pair]:
        """Preferences about train posts, or about held-out ones."""
        if split == "sft":
            return []
        self._check_split()
        files = self._posts.files
        posts = files["train"] if split == "train" else [*files.get("dev", []), *files.get("test", [])]
        return [
            Pair(f"{post.id}/{number}", post.prompt, chosen, rejected)
            for post in posts
            for number, (chosen, rejected) in enumerate(post.pairs)
        ]

    def _check_split(self) -> None:
        if self.prompts_only:
            refuse_training(self.data)

    def _held_out(self) -> list[Post]:
        return self._posts.files.get("test") or self._posts.files["dev"]

    def _half(self, odd: int) -> list[Post]:
        half = self._posts.files["train"][odd::2]
        if not odd:
            half = [post for post in half if post.summaries or (post.pairs and not self._has_summaries)]
        if not half:
            seen = (
                f"{self.data} has no {'odd' if odd else 'even'}-numbered train post{'' if odd else ' with a summary'}."
            )
            raise BenchError(seen, "Even ones are the demonstrations, odd ones the PPO prompts: give more posts.")
        return half

    @cached_property
    def _has_summaries(self) -> bool:
        return any(post.summaries for post in self._posts.files.get("train", []))

    @property
    def _kind_of_demonstrations(self) -> str:
        if self.prompts_only:
            return "none, held-out prompts only"
        return "human summaries" if self._has_summaries else "chosen texts, as no train post has a human summary"

    @cached_property
    def _rows(self) -> tuple[Mapping[File, list[Row]], int]:
        """Rows by split, and how many were left out because they are about news articles."""
        path = Path(self.data).expanduser()
        if self.data == "hub":
            return _both_hubs(self.prompts_only)
        if not path.exists():
            splits = hub_rows(self.data)
            known = [file for file, names in NAMES.items() if any(splits.get(name) for name in names)]
            return by_role(self.data, splits, _wanted(self.data, known, self.prompts_only)), 0
        if path.is_dir():
            known = [file for file in NAMES if candidates(path, file, "tldr")]
            return {f: read_rows(find(path, f, "tldr")) for f in _wanted(self.data, known, self.prompts_only)}, 0
        rows = read_rows(path)
        if self.prompts_only:
            return {"test": rows}, 0
        return split_rows(path, rows, "query" if _is_judged(rows[0]) else "prompt"), 0

    @cached_property
    def _posts(self) -> Posts:
        return _distinct({file: [_parse(row) for row in rows] for file, rows in self._rows[0].items()})

    @property
    def _is_original(self) -> bool:
        return self.data in ("hub", PAIRS, POSTS)


def _example(post: Post) -> Example:
    completions = post.summaries or tuple(dict.fromkeys(chosen for chosen, _ in post.pairs)) or ("",)
    return Example(post.id, post.prompt, completions[0], completions[1:])


def _both_hubs(prompts_only: bool) -> tuple[Mapping[File, list[Row]], int]:
    """Human summaries of POSTS and preferences of PAIRS, whose validation split holds news articles too."""
    posts = by_role(POSTS, hub_rows(POSTS), ("test",) if prompts_only else ("train", "test"))
    if prompts_only:
        return posts, 0
    preferences = by_role(PAIRS, hub_rows(PAIRS), ("train", "dev"))
    kept = {file: [row for row in rows if _is_post(row)] for file, rows in preferences.items()}
    foreign = sum(len(preferences[file]) - len(kept[file]) for file in kept)
    return {"train": posts["train"] + kept["train"], "dev": kept["dev"], "test": posts["test"]}, foreign


def _is_post(row: Row) -> bool:
    return text(row, "prompt").startswith("SUBREDDIT:")


def _wanted(data: str, known: Sequence[File], prompts_only: bool) -> list[File]:
    """The splits to read of those that are there; raises BenchError where a needed one is not."""
    held: list[File] = [file for file in known if file != "train"]
    if not held:
        raise BenchError(f"{data} has neither a test nor a dev split.", "Add one: posts to evaluate on.")
    if prompts_only:
        return held[-1:]
    if "train" not in known:
        raise BenchError(f"{data} has no train split.", "Add one, or read it with prompts_only.")
    return ["train", *held]


def _parse(row: Row) -> tuple[str, str, tuple[str, str] | None]:
    """(prompt, human summary or "", (chosen, rejected) or None) of a row."""
    if _is_judged(row):
        return _judged(row)
    prompt = text(row, "prompt")
    summary = text(row, "completion").strip() if _filled(row, "completion") else ""
    if _filled(row, "chosen") or _filled(row, "rejected"):
        return prompt, summary, (text(row, "chosen").strip(), text(row, "rejected").strip())
    return prompt, text(row, "completion").strip(), None


def _filled(row: Row, column: str) -> bool:
    """Whether a row has something in a column: tables leave cells empty."""
    return row.values.get(column) not in (None, "")


def _is_judged(row: Row) -> bool:
    return "query" in row.values and "prompt" not in row.values


def _judged(row: Row) -> tuple[str, str, tuple[str, str] | None]:
    prompt, reference = text(row, "query"), text(row, "reference_responses").strip()
    verdict = row.values.get("preferred")
    if verdict in (None, ""):
        return prompt, reference, None
    ours = text(row, "postprocessed_response").strip()
    if verdict not in VERDICTS:
        fix = f"{did_you_mean(str(verdict), VERDICTS)} Leave it empty where there is no verdict."
        raise BenchError(f"{row.where}: 'preferred' holds {verdict!r}.", fix)
    return prompt, reference, (ours, reference) if verdict == "ours" else (reference, ours)


def _distinct(files: Mapping[File, Sequence[tuple[str, str, tuple[str, str] | None]]]) -> Posts:
    """Rows about one post put together, in the most held-out split that has it.

    What the train split says of a held-out post is left out; held-out splits share no one's training, so dev rows
    about a test post join it.
    """
    found: dict[str, tuple[File, Post]] = {}
    copies = equal = 0
    order: tuple[File, ...] = ("test", "dev", "train")
    for file in order:
        for number, (prompt, summary, pair) in enumerate(files.get(file, ())):
            home, post = found.get(key(prompt), (file, Post(f"{file}-{number}", prompt, (), ())))
            if file == "train" != home:
                copies += 1
                continue
            if pair and pair[0] == pair[1]:
                equal, pair = equal + 1, None
            summaries = dict.fromkeys((*post.summaries, *([summary] if summary else [])))
            pairs = dict.fromkeys((*post.pairs, *([pair] if pair else [])))
            found[key(prompt)] = home, post._replace(summaries=tuple(summaries), pairs=tuple(pairs))
    posts = {file: [post for home, post in found.values() if home == file] for file in files}
    return Posts(posts, copies, equal)
