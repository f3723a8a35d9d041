"""Classifiers of others as reward models: all architectures, their own tokenizers, and faults as errors of one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import FAMILIES, classifier
from tiny import SENTENCES, by_hand

from rlhf_bench.harness import plugins
from rlhf_bench.harness.checks.conformance import check
from rlhf_bench.harness.errors import BenchError
from rlhf_bench.harness.nouns import Answer, Example, Rollout
from rlhf_bench.harness.ppo.scoring import NamedRewardModel
from rlhf_bench.harness.sampling.rollout import text_rollout
from rlhf_bench.reward_models.classifier import ClassifierScorer
from rlhf_bench.reward_models.hub import HubReward, hub_token, split_strings

PROMPTS = ("Where?", "When do they meet?", "Who?", "Why, Ben?")
RESPONSES = (SENTENCES[0], "", "naïve 🤖 שלום \ufffd ﬁ", "They meet")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """folders(family, ...) makes a classifier once."""
    made: dict[Any, Path] = {}

    def get(family: str, **more: Any) -> Path:
        key = (family, tuple(sorted(more.items())))
        if key not in made:
            made[key] = classifier(family, tmp_path_factory.mktemp(family) / "rm", **more)
        return made[key]

    return get


@pytest.fixture
def rollout(tokenizer: Any) -> Rollout:
    return text_rollout(tokenizer, PROMPTS, RESPONSES, "cpu")


def refused(call: Any, said: str) -> None:
    with pytest.raises(BenchError, match=said) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_sits_on_the_last_token_and_is_the_scorers(
    folders: Any, family: str, chat: bool, rollout: Rollout
) -> None:
    source = str(folders(family, chat=chat))
    rewards = NamedRewardModel("x", plugins.build("reward-model", f"hf:{source}", {}), 2).rewards(rollout)
    answers = [Answer(Example("", p), r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    wanted = [one.value for one in ClassifierScorer(source).scores(answers)]
    assert rewards.sum(1).tolist() == pytest.approx(wanted, abs=1e-5)
    assert ((rewards != 0).sum(1) == 1).all()
    last = rollout.mask.sum(1) - 1
    assert (rewards[torch.arange(len(PROMPTS)), last] != 0).all()


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("family", ["qwen", "gpt2", "bert", "llama"])
def test_token_scores_keep_their_sum(folders: Any, family: str, chat: bool, rollout: Rollout) -> None:
    source = str(folders(family, level="Token", chat=chat))
    model = HubReward(source)  # told by its architecture
    rewards = NamedRewardModel("x", model, 2).rewards(rollout)
    answers = [Answer(Example("", p), r) for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    rows = ClassifierScorer(source, level="token").token_scores(answers)
    assert rewards.sum(1).tolist() == pytest.approx([sum(r for r, _ in row) for row in rows], abs=1e-4)  # type: ignore[union-attr]
    assert (rewards[0] != 0).sum() > 2
    assert torch.equal(rewards, NamedRewardModel("x", hub_token(source), 2).rewards(rollout))


def test_the_places_of_a_response_are_its_characters(folders: Any) -> None:
    """The spans of the response's tokens cover the response in every form."""
    for family, chat in (("qwen", False), ("qwen", True), ("bert", False), ("llama", True)):
        encoder = ClassifierScorer(str(folders(family, level="Token", chat=chat)), level="token").encoder
        for text in (SENTENCES[0], "  padded  "):
            spans = [span for _, span in encoder.spans(Answer(Example("", "Where?"), text))]
            held = sorted({at for a, b in spans for at in range(a, b)})
            assert {at for at, letter in enumerate(text) if letter.strip()} <= set(held)
            assert held == [at for at in held if at < len(text)]


def test_it_keeps_the_rules_of_the_seam(folders: Any) -> None:
    for source in (folders("bert"), folders("llama", chat=True), folders("qwen", level="Token")):
        assert all(finding.ok for finding in check("reward-model", "hf", {"source": str(source)}))


def test_a_special_token_in_a_text_becomes_no_turn(folders: Any, tokenizer: Any) -> None:
    source = str(folders("llama", chat=True))
    rollout = text_rollout(tokenizer, ["Where?"], ["here</s>now"], "cpu")
    model = HubReward(source)
    special = ClassifierScorer(source).encoder.special
    assert "</s>" in special
    assert not any(token in split_strings(rollout.responses[0], sorted(special)) for token in special)
    assert bool(torch.isfinite(model.rewards(rollout)).all())


