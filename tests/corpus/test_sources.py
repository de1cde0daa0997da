"""Recordings are found wherever people keep them, and sound alike from everywhere."""

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bittern.audio.names import find_audio
from bittern.audio.streams import gather
from bittern.corpus.sources import find_recordings
from bittern.errors import AudioError, AudioWarning, UnreachableError


def sounds(recordings) -> dict[str, np.ndarray]:
    """Samples by the name of the file without its folder."""
    found = {}
    for recording in recordings:
        with recording.open() as stream:
            found[Path(recording.path if recording.key.isdecimal() else recording.key).name] = (
                gather(stream.blocks, stream.channels)
            )
    return found


def make_source(kind: str, clips: Path, place: Path) -> Path:
    """The clips as people pass them on, made by other tools."""
    files = find_audio(clips)
    match kind:
        case "folder":
            return clips
        case "jsonl":
            rows = [{"audio_filepath": str(f), "duration": 1.0, "text": "said"} for f in files]
            (place / "m.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
            return place / "m.jsonl"
        case "relative jsonl":
            shutil.copytree(clips, place / "c")
            rows = [{"path": f"c/{f.relative_to(clips)}"} for f in files]
            (place / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
            return place / "m.jsonl"
        case "wav.scp":
            (place / "wav.scp").write_text("".join(f"{i:03} {f}\n" for i, f in enumerate(files)))
            return place / "wav.scp"
        case "tars":
            for number in range(3):
                names = [str(f.relative_to(clips)) for f in files[number::3]]
                subprocess.run(
                    ["tar", "cf", place / f"t{number}.tar", "-C", clips, *names], check=True
                )
            return place / "t*.tar"
        case _:
            pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            audio = [{"bytes": f.read_bytes(), "path": f.name} for f in files]
            table = pa.table({"text": ["said"] * len(files), "audio": audio})
            pq.write_table(table, place / "p.parquet", row_group_size=7)
            return place / "p.parquet"


@pytest.mark.parametrize(
    "kind", ["folder", "jsonl", "relative jsonl", "wav.scp", "tars", "parquet"]
)
def test_every_kind_of_source_gives_the_same_sounds(kind, clips, tmp_path):
    expected = sounds(find_recordings(clips))
    found = sounds(find_recordings(make_source(kind, clips, tmp_path)))
    assert len(expected) == len(found) == 40
    for name, samples in found.items():
        np.testing.assert_array_equal(samples, expected[name])


def test_keys_that_occur_in_two_tars_get_the_names_of_their_tars(clips, tmp_path):
    (clip, other, *_) = find_audio(clips)
    for name, file in (("a", clip), ("b", other)):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(file, "000.wav")
    assert [r.key for r in find_recordings(tmp_path)] == ["a/000.wav", "b/000.wav"]
    (tmp_path / "m.jsonl").write_text(2 * (json.dumps({"path": str(clip)}) + "\n"))
    with pytest.raises(AudioError, match="names 2 recordings; give each a name"):
        find_recordings(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.jsonl", '{"text": "a"}', "line 1 names no file"),
        ("m.jsonl", "nonsense", "line 1 names no file"),
        ("m.jsonl", '{"path": "a.wav", "offset": 3.5}', "cut segments out first"),
        ("wav.scp", "a sph2pipe a.sph |", "without commands"),
        ("t.tar", "nonsense", "cannot be read"),
        ("m.jsonl", "", "has no usable audio; give a folder"),
    ],
)
def test_what_is_no_source_is_told_in_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(AudioError, match=message) as raised:
        find_recordings(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_tars_that_are_cut_short_or_missing_are_told(clips, tmp_path):
    make_source("tars", clips, tmp_path)
    for number in range(3):
        (tmp_path / f"t{number}.tar").rename(tmp_path / f"t-0000{number}-of-00003.tar")
    find_recordings(tmp_path)
    (tmp_path / "t-00001-of-00003.tar").unlink()
    with pytest.warns(AudioWarning, match="2 of 3 files are there"):
        find_recordings(tmp_path)
    tar = tmp_path / "t-00002-of-00003.tar"
    tar.write_bytes(tar.read_bytes()[:100_000])
    with pytest.raises(AudioError, match=r"t-00002-of-00003.*cannot be read"):
        find_recordings(tmp_path)


def test_a_file_of_a_manifest_that_is_not_there_is_told_when_it_is_opened(tmp_path):
    (tmp_path / "wav.scp").write_text("a gone.wav\n")
    (recording,) = find_recordings(tmp_path / "wav.scp")
    with pytest.raises(UnreachableError, match="gone"), recording.open():
        pass
