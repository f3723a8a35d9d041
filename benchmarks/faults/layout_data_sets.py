"""Layouts of pairs as public data sets hold them, for layouts.py."""

# ruff: noqa: ARG005 - every shape takes the same arguments

from __future__ import annotations

import json

from layout_rows import Shape, gpt, hh, said, sides, user

# name -> (suffix, shape, settings); the prompt is the question alone
DATA_SETS: dict[str, tuple[str, Shape, dict[str, str]]] = {
    "UltraFeedback binarized": (
        ".parquet",
        lambda i, q, b, w: {
            "prompt": q,
            "prompt_id": str(i),
            "chosen": [user(q), said(b)],
            "rejected": [user(q), said(w)],
            "messages": [user(q), said(b)],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        {},
    ),
    "UltraFeedback": (
        ".jsonl",
        lambda i, q, b, w: {
            "source": "s",
            "instruction": q,
            "models": ["a", "b", "c"],
            "completions": [
                {"model": "a", "response": f"{b} Hm.", "overall_score": 5.0},
                {"model": "b", "response": w, "overall_score": 1.0},
                {"model": "c", "response": b, "overall_score": 9.0},
            ],
        },
        {},
    ),
    "UltraFeedback, ratings beside": (
        ".jsonl",
        lambda i, q, b, w: {
            "instruction": q,
            "generations": list(sides(i, b, w)),
            "ratings": ["1", "5"] if i % 2 else ["5", "1"],
        },
        {},
    ),
    "Nectar": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": f"\n\nHuman: {q}\n\nAssistant: ",
            "turns": 1,
            "num_responses": 2,
            "answers": [{"answer": w, "model": "x", "rank": 7.0}, {"answer": b, "model": "y", "rank": 1.0}],
        },
        {},
    ),
    "HH transcripts": (".jsonl", lambda i, q, b, w: {"chosen": hh(q, b), "rejected": hh(q, w)}, {}),
    "full-hh-rlhf": (
        ".jsonl",
        lambda i, q, b, w: {"prompt": f"\n\nHuman: {q}\n\nAssistant:", "response": b, "chosen": b, "rejected": w},
        {},
    ),
    "SHP": (
        ".jsonl",
        lambda i, q, b, w: {
            "post_id": str(i),
            "domain": "d",
            "history": q,
            "human_ref_A": sides(i, b, w)[0],
            "human_ref_B": sides(i, b, w)[1],
            "labels": 1 - i % 2,
            "score_ratio": 2.0,
        },
        {},
    ),
    "StackExchange pairs": (
        ".jsonl",
        lambda i, q, b, w: {"qid": i, "question": q, "date": "d", "response_j": b, "response_k": w},
        {},
    ),
    "StackExchange preferences": (
        ".jsonl",
        lambda i, q, b, w: {
            "qid": i,
            "question": q,
            "answers": [{"text": w, "pm_score": 0}, {"text": b, "pm_score": 4}],
        },
        {},
    ),
    "HelpSteer 2 preference": (
        ".jsonl",
        lambda i, q, b, w: {
            "split": "train",
            "prompt": q,
            "response_1": sides(i, b, w)[0],
            "response_2": sides(i, b, w)[1],
            "preference_strength": 2 if i % 2 else -1,
            "preference_statement": "s",
            "preference_elaboration": "e",
        },
        {},
    ),
    "HelpSteer 3": (
        ".jsonl",
        lambda i, q, b, w: {
            "domain": "general",
            "language": "english",
            "context": [user(q)],
            "response1": sides(i, b, w)[0],
            "response2": sides(i, b, w)[1],
            "overall_preference": 3 if i % 2 else -2,
        },
        {},
    ),
    "WebGPT": (
        ".jsonl",
        lambda i, q, b, w: {
            "question": {"dataset": "eli5", "id": str(i), "full_text": q},
            "answer_0": sides(i, b, w)[0],
            "answer_1": sides(i, b, w)[1],
            "score_0": -0.5 if i % 2 else 0.5,
            "score_1": 0.5 if i % 2 else -0.5,
        },
        {},
    ),
    "OpenAI summaries": (
        ".jsonl",
        lambda i, q, b, w: {
            "info": {"id": str(i), "post": q, "title": "t"},
            "choice": i % 2,
            "summaries": [{"text": text, "policy": "p"} for text in sides(i, b, w)],
        },
        {},
    ),
    "PKU-SafeRLHF": (
        ".jsonl",
        lambda i, q, b, w: {
            "prompt": q,
            "response_0": sides(i, b, w)[0],
            "response_1": sides(i, b, w)[1],
            "is_response_0_safe": True,
            "better_response_id": i % 2,
            "safer_response_id": 1 - i % 2,
        },
        {},
    ),
    "RewardBench": (
        ".parquet",
        lambda i, q, b, w: {
            "prompt": q,
            "chosen": b,
            "chosen_model": "x",
            "rejected": w,
            "rejected_model": "y",
            "subset": "s",
            "id": i,
        },
        {},
    ),
    "RewardBench 2": (
        ".jsonl",
        lambda i, q, b, w: {
            "id": str(i),
            "prompt": q,
            "chosen": [b],
            "rejected": [w],
            "num_correct": 1,
            "num_incorrect": 1,
        },
        {},
    ),
    "JudgeBench": (
        ".jsonl",
        lambda i, q, b, w: {
            "pair_id": str(i),
            "question": q,
            "response_A": sides(i, b, w)[0],
            "response_B": sides(i, b, w)[1],
            "label": "B>A" if i % 2 else "A>B",
        },
        {},
    ),
    "AlpacaEval annotations": (
        ".json",
        lambda i, q, b, w: {
            "instruction": q,
            "output_1": sides(i, b, w)[0],
            "output_2": sides(i, b, w)[1],
            "preference": 1.0 + i % 2,
        },
        {},
    ),
    "Arena conversations": (
        ".jsonl",
        lambda i, q, b, w: {
            "question_id": str(i),
            "model_a": "x",
            "model_b": "y",
            "winner": "model_b" if i % 2 else "model_a",
            "conversation_a": [user(q), said(sides(i, b, w)[0])],
            "conversation_b": [user(q), said(sides(i, b, w)[1])],
        },
        {},
    ),
    "Arena 55k": (
        ".csv",
        lambda i, q, b, w: {
            "id": i,
            "prompt": json.dumps([q]),
            "response_a": json.dumps([sides(i, b, w)[0]]),
            "response_b": json.dumps([sides(i, b, w)[1]]),
            "winner_model_a": 1 - i % 2,
            "winner_model_b": i % 2,
            "winner_tie": 0,
        },
        {},
    ),
    "Prometheus preference": (
        ".jsonl",
        lambda i, q, b, w: {
            "orig_instruction": q,
            "orig_response_A": sides(i, b, w)[0],
            "orig_response_B": sides(i, b, w)[1],
            "orig_preference": "AB"[i % 2],
        },
        {},
    ),
    "UltraInteract": (
        ".jsonl",
        lambda i, q, b, w: {"task": "t", "id": str(i), "trajectory": [gpt(q, "user")], "chosen": b, "rejected": w},
        {},
    ),
}