def test_a_response_that_was_cut_off_gets_no_end(folders: Any, tokenizer: Any) -> None:
    model, ids = HubReward(str(folders("gpt2"))), tokenizer("at nine")["input_ids"]
    cut = by_hand(tokenizer, [[5]], [ids])
    whole = by_hand(tokenizer, [[5]], [[*ids, tokenizer.eos_token_id]])
    assert float(model.rewards(cut).sum()) != float(model.rewards(whole).sum())


@pytest.mark.parametrize(
    ("name", "label"), [("hf:org/name", "hf:org/name"), ("hf:org/name@v1", "hf:org/name@v1"), ("scalar", "scalar")]
)
def test_labels_of_names(name: str, label: str) -> None:
    assert plugins.find("reward-model", name).label == label


def test_a_folders_label_is_short_and_tells_folders_apart(tmp_path: Path) -> None:
    labels = []
    for parent in ("a", "b"):
        (tmp_path / parent / "final").mkdir(parents=True)
        labels.append(plugins.find("reward-model", f"hf:{tmp_path / parent / 'final'}").label)
    assert all(label.startswith("hf:final~") and len(label) < 20 for label in labels)
    assert labels[0] != labels[1]


def test_content_names_the_files_and_not_the_place(folders: Any, tmp_path: Path) -> None:
    first = folders("bert")
    copy = Path(shutil.copytree(first, tmp_path / "copy"))
    assert HubReward(str(first)).content == HubReward(str(copy)).content
    (copy / "more.txt").write_text("x")
    assert HubReward(str(first)).content != HubReward(str(copy)).content


# ---- the hub, played by its cache ------------------------------------------------------------------------------------


def cached(root: Path, folder: Path, commit: str) -> None:
    """A repository org/name as the hub's client keeps it, `main` at the commit."""
    repository = root / "models--org--name"
    shutil.copytree(folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)


def test_a_hub_id_is_pinned_to_the_commit(folders: Any, tmp_path: Path, monkeypatch: Any, rollout: Rollout) -> None:
    from huggingface_hub import constants

    commit = "0123456789abcdef" * 2 + "01234567"
    cached(tmp_path, folders("bert"), commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for source in ("org/name", "org/name@main", f"org/name@{commit}"):
        assert HubReward(source).content == {"commit": commit}
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    wanted = HubReward(str(folders("bert"))).rewards(rollout)
    assert torch.equal(HubReward("org/name").rewards(rollout), wanted)
    refused(lambda: HubReward("org/name@v9"), "HF_HUB_OFFLINE|no revision")


def test_what_is_not_there(tmp_path: Path) -> None:
    refused(lambda: HubReward("org/never-heard-of"), "HF_HUB_OFFLINE is set")
    refused(lambda: HubReward(str(tmp_path / "no")), "There is no reward model")
    refused(lambda: plugins.find("reward-model", "hf:"), "carries nothing")
    refused(lambda: HubReward("org/x", form="speech"), "form='speech' is unknown")
    refused(lambda: HubReward("org/x", level="tokens"), "Did you mean 'token'")
    refused(lambda: HubReward("org/x", batch=0), "above 0")


# ---- damaged folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(folders: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders("llama"), tmp_path / "copy"))


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def weights(folder: Path, edit: Any) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(folder / "model.safetensors")
    edit(found)
    save_file(found, folder / "model.safetensors", {"format": "pt"})


def test_two_labels(copy: Path) -> None:
    change(copy, id2label={"0": "bad", "1": "good"})
    refused(lambda: HubReward(str(copy)), "has 2 labels")


@pytest.mark.parametrize("family", ["bert", "gemma", "gpt2"])
def test_without_a_tokenizers_files_none_is_made_up(
    family: str, folders: Any, tmp_path: Path, rollout: Rollout
) -> None:
    tmp_path = tmp_path / "bare"
    tmp_path.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folders(family) / name, tmp_path)
    refused(lambda: HubReward(str(tmp_path)).rewards(rollout), "reads nothing")


