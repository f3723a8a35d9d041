"""How long a task's prompts and demonstrations are, in the policy's tokens: taken from the data before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rlhf_bench.harness.evenly import evenly
from rlhf_bench.harness.plan.token_lengths import tokenizer_of
from rlhf_bench.harness.stages.prompts import limited, load_task

if TYPE_CHECKING:
    from rlhf_bench.harness.plan.request import Plan

MOST = 2000
"""Texts that are tokenised: evenly spread ones of more, because a large task's would take minutes."""


class Lengths(NamedTuple):
    """Of prompts in the policy's template and of demonstrated responses; `unit` is tokens, or words for the policy
    `tiny`, whose tokenizer SFT makes.  `limit`: tokens of the longest response that is sampled.  `sampled`: not all
    texts were looked at.  `template`: the form of a prompt, chat or plain."""

    mean_prompt: float
    longest_prompt: int
    mean_response: float
    longest_response: int
    limit: int
    unit: str
    sampled: bool
    template: str

    @property
    def text(self) -> str:
        """The lengths in a phrase."""
        of = f" (of {MOST:,} texts)" if self.sampled else ""
        return (
            f"prompts of {self.mean_prompt:.0f} {self.unit} on average, at most {self.longest_prompt}; demonstrations "
            f"of {self.mean_response:.0f} on average, at most {self.longest_response}{of}; "
            f"responses of up to {self.limit} tokens"
        )


def lengths_of(made: Plan, source: str) -> Lengths | None:
    """The lengths of the home task's texts; None where the tokenizer of the policy `source` cannot be read here.

    A hub id is not downloaded here: a plan needs no network.  Of prompts those that
    `data.max_prompt_tokens` keeps.
    """
    home, settings = made.cells[0].home, made.settings
    splits = limited(load_task({"task": home.opened}), ("sft", "train", "test"), settings.data.limit)
    asked = [example.prompt for examples in splits.values() for example in examples]
    answers = [example.completion for example in splits["sft"]]
    sampled = max(len(asked), len(answers)) > MOST
    asked, answers = evenly(asked, MOST), evenly(answers, MOST)
    if source == "tiny":
        template = "chat" if settings.policy.template == "chat" else "plain"  # its tokenizer has no template of its own
        prompts, responses, unit = [len(t.split()) for t in asked], [len(t.split()) for t in answers], "words"
    else:
        from rlhf_bench.harness.text.chat import encode_answers, prompt_format
        from rlhf_bench.harness.text.templates import encode_prompts

        tokenizer = tokenizer_of(source, settings.policy)
        if tokenizer is None:
            return None
        template = prompt_format(tokenizer).template
        prompts = [len(row) for row in encode_prompts(tokenizer, asked)]
        responses, unit = [len(row) for row in encode_answers(tokenizer, answers)], "tokens"
        longest = settings.data.max_prompt_tokens
        prompts = [count for count in prompts if not longest or count <= longest]
    if not prompts or not responses:
        return None
    return Lengths(
        sum(prompts) / len(prompts), max(prompts), sum(responses) / len(responses), max(responses),
        home.max_response, unit, sampled, template,
    )  # fmt: skip
