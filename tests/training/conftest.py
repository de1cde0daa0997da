"""Real speech for training tests: the example clip, cut into a small corpus."""

from dataclasses import fields
from pathlib import Path

import pytest
import soundfile

from bittern.training.augment import AugmentConfig
from bittern.training.run import compose

EXAMPLE = Path(__file__).parents[2] / "examples" / "speech.flac"


@pytest.fixture(scope="session")
def speech_folder(tmp_path_factory) -> Path:
    """Ten seconds of real speech as five files in two folders, of which one is stereo at 44.1 kHz."""
    root = tmp_path_factory.mktemp("speech")
    wav, rate = soundfile.read(EXAMPLE, dtype="float32")
    for index in range(5):
        part = wav[index * 2 * rate : (index + 1) * 2 * rate]
        folder = root / ("first" if index < 3 else "second")
        folder.mkdir(exist_ok=True)
        soundfile.write(folder / f"part{index}.wav", part, rate)
    return root


@pytest.fixture
def settings(speech_folder, tmp_path):
    """Settings of a tiny run on the corpus, with overrides as on the command line."""

    def make(*overrides: str):
        return compose(
            [
                "model=tiny",
                f"data.root={speech_folder}",
                f"data.cache={tmp_path / 'cache'}",
                f"run={tmp_path / 'run'}",
                "data.batch_size=4",
                "data.segment_seconds=0.5",
                "data.validation_share=0.3",
                "codebook.start_step=2",
                "codebook.kmeans_frames=400",
                "optimizer.warmup_steps=2",
                "precision=32-true",
                "accelerator=cpu",
                "steps=6",
                "log_every=1",
                "validate_every=6",
                "save_every=3",
                *(f"augment.{kind.name}=0" for kind in fields(AugmentConfig)),
                *overrides,
            ]
        )

    return make
