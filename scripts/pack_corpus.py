"""Pack a folder of audio: python scripts/pack_corpus.py FOLDER PACK [--coding opus].

For data that must travel or lies on a network disk: PACK is a folder of few large files, which training
takes as `data.root=PACK`, with the same sources (first-level folders) and the same held-out files. Audio
is mixed to mono at the codec's sample rate first; FLAC then gives training exactly the same samples.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from bittern.errors import CodecError, ConfigError
from bittern.training.corpus import open_corpus
from bittern.training.pack import Coding, check, write_pack


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="audio of any depth and format")
    parser.add_argument("pack", type=Path, metavar="PACK", help="folder to be made")
    parser.add_argument("--coding", choices=[c.value for c in Coding], default=Coding.FLAC.value)
    parser.add_argument("--sample-rate", type=int, default=16_000, metavar="HZ")
    parser.add_argument("--shard-mb", type=float, default=256.0, metavar="MB")
    given = parser.parse_args()
    if given.sample_rate < 1000 or given.shard_mb <= 0:
        raise ConfigError("--sample-rate is 1000 or more, and --shard-mb more than 0")
    coding = Coding(given.coding)
    check(given.pack, given.sample_rate, coding)
    with tempfile.TemporaryDirectory(prefix="bittern-pack-") as cache:
        corpus = open_corpus(given.folder, given.sample_rate, cache=cache, what="FOLDER")
        with tqdm(corpus.clips, desc="pack", unit="file", leave=False) as clips:
            index = write_pack(
                given.pack,
                ((c.path, np.array(corpus.pcm[c.offset : c.offset + c.samples])) for c in clips),
                given.sample_rate,
                coding,
                shard_bytes=round(given.shard_mb * 1e6),
            )
    for skipped in corpus.skipped:
        print(f"skipped {skipped.path}: {skipped.reason}")
    seconds = sum(clip.samples for clip in corpus.clips) / given.sample_rate
    size = sum(entry.size for entry in index.entries)
    print(
        f"{given.pack}: {len(index.entries)} files, {seconds / 3600:.2f} h, {size / 1e6:.1f} MB "
        f"of {index.coding} in {len({entry.shard for entry in index.entries})} shards"
    )


if __name__ == "__main__":
    try:
        main()
    except CodecError as error:
        print(f"pack_corpus: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
