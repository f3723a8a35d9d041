"""Words and sentence templates of two registers of prose: a first-person post and a news article, as data.

Both have the kinds, values and summary statements of `lexicon.py`, so a policy that learned to summarise posts can be
evaluated on articles.  The sentences of an article are its own, but most of its words occur in posts too: a tokenizer
trained on posts alone then has tokens for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rlhf_bench.tasks.worlds.lexicon import KINDS, FactKind, Register, words_of

# Values of each kind that are the truth only in tasks about unseen objects (see `unseen`).
RESERVED = {
    "activity": words_of("rowing riding surfing"),
    "day": words_of("easter christmas halloween"),
    "time": words_of("sunrise sunset eleven"),
    "place": words_of("temple stadium airport"),
    "item": words_of("compass hammock torch"),
    "guest": words_of("nephew landlord dentist"),
}

# The names of articles; posts have them too, so that a tokenizer trained on posts has tokens for them.
SURNAMES = words_of("Olsen Novak Garcia Moreau Silva Keller Rossi Tanaka Singh Murphy Petrov Weber")

# Shared by both registers: gold must read the summaries of both alike.
FILLERS = (
    "They are very good friends.",
    "They are both happy.",
    "They like each other.",
    "It is a good plan.",
    "They hope that it will be fun.",
    "They need some help.",
)

# Kind -> templates, for one role of a sentence.
Sentences = Mapping[str, tuple[str, str]]


def prose_kinds(
    proposals: Sentences, corrections: Sentences, accepts: Sentences, mentions: Sentences
) -> dict[str, FactKind]:
    """The kinds of `lexicon.py` in other sentences: values and summary statements stay, so gold reads both alike."""
    return {
        name: replace(
            kind,
            proposals=proposals[name],
            corrections=corrections[name],
            accepts=accepts[name],
            mentions=mentions[name],
            reserved=RESERVED[name],
        )
        for name, kind in KINDS.items()
    }


# In the first person, with corrections as edits, in the layout of TL;DR.
POST = Register(
    core="activity",
    kinds=prose_kinds(
        proposals={
            "activity": ("We want to go {} with some friends.", "I said that we should go {}."),
            "day": ("We could do it this {}.", "I am free this {}."),
            "time": ("We could start at {}.", "My plan is to start at {}."),
            "place": ("We could meet at the {}.", "My plan is to meet at the {}."),
            "item": ("I should bring a good {}.", "We have to bring the {}."),
            "guest": ("I want to invite my {} too.", "We could invite my {}."),
        },
        corrections={
            "activity": ("EDIT: no, we now go {}.", "EDIT: sorry, it is now {}."),
            "day": ("EDIT: no, we now do it this {}.", "EDIT: sorry, it is now this {}."),
            "time": ("EDIT: no, we now start at {}.", "EDIT: sorry, it is now at {}."),
            "place": ("EDIT: no, we now meet at the {}.", "EDIT: sorry, it is now the {}."),
            "item": ("EDIT: no, I now bring the {}.", "EDIT: sorry, we now need the {}."),
            "guest": ("EDIT: no, we now invite my {}.", "EDIT: sorry, it is now my {}."),
        },
        accepts={
            "activity": ("Both of us really like {}.", "Most people say that {} is fun."),
            "day": ("So one of us keeps this {} free.", "Both of us have time this {}."),
            "time": ("Some people say that {} is not easy.", "Both of us think that {} is fine."),
            "place": ("People told me that the {} is far.", "Both of us know the {} well."),
            "item": ("There is a nice {} at home.", "One of us really needs the {}."),
            "guest": ("People say that my {} is happy.", "Both of us like my {}."),
        },
        mentions={
            "activity": ("We went {} once last year.", "I read a book about {} last month."),
            "day": ("I was sick all day last {}.", "My car broke last {}."),
            "time": ("My phone rang around {} last night.", "I woke up around {} today."),
            "place": ("I walked past the old {} last week.", "My mother works near the {} now."),
            "item": ("I lost my old {} last week.", "I saw a nice {} in a shop."),
            "guest": ("I wrote a letter to my {} today.", "I had a long talk with my {} last night."),
        },
    ),
    names=(
        *words_of("Anna Ben Clara David Emma Frank Grace Henry Julia Kevin Laura Peter"),
        *SURNAMES,
    ),
    texts="posts",
    heads=(
        "SUBREDDIT: r/advice\n\nTITLE: A day out with {other}\n\nPOST:",
        "SUBREDDIT: r/friends\n\nTITLE: Is our plan good?\n\nPOST:",
        "SUBREDDIT: r/help\n\nTITLE: My friend {other} and I have a plan\n\nPOST:",
    ),
    openings=(
        ("My friend {other} and I want a day out.", "Two friends need a good plan."),
        ("There is a plan for a day out.", "It is from {other} and me."),
        ("I have a good friend, {other}.", "Now the two of us have a new plan."),
    ),
    closings=(
        ("That is all for now.", "Please tell us what you think of it."),
        ("So that is what {other} told me.", "Most people hope that it is fun."),
        ("But {other} and I are happy.", "I hope that you like the plan."),
    ),
    chat=(
        ("It was so cold here last night.", "I hope that the sun is out soon."),
        ("My job is very busy this month.", "I like it, but I need some rest."),
        ("I saw the new film last week.", "It was long, but the end was good."),
        ("I try to learn French at home.", "It is hard to do it well."),
        ("My cat was sick for a week.", "Now she is well and very happy."),
        ("I drink too much coffee at work.", "People told me to drink more water."),
        ("I did not sleep well last night.", "Later I read a book and had tea."),
        ("The train was late again today.", "A man told us that it was the rain."),
        ("I am cooking soup for dinner.", "A woman from work told me how to do it."),
        ("I play the piano every day.", "Some people say that it is too loud."),
        ("I want to buy a new car.", "There was one, but it was not cheap."),
        ("There are so many flowers here now.", "I think that they look very nice."),
        ("I am a bit tired today.", "It was a hard year for all of us."),
        ("I have to clean my old house.", "There is still much to do."),
        ("There was loud music at work.", "People woke up and were not happy."),
        ("I read the paper every day.", "The news is not easy for me."),
        ("A man in the shop was rude.", "Later he said sorry to us."),
        ("This is my first post here.", "I hope that many people like it."),
    ),
    replies=(
        "I still think about it.",
        "It was not so hard for us.",
        "One of us does not know why.",
        "But that is not new.",
    ),
    fillers=FILLERS,
)

# In the third person, with corrections as contradictions.
ARTICLE = Register(
    core="activity",
    kinds=prose_kinds(
        proposals={
            "activity": ("Two friends want to go {} now.", "Both said that people should go {}."),
            "day": ("Both could do it this {}.", "One of the two is free this {}."),
            "time": ("Both could start at {}.", "One plan is to start at {}."),
            "place": ("Both could meet at the {}.", "One plan is to meet at the {}."),
            "item": ("One of the two should bring a good {}.", "Both have to bring the {}."),
            "guest": ("Both want to invite the {} too.", "Both could invite the {}."),
        },
        corrections={
            "activity": ("But no, the two now go {}.", "But sorry, people now want to go {}."),
            "day": ("But no, the two now do it this {}.", "But sorry, it is now this {}."),
            "time": ("But no, the two now start at {}.", "But sorry, people now want to start at {}."),
            "place": ("But no, the two now meet at the {}.", "But sorry, people now want to meet at the {}."),
            "item": ("But no, the two now bring the {}.", "But sorry, people now have to bring the {}."),
            "guest": ("But no, the two now invite the {}.", "But sorry, people now want to invite the {}."),
        },
        accepts={
            "activity": ("People think that {} is fun.", "Both really like {} now."),
            "day": ("So the two have this {} free.", "Most people have time this {}."),
            "time": ("People know that {} is not easy.", "Both say that {} is fine."),
            "place": ("People know that the {} is far.", "Both say that the {} is nice."),
            "item": ("One of the two has the {} at home.", "So the two need the {} now."),
            "guest": ("People think that the {} is happy.", "So the two like the {}."),
        },
        mentions={
            "activity": ("Some people went {} last year.", "A woman wrote a book about {}."),
            "day": ("It was very cold here last {}.", "Most people had to work last {}."),
            "time": ("A car broke here around {} today.", "There was music around {} last night."),
            "place": ("A man was rude near the {} last week.", "Some people work at the {} now."),
            "item": ("A man lost the old {} last week.", "A shop has a good old {} now."),
            "guest": ("The two wrote a letter to the {} today.", "There was a long talk with the {} last night."),
        },
    ),
    names=SURNAMES,
    texts="news articles",
    heads=(
        "TITLE: Two friends have a plan.",
        "TITLE: {other} has a good plan.",
        "TITLE: A friend of {other} and a day out.",
    ),
    openings=(
        ("Two friends told us of a new plan.", "One of the two is {other}."),
        ("Now {other} has a plan for a day out.", "It is for two good friends."),
        ("There is a good friend of {other} here.", "Both want a day out."),
    ),
    closings=(
        ("So {other} and the friend are happy.", "Most people like the plan."),
        ("That is what {other} told us now.", "People hope that it is good."),
        ("Please tell us what you know of it.", "That is all of the news for now."),
    ),
    chat=(
        ("The sun was not out today.", "Most people hope that it is soon."),
        ("The job of most people is hard this month.", "People say that we need some rest."),
        ("There is a new film here.", "The end is good, but it is too long."),
        ("Some people learn French at work.", "It is not easy to do it well."),
        ("A cat was sick last week.", "Now she is well again."),
        ("The coffee is not so cheap this year.", "People drink water now."),
        ("Most people did not sleep well.", "The music was too loud last night."),
        ("The train was late this week.", "It was the rain, people say."),
        ("A new shop is here.", "There is good soup for dinner every day."),
        ("A woman told us about the piano.", "It is hard to play it well."),
        ("A good car is not cheap now.", "Some people still want to buy one."),
        ("There are not so many flowers.", "People say that it was too cold."),
        ("It was a long year for all of us.", "Some people are a bit tired."),
        ("There is one old house here.", "It is still not clean, people say."),
        ("The rain was very loud last night.", "People woke up from it."),
        ("The new book is very long.", "Most people read the end first."),
        ("There was a hard week at work.", "Now people want some rest."),
        ("A man was rude to a woman.", "Later he said that it was too much coffee."),
    ),
    replies=(
        "Most people still think about it.",
        "It was hard for all of us.",
        "People do not know why.",
        "But it is not so new.",
    ),
    fillers=FILLERS,
)
