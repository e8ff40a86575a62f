#!/usr/bin/env bash
# TORGO: words and sentences of people with cerebral palsy or ALS, and of controls.
#
#   bash train/recipes/torgo.sh /corpora/TORGO runs/torgo
#   bash train/recipes/torgo.sh /corpora/TORGO runs/torgo --set mics=head --set severity=mine.csv
#
# What follows the two folders goes to `hyperasr prepare`: one microphone halves the work; TORGO has
# no severities, a table `speaker,severity` gives them. Settings of the training are variables, see
# train_and_test.sh. Fifteen speakers are few: intervals will be wide. The same prompts are read by
# everybody, so words of the test are known from the training, and the programs warn of it.
# Leaving out one speaker after the other: python -m train.data.split --leave_out speaker.
set -euo pipefail

CORPUS=${1:?usage: bash train/recipes/torgo.sh CORPUS FOLDER [options of hyperasr prepare]}
OUT=${2:?usage: bash train/recipes/torgo.sh CORPUS FOLDER [options of hyperasr prepare]}
PYTHON=${PYTHON:-python}

# Dysarthria is recorded, and used as it is. Other cohorts are simulated on the controls, so that
# without dysarthria there is still atypical speech to learn from.
export SIMULATE=${SIMULATE:-[stuttering, parkinson]}
export HELD_OUT=${HELD_OUT:-[dysarthria]}

# Find the recordings and their prompts, once.
[ -f "$OUT/corpus.jsonl" ] ||
  "$PYTHON" -m hyperasr.cli prepare torgo "$CORPUS" --out "$OUT/corpus.jsonl" "${@:3}"

# Whole speakers for each part, patients and controls in all of them. Both microphones of an
# utterance are of one speaker and thereby in one part.
"$PYTHON" -m train.data.split --manifest "['$OUT/corpus.jsonl']" --out "$OUT" --dev_per_speaker 40

bash "$(dirname "$0")/train_and_test.sh" "$OUT"
