#!/bin/sh
# Fine-tune the shipped codec's decoder on a folder of your own: sh examples/fine_tune.sh FOLDER [SETTING=VALUE ...]
# Codes keep their meaning: what was compressed before still decodes. Stop it when you like; the same command goes on.
set -eu
folder=$1
shift
bittern train data.root="$folder" run=runs/fine init=speech-16khz train_only=decoder \
    optimizer.learning_rate=3e-4 optimizer.warmup_steps=50 steps=2000 "$@"
bittern compress -f "$(dirname "$0")/speech.flac" runs/fine/speech.btn --model runs/fine/best --bitrate 6
bittern decompress -f runs/fine/speech.btn runs/fine/speech.wav --model runs/fine/best
