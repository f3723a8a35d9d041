"""A real pretrained model in the engines' form, and its passes in turns: decoding, scoring, operations.

`prepare` writes what both engines of the PPO comparison read; `generation` and `scoring` compare in one process.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import torch
from peer_model import PROMPTS, Sizes
from perf_scoring import take_turns

from rlhf_bench.harness.models.placement import Placement, save_placement
from rlhf_bench.harness.models.policies import (
    load_causal,
    load_classifier,
    load_policy,
    load_sampler,
    load_tokenizer,
    save_model,
)
from rlhf_bench.harness.nouns import Rollout
from rlhf_bench.harness.sampling.rollout import make_generator, pad_prompts, sample
from rlhf_bench.harness.text.chat import end_token_ids
from rlhf_bench.harness.text.templates import encode_prompts
from rlhf_bench.reward_models.corrector import Layout
from rlhf_bench.reward_models.scalar import ScalarScorer
from rlhf_bench.reward_models.seq2seq import Seq2Seq, Seq2SeqScorer
from rlhf_bench.tasks.dialogsum import dialogsum

HEAD_STD = 1e-4
SHAPE_360M = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 960, "intermediate_size": 2560,
    "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "tie_word_embeddings": True,
    "max_position_embeddings": 2048,
}  # fmt: skip
"""SmolLM2-360M's, the next larger model of its family."""


def prepare(model: Path, out: Path, sizes: Sizes, ends: bool, shape: Mapping[str, Any] | None = None) -> None:
    """policy/, reward/ and prompts.json in `out`.

    ends: the chat format and its end of turn; else the plain form, and an end that the model hardly ever writes, so
    that all responses are equally long.  shape: a configuration of random weights in place of the model's own, with
    its tokenizer.
    """
    tokenizer = load_tokenizer(model, "auto" if ends else "plain")
    policy = random_model(shape, tokenizer) if shape else load_causal(model, tokenizer, "cpu")
    if not ends:
        read = prompt_texts(tokenizer, sizes, 4, equal=True)
        never = rarest(policy, encode_prompts(tokenizer, read))
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(never)
        tokenizer.chat_template = None
        policy.generation_config.eos_token_id = never
    save_model(policy, tokenizer, out / "policy")
    # as the engines read it: a word that became the end token is tokenised in another way
    tokenizer = load_tokenizer(out / "policy")
    texts = prompt_texts(tokenizer, sizes, 8 * sizes.batch, equal=not ends)
    ids = encode_prompts(tokenizer, texts)
    classifier = load_classifier(out / "policy", tokenizer, "cpu", head_std=HEAD_STD)
    save_model(classifier, tokenizer, out / "reward")  # type: ignore[arg-type]
    (out / PROMPTS).write_text(json.dumps({"texts": texts, "ids": ids}), encoding="utf-8")


