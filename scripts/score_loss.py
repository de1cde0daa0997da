"""Quality over the rate of loss: python scripts/score_loss.py FOLDER [--model M] [--stages N].

Frames of each clip in FOLDER (at 16 kHz, up to --seconds of it) are lost by Gilbert's model and
concealed, or made silent; prints a table of mean scores in Markdown.
"""

import argparse
from pathlib import Path

import bittern
from bittern.audio import streams as audio
from bittern.evaluation.loss import loss_scores

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--model", default="speech-16khz")
parser.add_argument("--stages", type=int, default=12)
parser.add_argument("--seconds", type=float, default=10.0)
parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.02, 0.05, 0.1, 0.2])
parser.add_argument("--bursts", type=float, nargs="+", default=[1.5, 4.0])
args = parser.parse_args()

paths = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in audio.READABLE)
clips = [(wav[0, : int(args.seconds * rate)], rate) for wav, rate in map(audio.read, paths)]
codec = bittern.load(args.model)
print(f"{len(clips)} clips, {args.stages} stages\n")
print("| lost | mean burst | PESQ concealed | silent | ESTOI concealed | silent |")
print("|---:|---:|---:|---:|---:|---:|")
for row in loss_scores(codec, clips, stages=args.stages, rates=args.rates, mean_bursts=args.bursts):
    print(
        f"| {100 * row.rate:g} % | {row.mean_burst:g} | {row.concealed.pesq:.2f} | "
        f"{row.silent.pesq:.2f} | {row.concealed.estoi:.3f} | {row.silent.estoi:.3f} |",
        flush=True,
    )