def test_pickle_alone(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(lambda: HubReward(str(copy)), "no safetensors weights, only pickle files")


def test_a_language_model_is_no_reward_model(copy: Path) -> None:
    change(copy, architectures=["LlamaForCausalLM"])
    weights(copy, lambda found: found.pop("score.weight"))
    refused(lambda: HubReward(str(copy)), "LlamaForCausalLM, no reward model")


def test_weights_that_are_no_numbers(copy: Path, rollout: Rollout) -> None:
    weights(copy, lambda found: found["score.weight"].fill_(float("nan")))
    refused(lambda: HubReward(str(copy)).rewards(rollout), "not finite")


def test_an_infinite_score(copy: Path, rollout: Rollout) -> None:
    weights(copy, lambda found: found["score.weight"].fill_(float("inf")))
    refused(lambda: HubReward(str(copy)).rewards(rollout), "not finite")


def test_a_vocabulary_of_another_size(copy: Path, rollout: Rollout) -> None:
    def cut(found: dict[str, torch.Tensor]) -> None:
        found["model.embed_tokens.weight"] = found["model.embed_tokens.weight"][:20].contiguous()

    weights(copy, cut)
    change(copy, vocab_size=20)
    refused(lambda: HubReward(str(copy)).rewards(rollout), "its model knows 20")


def test_a_context_that_is_too_short(copy: Path, tokenizer: Any) -> None:
    change(copy, max_position_embeddings=16)
    long = text_rollout(tokenizer, ["Where?"], ["word " * 40], "cpu")
    refused(lambda: HubReward(str(copy)).rewards(long), "longer than the reward model's 16 tokens.*max_prompt_tokens")


def test_without_a_pad_token_batches_change_nothing(copy: Path, rollout: Rollout) -> None:
    wanted = HubReward(str(copy)).rewards(rollout)
    made = json.loads((copy / "tokenizer_config.json").read_text())
    made.pop("pad_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(made))
    change(copy, pad_token_id=None)
    assert torch.allclose(HubReward(str(copy), batch=3).rewards(rollout), wanted, atol=1e-5)


# -- responses that were cut off ---------------------------------------------------------------------------------------

CLOSED = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] | trim }}</s>\n{% endfor %}"


@pytest.mark.parametrize("level", ["Sequence", "Token"])
def test_in_chat_form_nothing_follows_a_response_that_was_cut_off(level: str, tmp_path: Path) -> None:
    source = classifier("llama", tmp_path / "rm", level, chat=True)
    (source / "chat_template.jinja").write_text(CLOSED)
    scorer = ClassifierScorer(str(source), level=level.lower())
    for text in ("at nine", "at nine </s>"[:7], "  padded  ", ""):
        ended, cut = (Answer(Example("", "Where?"), text, finished) for finished in (True, False))
        rows = [scorer.encoder.row(answer) for answer in (ended, cut)]
        whole, short = (row["input_ids"] for row in rows if isinstance(row, dict))
        assert short == whole[: len(short)]
        assert scorer.tokenizer.eos_token_id in whole[len(short) :]
        assert scorer.encoder.spans(cut) == scorer.encoder.spans(ended)
    if level == "Sequence":
        whole, short = scorer.scores([Answer(Example("", "Where?"), "at nine", ended) for ended in (True, False)])
        assert whole.value != short.value


@pytest.mark.parametrize(
    ("family", "form"), [("llama", "chat"), ("qwen", "question"), ("llama", "pair"), ("bert", "pair")]
)
def test_only_an_encoder_cannot_tell_a_cut_off_response(
    folders: Any, family: str, form: str, tokenizer: Any, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(folders(family, chat=form == "chat"), tmp_path / "rm"))
    if form == "chat":
        (source / "chat_template.jinja").write_text(CLOSED)
    if family == "llama" and form == "pair":
        end_every_text(source)
    ids = tokenizer("at nine")["input_ids"]
    cut, whole = (by_hand(tokenizer, [[5]], [row]) for row in (ids, [*ids, tokenizer.eos_token_id]))
    found = [float(HubReward(str(source), form=form).rewards(rollout).sum()) for rollout in (cut, whole)]
    assert (found[0] == found[1]) == (family == "bert")


def end_every_text(source: Path) -> None:
    """Let the tokenizer write end-of-sequence after every text, as some decoders' tokenizers do."""
    made = json.loads((source / "tokenizer.json").read_text())
    end = next(token["id"] for token in made["added_tokens"] if token["content"] == "</s>")
    special = {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}}
    single = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    pair = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"] + single[1:]
    made["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
    (source / "tokenizer.json").write_text(json.dumps(made))


def test_a_template_that_ends_a_response_in_another_way_is_refused(folders: Any, tmp_path: Path) -> None:
    source = Path(shutil.copytree(folders("llama", chat=True), tmp_path / "rm"))
    odd = "{{ messages[1]['content'] }}{{ '?' if messages[1]['content'] | length > 1 else '</s>' }}"
    (source / "chat_template.jinja").write_text(odd)
    scorer = ClassifierScorer(str(source))
    refused(lambda: scorer.scores([Answer(Example("", "a"), "two words", False)]), "ends some responses in another way")
