#!/usr/bin/env bash
# The paper's main table on one machine with 8 GPUs: every method on every model, data set and seed.
#
#   recipes/paper_table.sh plan                     prints memory, hours and cost, and runs nothing
#   recipes/paper_table.sh run OUT DATA             trains and evaluates; what is done already is skipped
#   recipes/paper_table.sh table OUT                compares the methods of every model and data set
#
# DATA has the training files (math_7k.json, math_14k.json, commonsense_15k.json of LLM-Adapters; s1K comes from the hub) and the
# evaluation sets (docs/evaluation.md). MODELS, METHODS, SETS, SEEDS, GPUS, ENGINE and PRICE in the environment change what is run.
# Runs on 8 GPUs were never made here: `plan` is arithmetic.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
read -ra models <<< "${MODELS:-olmoe-1b-7b qwen1.5-moe-a2.7b deepseek-v2-lite gpt-oss-20b}"
read -ra methods <<< "${METHODS:-sft sft_aux frozen_router loss_free bias_only esft_token esft_gate densemixer smt condenser}"
read -ra sets <<< "${SETS:-math_7k math_14k commonsense_15k s1k}"
read -ra seeds <<< "${SEEDS:-1 2 3}"
gpus=${GPUS:-8}
engine=${ENGINE:-ddp}
# 32 rows per step, as in the recipes.
rows=$((32 / gpus))

math=gsm8k,svamp,mawps,aqua
commonsense=boolq,piqa,siqa,hellaswag,winogrande,arc_easy,arc_challenge,openbookqa
declare -A tasks=([math_7k]=$math [math_14k]=$math [commonsense_15k]=$commonsense [s1k]=gpqa_diamond,math_500)
# Estimates of two epochs, in tokens, for `plan` alone: 200 a row of mathematics, 120 of commonsense, 4,096 of s1K.
declare -A tokens=([math_7k]=2800000 [math_14k]=5600000 [commonsense_15k]=3600000 [s1k]=8200000)

die() { echo "paper_table.sh: $*" >&2; exit 2; }
data_of() { if [ "$1" = s1k ]; then echo simplescaling/s1K; else echo "$2/$1.json"; fi; }

plan() {
    local model method set total=0 planned cost
    printf '%-20s %-14s %-16s %10s\n' model method data 'cost, each'
    for model in "${models[@]}"; do for method in "${methods[@]}"; do for set in "${sets[@]}"; do
        # A plan that fails ends the script with its own message: in a pipe Python would say on top that it got no JSON.
        planned=$(condenser plan --config "$here/$model-$method.yaml" --devices "$gpus" --memory 80GB \
            --per_device_train_batch_size "$rows" --gradient_accumulation_steps 1 \
            --tokens "${tokens[$set]}" --price_per_hour "${PRICE:-2.0}" --json -)
        cost=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["cost"])' <<< "$planned")
        printf '%-20s %-14s %-16s %10.2f\n' "$model" "$method" "$set" "$cost"
        total=$(python3 -c 'import sys; print(float(sys.argv[1]) + int(sys.argv[3]) * float(sys.argv[2]))' "$total" "$cost" "${#seeds[@]}")
    done; done; done
    printf 'all, with %d seeds, training alone: %.2f\n' "${#seeds[@]}" "$total"
}

run() {
    local out=$1 data=$2 model method set seed folder devices
    devices=$(seq -f 'cuda:%g' -s , 0 $((gpus - 1)))
    for seed in "${seeds[@]}"; do for set in "${sets[@]}"; do for model in "${models[@]}"; do for method in "${methods[@]}"; do
        folder=$out/$set/$model/$method/seed$seed
        if [ ! -e "$folder/model/config.json" ]; then
            local going_on=()
            [ -e "$folder/run.json" ] && going_on=(--resume true)
            condenser train --config "$here/$model-$method.yaml" --data "$(data_of "$set" "$data")" --output_dir "$folder" \
                --seed "$seed" --per_device_train_batch_size "$rows" --gradient_accumulation_steps 1 \
                --accelerate_config "$engine" --num_processes "$gpus" "${going_on[@]}"
        fi
        if [ ! -e "$folder/results.json" ]; then
            condenser eval --model "$folder/model" --tasks "${tasks[$set]}" --data "$data" --dtype bfloat16 \
                --device "$devices" --output_dir "$folder/eval"
            cp "$folder/eval/results.json" "$folder/results.json"
        fi
    done; done; done; done
}

table() {
    local out=$1 model set
    for set in "${sets[@]}"; do for model in "${models[@]}"; do
        echo "## $model, $set"
        condenser compare "$out/$set/$model"/*/seed* --baseline sft
    done; done
}

case ${1:-} in
    plan) [ $# = 1 ] || die "plan takes no more words"; plan ;;
    run) [ $# = 3 ] || die "run takes OUT and DATA"; run "$2" "$3" ;;
    table) [ $# = 2 ] || die "table takes OUT"; table "$2" ;;
    *) die "one of plan, run OUT DATA, table OUT" ;;
esac
