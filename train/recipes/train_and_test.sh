#!/usr/bin/env bash
# From train.jsonl, dev.jsonl and test.jsonl in a folder to adapters, tables, angles and a page.
#
#   bash train/recipes/train_and_test.sh runs/mine
#
# The second half of every recipe beside it; alone it serves manifests of your own. Rows that are
# not of the cohort `typical` are trained on and tested as they were recorded. Run from the
# repository's root; run again, it goes on where it stopped.
set -euo pipefail

OUT=${1:?usage: bash train/recipes/train_and_test.sh FOLDER}

PYTHON=${PYTHON:-python}          # of the environment in which hyperasr is installed
BACKBONE=${BACKBONE:-tiny.en}     # the frozen Whisper: tiny.en, base, a folder or a hub name
SIMULATE=${SIMULATE:-[]}          # cohorts that are also simulated on typical rows; [] for none
HELD_OUT=${HELD_OUT:-[]}          # cohorts to leave out, one at a time; [] for all, or none
STEPS=${STEPS:-1000}              # of each training
BATCH_SIZE=${BATCH_SIZE:-16}      # utterances a step
MUST_HELP=${MUST_HELP:-true}      # stop where nothing is better than the frozen Whisper; or false
WORKERS=${WORKERS:-2}             # processes that simulate and encode
ENCODE_ON=${ENCODE_ON:-cpu}       # where they encode, such as cuda; the training finds a GPU itself

# What all trainings share. The cache holds what the frozen encoder hears, 1.2 MB a row for tiny.en.
shared="backbone: '$BACKBONE'
train: '$OUT/train.jsonl'
dev: '$OUT/dev.jsonl'
cache: '$OUT/cache'
simulate: $SIMULATE
variety: {speed: [0.9, 1.12], place_share: 0.5}  # of typical rows: more voices and places
batch_size: $BATCH_SIZE
workers: $WORKERS
encode_on: $ENCODE_ON"
loop="steps: $STEPS, eval_every: $(((STEPS + 7) / 8)), save_every: $(((STEPS + 7) / 8))"

# One LoRA for everybody: the baseline, and what the hypernetwork starts from.
cat > "$OUT/global_lora.yaml" <<YAML
$shared
out: '$OUT/global_lora'
must_help: false
source: {kind: static, targets: [decoder.fc1], settings: {by: global, rank: 8, alpha: 8}}
loop: {$loop, lr: 0.001}
YAML

# The hypernetwork: a LoRA of its own for every utterance, from how it sounds. What it changes for
# typical speech is penalised: do no harm.
cat > "$OUT/hypernet.yaml" <<YAML
$shared
out: '$OUT/hypernet'
must_help: $MUST_HELP
init_from: '$OUT/global_lora/best'
source:
  kind: hypernet
  targets: [decoder.fc1]
  settings: {rank: 8, alpha: 8, dropout: 0.2, emb_noise: 0.3}
objective: {typical_penalty: 3.0}
loop: {$loop, lr: 0.00003, cooldown: 0.7, weight_decay: 0.05}
YAML

# Who is tested, and what may not be known of them. The last file gets a line at every look.
cat > "$OUT/test.yaml" <<YAML
bench:
  systems: {global_lora: '$OUT/global_lora/best', hypernet: '$OUT/hypernet/best'}
  test: '$OUT/test.jsonl'
  train: ['$OUT/train.jsonl', '$OUT/dev.jsonl']
  simulate: $SIMULATE
  backbone: '$BACKBONE'
  cache: '$OUT/cache'
  store: '$OUT/hypotheses'
  workers: $WORKERS
  looks: '$OUT/results/test_looks.jsonl'
YAML

# Train; a finished run returns at once. On several GPUs: accelerate launch -m train.meta ...
"$PYTHON" -m train.meta --config "$OUT/global_lora.yaml"
"$PYTHON" -m train.meta --config "$OUT/hypernet.yaml"

# Speakers nobody trained on: the frozen Whisper, both adapters, and the hypernetwork's controls.
"$PYTHON" -m eval.zero_shot --config "$OUT/test.yaml" --out "$OUT/results/zero_shot.json"

# A kind of speech nobody trained on: both trained again without each cohort, and tested on it. It
# takes two cohorts, or one and typical speech.
[ "$HELD_OUT" = none ] || "$PYTHON" -m eval.leave_one_cohort_out --config "$OUT/test.yaml" \
  --sources "{global_lora: '$OUT/global_lora.yaml', hypernet: '$OUT/hypernet.yaml'}" \
  --cohorts "$HELD_OUT" --runs "$OUT/leave_one_cohort_out" \
  --out "$OUT/results/leave_one_cohort_out.json"

# Whose adaptations are alike.
"$PYTHON" -m eval.subspace_angles --config "$OUT/test.yaml" \
  --out "$OUT/results/subspace_angles.json"

# One page of all of it.
"$PYTHON" -m eval.report --results "$OUT/results" --out "$OUT/report.html"
