#!/usr/bin/env bash
# The safety and summarisation tasks on real files, end to end, with a small decoder trained from nothing for a moment: a
# check that everything fits together, not a result.  benchmarks/real_data.sh DATA OUT [seed]
# DATA holds pku_saferlhf/, tldr/ and xsum_hf_sample/ with files of those data sets.
set -euo pipefail
data=$1 out=$2 seed=${3:-0}
small=(--set policy.vocabulary=2000 --set sft.steps=150 --set sft.lr=4e-3 --set 'scalar.epochs=1' --set 'seq2seq-*.epochs=1'
    --set ppo.iterations=6 --set ppo.rollouts=32 --set eval.prompts=64 --seeds "$seed-$seed" --limit 400 --jobs 1
    --rm scalar --rm seq2seq-token --out "$out" --judge winrate --judge length --judge empty --set winrate.scorer=rouge-l)
bench run --task saferlhf --data "$(ls "$data"/pku_saferlhf/*.json.gz)" --set data.max_prompt_tokens=64 \
    --set saferlhf.response_tokens=64 --judge refusal "${small[@]}"
bench run --task tldr --data "$data/tldr/oai1b.csv_judged.csv" --set data.max_prompt_tokens=640 --set tldr.response_tokens=64 \
    --prompts tldr --prompts xsum --set xsum.data="$data/xsum_hf_sample/sample.jsonl" --set xsum.prompts_only=true "${small[@]}"
# White-box rewards need no training: relevance to people's summaries, by PPO and as a best-of-n preview.
bench run --task dialogsum --data "$data/dialogsum" --rm whitebox --rm whitebox-li-qr-rp --optimizer best-of-n --optimizer ppo \
    --n 1,2,4,8 --set policy.vocabulary=2000 --set sft.steps=150 --set sft.lr=4e-3 --set ppo.iterations=6 --set ppo.rollouts=32 \
    --set data.max_prompt_tokens=192 --set eval.prompts=64 --seeds "$seed-$seed" --limit 400 --jobs 1 --out "$out" \
    --judge winrate --judge utility --judge length --judge empty --set winrate.scorer=rouge-l --set utility.scorer=rouge-l
