"""`evaluate --nasty`: what breaks is marked, what does not is not, and the exit code tells."""

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import soundfile as sf

from bittern.audio.stress import signals
from bittern.errors import AudioError, ConfigError
from bittern.evaluation import nasty
from bittern.evaluation.clips import Clip
from bittern.evaluation.systems import Row, System

RATE = 16_000


class ScalingCodec:
    """A codec of PCM: gives what it got, times a gain for each number of stages."""

    name, sample_rate = "scaling", RATE

    def __init__(self, gains: dict[int, float]) -> None:
        self.stages, self.gains = tuple(gains), tuple(gains.values())
        self.systems = [System("scaling", f"{stages} stages", "") for stages in gains]

    def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
        for system, gain in zip(wanted, self.gains, strict=True):
            yield Row(clip.name, system, samples=gain * clip.samples)


@pytest.fixture(scope="module")
def sounds(speech):
    return signals(speech[: 3 * RATE // 2], RATE)


def marked(codec: ScalingCodec, sounds) -> dict[str, list[int]]:
    """Stages at which each sound is broken, of those that are."""
    found = {}
    for sound in sounds:
        results = nasty.judge(codec, sound)["results"]  # type: ignore[arg-type]
        stages = [int(setting.split()[0]) for setting, r in results.items() if r["faults"]]
        if stages:
            found[sound.name] = stages
    return found


def test_a_codec_that_changes_nothing_passes_all(sounds):
    assert marked(ScalingCodec({4: 1.0, 32: 1.0}), sounds) == {}


def test_a_codec_that_is_too_loud_at_one_setting_is_marked_there_for_all_that_is_audible(sounds):
    found = marked(ScalingCodec({4: 1.0, 8: 2.5}), sounds)
    assert set(map(tuple, found.values())) == {(8,)}
    faint = {sound.name for sound in sounds if np.abs(sound.samples).max() < 4e-4}
    assert found.keys() == {sound.name for sound in sounds} - faint
    assert {"digital silence", "soft speech, -100 dB"} <= faint


def test_tones_may_fade_at_the_fewest_stages_only(sounds):
    found = marked(ScalingCodec({4: 0.3, 8: 0.3}), sounds)
    assert found == {sound.name: [8] for sound in sounds if sound.tones}


def test_more_stages_that_cost_intelligibility_are_marked(speech):
    class Worse(ScalingCodec):
        def code(self, clip: Clip, wanted: Sequence[System]) -> Iterator[Row]:
            noise = np.random.default_rng(0).standard_normal(len(clip.samples))
            for number, row in enumerate(super().code(clip, wanted)):
                yield Row(row.clip, row.system, samples=row.samples + 0.01 * number * noise)

    (plain, *_) = signals(speech, RATE)
    results = nasty.judge(Worse({4: 1, 12: 1, 16: 1}), plain)["results"]  # type: ignore[arg-type]
    assert [bool(result["faults"]) for result in results.values()] == [False, False, True]
    assert "with less" in results["16 stages"]["faults"][0]


def test_the_command_prints_a_line_a_sound_and_says_that_something_is_broken(
    tiny_checkpoint, tmp_path, capsys, evaluate, speech_file, speech
):
    arguments = ["--nasty", speech_file, "--model", tiny_checkpoint, "--stages", "2,8"]
    assert evaluate(*arguments, "--out", tmp_path, "--jobs", "1") == 2
    out, err = capsys.readouterr()
    document = json.loads((tmp_path / "nasty.json").read_text())
    (model,) = document["models"]
    names = [sound.name for sound in signals(speech[: round(1.2 * RATE)], RATE)]
    assert [sound["name"] for sound in model["sounds"]] == names
    lines = out.splitlines()
    assert [line.split("|")[0].strip() for line in lines[2:]] == names
    broken = {s["name"] for s in model["sounds"] if any(r["faults"] for r in s["results"].values())}
    assert {line.split("|")[0].strip() for line in lines if "<-" in line} == broken
    count = len(nasty.broken(document))
    assert f"{count} broken; " in err
    assert count >= len(broken) > 0


def test_the_levels_in_the_table_are_those_of_the_decoded_file(
    tiny_codec, tiny_checkpoint, tmp_path, evaluate, speech_file
):
    arguments = ["--nasty", speech_file, "--model", tiny_checkpoint, "--stages", "8", "-q"]
    evaluate(*arguments, "--out", tmp_path, "--jobs", "1")
    (model,) = json.loads((tmp_path / "nasty.json").read_text())["models"]
    results = {s["name"]: s["results"]["8 stages"] for s in model["sounds"]}
    sound = sf.read(speech_file, dtype="float32")[0]
    decoded = tiny_codec.decompress(tiny_codec.compress(sound, RATE)).wav[0].numpy()
    assert results["speech"]["peak"] == pytest.approx(abs(decoded).max() / abs(sound).max())
    assert results["speech"]["energy"] == pytest.approx(
        math.sqrt((decoded**2).mean() / (sound**2).mean()), rel=1e-4
    )


def test_what_it_cannot_work_on_is_one_line(evaluate, tmp_path, tiny_checkpoint, speech):
    model = ("--model", tiny_checkpoint, "--jobs", "1")
    with pytest.raises(ConfigError, match="give audio to evaluate on, or --nasty"):
        evaluate(*model)
    with pytest.raises(ConfigError, match="give audio to evaluate on, or --nasty"):
        evaluate(tmp_path, *model, "--nasty", tmp_path / "speech.wav")
    with pytest.raises(AudioError, match="needs a file of clean speech"):
        evaluate(*model, "--nasty", tmp_path / "nothing.wav")
    sf.write(tmp_path / "short.wav", speech[8000:20_000], RATE)
    with pytest.raises(AudioError, match=r"short.wav: .* --nasty needs a file of clean speech"):
        evaluate(*model, "--nasty", tmp_path / "short.wav")
