#!/bin/sh
# Asks an agent, waits for its answer and prints it: ask.sh SESSION TEXT...
#
# Exit status: 0 answered, 20 failed, 21 cancelled or interrupted, 22 it waits for a human (the run goes on when
# somebody decides). The key makes it safe to repeat: the same text in the same session submits once a day.
set -eu

session=$1
shift
key="ask-$(date +%F)-$(printf '%s' "$*" | cksum | tr ' ' -)"

run=$(kheish run --detach --session "$session" ${MODEL:+--model "$MODEL"} --key "$key" "$*")
status=0
kheish wait "$run" --until blocked || status=$?
if [ "$status" = 22 ]; then
  echo "$run waits for a human: kheish inbox" >&2
fi
kheish runs get "$run" --json | jq -r '.outputs[]'
exit "$status"
