#!/usr/bin/env bash
# Every system of eval/configs/comparison.yaml, all trained alike: the same half of the recordings,
# 300 steps of 8 utterances from the unadapted Whisper, no choice of a checkpoint. The last three
# train the encoder too and take several times as long. Then what people's own recordings are worth.
#
#   bash train/recipes/comparison.sh
#
# Two trainings at a time, a thread each; JOBS and OMP_NUM_THREADS change that. What is there is not
# trained again, what was interrupted goes on.
set -euo pipefail

PYTHON=${PYTHON:-python}
export PYTHON OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
RUNS=runs/comparison
HALF=runs/data/half_written

# Every second recording, its text in Whisper's writing.
if [ ! -f $HALF.jsonl ]; then
  awk 'NR % 2' runs/data/train.jsonl > runs/data/half.jsonl
  "$PYTHON" -m train.data.writing --manifest runs/data/half.jsonl --out $HALF.jsonl
fi

DATA="train=$HALF.jsonl teacher=$HALF.lines.jsonl dev_per_speaker=4 batch_size=8 keep_mel=true must_help=false"
LOOP="steps=300 cooldown=0.5 ema=0.99 eval_every=300 save_every=100 log_every=25 tracker=none"

# Options of a program: those of all, each name with what precedes it there.
options() { # PREFIX NAME=VALUE...
  for pair in "${@:2}"; do echo "--$1${pair%%=*} ${pair#*=}"; done
}

train() { # PROGRAM NAME [options]
  local data_at=
  [ "$1" = baselines ] && data_at=data.
  echo "$PYTHON -m train.$1 --config train/configs/$2.yaml --out $RUNS/$2" \
    "$(options "$data_at" $DATA)" "$(options loop. $LOOP)" "${@:3}" | tr '\n' ' '
  echo
}

# The hypernetwork with one setting changed.
variant() { # NAME options
  train meta hypernet $alone --out $RUNS/hypernet_$1 "${@:2}"
}

run() { xargs -P "$1" -I{} sh -c '{} >&2'; }

alone="--init_from null --words null"
train meta global_lora | run 1  # which makes the cache that all of them share
{
  train meta hypernet $alone
  train baselines peft_reference
  train meta cohort_lora $alone
  train meta bayes_hypernet
  train meta vi_lora
  train meta vi_lora_single_prior
  train meta lora_qk
  train meta blora
  train meta map_lora
  train meta lora_qkv
  train baselines residual
  train baselines decoder_ft
  variant rank_1 --source.settings.rank 1 --source.settings.alpha 1
  variant rank_32 --source.settings.rank 32 --source.settings.alpha 32
  variant linear --source.settings.n_hidden 0
  variant ecapa --speaker.kind ecapa
  train meta global_lora_encoder_decoder $alone
  train meta hypernet_encoder_decoder $alone
  train baselines full_ft
  for k in 1 5 10; do
    echo "$PYTHON -m train.individual --config train/configs/individual.yaml --k $k"
  done
  echo "$PYTHON -m train.individual --config train/configs/individual_vi_lora.yaml"
} | run "${JOBS:-2}"
