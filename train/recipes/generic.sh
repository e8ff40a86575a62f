#!/usr/bin/env bash
# Recordings of your own, in any common layout: a table, WAV beside TXT, Kaldi, LibriSpeech, ...
#
#   bash train/recipes/generic.sh /my/recordings runs/mine
#   TYPICAL=runs/data/train.jsonl bash train/recipes/generic.sh /my/als runs/als --set cohort=als
#
# What follows the two folders goes to `hyperasr prepare generic`: which cohort, layout or table.
# Cohorts are any names; a column `cohort` of a table gives each row its own. Settings of the
# training are variables, see train_and_test.sh.
set -euo pipefail

CORPUS=${1:?usage: bash train/recipes/generic.sh CORPUS FOLDER [options of hyperasr prepare]}
OUT=${2:?usage: bash train/recipes/generic.sh CORPUS FOLDER [options of hyperasr prepare]}
PYTHON=${PYTHON:-python}
# A manifest of typical speech, for folders that have none. With one cohort and nothing else there
# is none to leave out: HELD_OUT=none.
TYPICAL=${TYPICAL:-}

# Simulated on typical rows alone. Leave out what you have recorded, or both are one cohort.
export SIMULATE=${SIMULATE:-[stuttering, dysarthria, parkinson]}

# Find recordings and texts, once.
[ -f "$OUT/corpus.jsonl" ] ||
  "$PYTHON" -m hyperasr.cli prepare generic "$CORPUS" --out "$OUT/corpus.jsonl" "${@:3}"

# Whole speakers for each part, some of every cohort in each; your own split by speaker is kept.
"$PYTHON" -m train.data.split --manifest "['$OUT/corpus.jsonl'${TYPICAL:+, '$TYPICAL'}]" \
  --out "$OUT" --dev_per_speaker 40

bash "$(dirname "$0")/train_and_test.sh" "$OUT"