def random_model(shape: Mapping[str, Any], tokenizer: Any) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    own = dict(shape)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(own.pop("model_type"), **own))
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def prompt_texts(tokenizer: Any, sizes: Sizes, count: int, equal: bool) -> list[str]:
    """Pieces of the task's generated dialogues: of `sizes.prompt` tokens with the form around them, or up to them."""
    words = " ".join(example.prompt for example in dialogsum().examples("test")).split()
    found = []
    start = 0
    while len(found) < count:
        wanted = sizes.prompt if equal else sizes.prompt - (len(found) * 7) % (sizes.prompt // 4)
        length = wanted
        while length > 1 and len(encode_prompts(tokenizer, [" ".join(words[start : start + length])])[0]) > wanted:
            length -= 1
        text = " ".join(words[start : start + length])
        if not equal or len(encode_prompts(tokenizer, [text])[0]) == wanted:
            found.append(text)
        start = (start + 5) % (len(words) - 2 * sizes.prompt)
    return found


def rarest(model: Any, rows: list[list[int]]) -> int:
    """The token that is least likely after every position of these rows."""
    with torch.no_grad():
        highest = torch.stack([model(input_ids=torch.tensor([row])).logits[0].max(0).values for row in rows])
    return int(highest.max(0).values.argmin())


def generation(prepared: Path, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Useful tokens a processor second and a wall second, own and Hugging Face's, in float32 and bfloat16.

    Medians over rounds in which all take turns; `ratio` is of the pairs of rounds, ours over theirs in one precision.
    """
    texts = json.loads((prepared / PROMPTS).read_text(encoding="utf-8"))["texts"][: sizes.batch]
    turns: dict[str, Callable[[int], int]] = {}
    for dtype in ("float32", "bfloat16"):
        own = _own(prepared, texts, sizes, dtype)
        turns |= {f"own, {dtype}": own, f"generate, {dtype}": _theirs(prepared, texts, sizes, dtype)}
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name in list(turns)[:: 1 if number % 2 else -1]:
            wall, cpu = time.perf_counter(), time.process_time()
            tokens = turns[name](number)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number:
                rows[name].append((tokens / wall, tokens / cpu))
    found: dict[str, Any] = {
        name: {"tokens_per_s": median(w for w, _ in own), "tokens_per_cpu_s": median(c for _, c in own)}
        for name, own in rows.items()
    }
    for dtype in ("float32", "bfloat16"):
        pairs = list(zip(rows[f"own, {dtype}"], rows[f"generate, {dtype}"], strict=True))
        ratios = {
            "ratio": median(a / b for (a, _), (b, _) in pairs),
            "cpu_ratio": median(a / b for (_, a), (_, b) in pairs),
        }
        found[f"own, {dtype}"] |= ratios
    return found


def _own(prepared: Path, texts: list[str], sizes: Sizes, dtype: str) -> Callable[[int], int]:
    save_placement(Placement(dtype=dtype), prepared / "policy")
    model, tokenizer = load_sampler(prepared / "policy", "cpu")

    def turn(seed: int) -> int:
        return int(sample(model, tokenizer, texts, sizes.response, generator=make_generator("speed", seed)).mask.sum())

    return turn


def _theirs(prepared: Path, texts: list[str], sizes: Sizes, dtype: str) -> Callable[[int], int]:
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(prepared / "policy")
    # weights in the precision, as its users have them
    model = AutoModelForCausalLM.from_pretrained(prepared / "policy", dtype=getattr(torch, dtype)).eval()
    ids, mask = pad_prompts(encode_prompts(tokenizer, texts), tokenizer.pad_token_id, "cpu")
    ends = torch.tensor(end_token_ids(tokenizer))

    def turn(seed: int) -> int:
        torch.manual_seed(seed)
        with torch.no_grad():
            written = model.generate(
                input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0,
                pad_token_id=tokenizer.pad_token_id, eos_token_id=ends.tolist(), max_new_tokens=sizes.response,
            )  # fmt: skip
        ended = torch.isin(written[:, ids.shape[1] :], ends).long()
        return int((ended.cumsum(1) - ended == 0).sum())

    return turn


def scoring(prepared: Path, sizes: Sizes, rounds: int) -> dict[str, float]:
    """Seconds of a scalar and of a seq2seq pass over the same responses, both float32, and the operations' ratio."""
    model, tokenizer = load_policy(prepared / "policy", "cpu")
    texts = json.loads((prepared / PROMPTS).read_text(encoding="utf-8"))["texts"][: sizes.batch]
    rollout: Rollout = sample(model, tokenizer, texts, sizes.response, generator=make_generator("speed", 0))
    scalar = ScalarScorer(load_classifier(prepared / "reward", tokenizer, "cpu"))
    seq2seq = Seq2SeqScorer(model, tokenizer, Seq2Seq(positions="plain"))
    seconds = take_turns(
        {"scalar": lambda: scalar.rewards(rollout), "seq2seq": lambda: seq2seq.rewards(rollout)}, rounds
    )
    marker = len(Layout.of(tokenizer, "plain").marker)
    p = int(rollout.prompt_mask.sum()) // len(texts)
    t = int(rollout.mask.sum()) // len(texts)
    shape = shape_of(model.config)
    return {
        **{name: median(values) for name, values in seconds.items()},
        "over scalar": median(a / b for a, b in zip(seconds["seq2seq"], seconds["scalar"], strict=True)),
        "flop over scalar": forward_flop(shape, p + 2 * t - 1 + marker, t) / forward_flop(shape, p + t, 0),
    }


# ---- operations -----------------------------------------------------------------------------------------------------

Shape = Mapping[str, int]


def shape_of(config: Any) -> dict[str, int]:
    """What operations are counted from: layers, width, attention's and the feed-forward part's inner widths."""
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return {
        "layers": config.num_hidden_layers, "width": config.hidden_size, "inner": config.intermediate_size,
        "queries": heads * head, "keys": config.num_key_value_heads * head, "vocabulary": config.vocab_size,
    }  # fmt: skip


def layer_parameters(shape: Shape) -> int:
    """The matrices of all layers of a gated decoder (Llama, Gemma, Qwen): attention, and three of the feed-forward."""
    attention = 2 * shape["width"] * (shape["queries"] + shape["keys"])
    return shape["layers"] * (attention + 3 * shape["width"] * shape["inner"])


def forward_flop(shape: Shape, tokens: int, logits: int) -> float:
    """Operations of one causal pass: 2 per weight and token, attention up to the diagonal, logits where they are."""
    attention = 2.0 * shape["layers"] * shape["queries"] * tokens * (tokens + 1)
    return 2.0 * layer_parameters(shape) * tokens + attention + 2.0 * shape["width"] * shape["vocabulary"] * logits


def step_flop(shape: Shape, prompt: float, response: float, rows: int, epochs: int = 1) -> dict[str, float]:
    """By phase of a PPO step with adapters: backward through a frozen base is once forward, not twice."""
    p, t = int(prompt), int(response)
    policy, critic = forward_flop(shape, p + t, t), forward_flop(shape, p + t, 0)
    row = {
        "sample": forward_flop(shape, p + t - 1, t),
        "update": epochs * 2 * (policy + critic),
        "rewards, reference, values and rest": policy + 2 * critic,
    }
    return {phase: rows * flop for phase, flop in row.items()}


def shapes_of(prepared: Path) -> dict[str, dict[str, int]]:
    """The shapes whose growth is computed: the policy's, the next size's, and those of the papers' policies."""
    from transformers import AutoConfig

    from rlhf_bench.harness.models import memory

    found = {"small": shape_of(AutoConfig.from_pretrained(prepared / "policy"))}
    for name, known in (("large", SHAPE_360M), ("2B", memory.GEMMA_2B), ("7B", memory.LLAMA_2_7B)):
        shape = dict(known)
        found[name] = shape_of(AutoConfig.for_model(shape.pop("model_type"), **shape))
    return found
