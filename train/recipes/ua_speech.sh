#!/usr/bin/env bash
# UA-Speech: isolated words of people with cerebral palsy, and of controls.
#
#   bash train/recipes/ua_speech.sh /corpora/UASpeech runs/ua_speech
#   bash train/recipes/ua_speech.sh /corpora/UASpeech runs/ua_speech --set mics=M3,M5
#
# What follows the two folders goes to `hyperasr prepare`; without it one microphone of seven is
# taken. Severity is one minus the intelligibility of the word list. Settings of the training are
# variables, see train_and_test.sh.
set -euo pipefail

CORPUS=${1:?usage: bash train/recipes/ua_speech.sh CORPUS FOLDER [options of hyperasr prepare]}
OUT=${2:?usage: bash train/recipes/ua_speech.sh CORPUS FOLDER [options of hyperasr prepare]}
PYTHON=${PYTHON:-python}

# Dysarthria is recorded, and used as it is. Other cohorts are simulated on the controls, so that
# without dysarthria there is still atypical speech to learn from.
export SIMULATE=${SIMULATE:-[stuttering, parkinson]}
export HELD_OUT=${HELD_OUT:-[dysarthria]}

# Find the recordings and their words, once.
[ -f "$OUT/corpus.jsonl" ] ||
  "$PYTHON" -m hyperasr.cli prepare ua_speech "$CORPUS" --out "$OUT/corpus.jsonl" --set mics=M5 "${@:3}"

# The usual split tests block 2 of the very people whose blocks 1 and 3 were trained on. Here the
# people are unknown too: some are tested, on block 2, the others train on blocks 1 and 3. Texts are
# capitals in the corpus and are taken in lower case.
"$PYTHON" -m train.data.split --manifest "['$OUT/corpus.jsonl']" --out "$OUT" --dev_per_speaker 60

bash "$(dirname "$0")/train_and_test.sh" "$OUT"
