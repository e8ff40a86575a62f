#!/usr/bin/env bash
# The Speech Accessibility Project: people with Parkinson's, ALS, cerebral palsy, Down syndrome or
# after a stroke. Each is a cohort, so leaving one out asks what the others teach about it.
#
#   bash train/recipes/sap.sh /corpora/SAP runs/sap
#   TYPICAL=runs/data/train.jsonl bash train/recipes/sap.sh /corpora/SAP runs/sap --set salt=secret
#
# What follows the two folders goes to `hyperasr prepare`. Contributor ids are hashed; a salt of
# your own keeps anybody from guessing them. Ratings are scales of their own: severities are
# unknown. Settings of the training are variables, see train_and_test.sh.
set -euo pipefail

CORPUS=${1:?usage: bash train/recipes/sap.sh CORPUS FOLDER [options of hyperasr prepare]}
OUT=${2:?usage: bash train/recipes/sap.sh CORPUS FOLDER [options of hyperasr prepare]}
PYTHON=${PYTHON:-python}
# A manifest of typical speech, which the project does not have: without one, harm done to typical
# speech is neither penalised nor measured.
TYPICAL=${TYPICAL:-}

# There are enough recorded cohorts; nothing is simulated.
export SIMULATE=${SIMULATE:-[]}

# Find the unpacked contributors and their transcripts, once.
[ -f "$OUT/corpus.jsonl" ] ||
  "$PYTHON" -m hyperasr.cli prepare sap "$CORPUS" --out "$OUT/corpus.jsonl" "${@:3}"

# The project's own split is by speaker and is kept. Where the texts of its test are held back, its
# dev is the test, and checkpoints are chosen by others of its train. A few utterances of each of
# them do, because they are decoded at every evaluation.
"$PYTHON" -m train.data.split --manifest "['$OUT/corpus.jsonl'${TYPICAL:+, '$TYPICAL'}]" \
  --out "$OUT" --dev_per_speaker 10

bash "$(dirname "$0")/train_and_test.sh" "$OUT"
