"""What is in shards: the codes of whole recordings, for readers that know nothing of us."""

import gc
import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

import bittern
from bittern.audio.names import find_audio
from bittern.corpus import tokenize
from bittern.corpus.run import SUMMARY
from bittern.errors import ConfigError
from bittern.metrics import si_sdr

SETTINGS = {"shard_mb": 0.05, "stages": 5}


@pytest.fixture(scope="module")
def expected(clips, tiny_codec) -> dict[str, np.ndarray]:
    """The codes of each clip as a whole, by its path; those at other rates are left out."""
    found = {}
    for path in find_audio(clips):
        wav, rate = soundfile.read(path, dtype="float32")
        if rate == tiny_codec.sample_rate:
            codes = tiny_codec.encode(torch.from_numpy(wav)[None, None], stages=5)
            found[path.relative_to(clips).as_posix()] = codes[0].numpy()
    assert len(found) == 20
    return found


def check(rows, expected) -> None:
    """That rows (key, codes) are all clips, with the codes that each has alone."""
    found = dict(rows)
    assert len(found) == 40
    for key, codes in expected.items():
        np.testing.assert_array_equal(np.asarray(found[key]), codes)


def test_datasets_reads_parquet_without_us(made, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    files = sorted(map(str, made.glob("*.parquet")))
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path)
    )
    assert rows.column_names[:3] == ["key", "codes", "frames"]
    check(((row["key"], row["codes"]) for row in rows), expected)
    assert all(round(row["seconds"] * row["sample_rate"]) == row["samples"] > 0 for row in rows)


def test_parquet_says_what_its_codes_are(made, tiny_codec):
    pq = pytest.importorskip("pyarrow.parquet")
    schema = pq.read_schema(next(iter(made.glob("*.parquet"))))
    assert str(schema.field("codes").type) == "list<element: list<element: uint16>>"
    about = json.loads(schema.metadata[b"bittern"])
    assert about["fingerprint"] == tiny_codec.fingerprint.hex()
    assert about["options"]["stages"] == 5
    assert (
        about["digest"] == json.loads((made / "plan.jsonl").read_text().splitlines()[0])["digest"]
    )


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
def test_webdataset_reads_tars_without_us(clips, tiny_checkpoint, expected, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    tokenize(clips, tmp_path, tiny_checkpoint, to="webdataset", **SETTINGS)
    urls = sorted(str(path) for path in tmp_path.glob("*.tar"))
    rows = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    check(((row["json"]["key"], row["codes.npy"]) for row in rows), expected)
    assert rows[0]["__key__"] == "voice0/00"
    assert rows[0]["codes.npy"].dtype == np.uint16
    gc.collect()


def test_npy_files_and_their_index(clips, tiny_checkpoint, expected, tmp_path):
    tokenize(clips, tmp_path, tiny_checkpoint, to="npy", **SETTINGS)
    rows = []
    for shard in tmp_path.glob("codes-*"):
        _, *lines = (shard / "index.jsonl").read_text().splitlines()
        told = [json.loads(line) for line in lines]
        rows += [(row["key"], np.load(shard / row["file"])) for row in told]
    check(rows, expected)


def test_btn_files_decode_to_the_recordings(clips, tiny_checkpoint, tiny_codec, tmp_path):
    tokenize(clips, tmp_path, tiny_checkpoint, to="btn", shard_mb=0.05, quality=6.0)
    files = sorted(tmp_path.rglob("*.btn"))
    assert len(files) == 40
    for file in files[:4]:
        key = file.relative_to(tmp_path).parts[1:]
        (original,) = clips.joinpath(*key[:-1]).glob(f"{file.stem}.*")
        wav, rate = soundfile.read(original, dtype="float32")
        audio = tiny_codec.decompress(file.read_bytes())
        assert (audio.sample_rate, audio.wav.shape[1]) == (rate, len(wav))
        again = tiny_codec.compress(wav, rate, quality=6.0)
        assert file.read_bytes() == again


def test_long_recordings_have_the_codes_of_the_whole(tiny_checkpoint, tiny_codec, tmp_path):
    wav = np.random.default_rng(0).normal(0, 0.1, 16_000 * 25).astype(np.float32)
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "long.wav", wav, 16_000, subtype="FLOAT")
    tokenize(tmp_path / "in", tmp_path / "out", tiny_checkpoint, to="npy", stages=5)
    (found,) = (tmp_path / "out").rglob("*.npy")
    expected = tiny_codec.encode(torch.from_numpy(wav)[None, None], stages=5)[0]
    np.testing.assert_array_equal(np.load(found), expected.numpy())
    back = tiny_codec.decode(
        torch.from_numpy(np.load(found).astype(np.int64))[None], length=len(wav)
    )
    assert torch.equal(back, tiny_codec.decode(expected[None], length=len(wav)))
    assert float(si_sdr(back[0, 0], torch.from_numpy(wav))) > -100


def test_bad_recordings_are_rows_with_a_reason(clips, tiny_checkpoint, tmp_path):
    good = find_audio(clips)[0]
    (tmp_path / "bad.wav").write_text("no audio")
    (tmp_path / "empty.wav").write_bytes(b"")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16_000, subtype="FLOAT")
    names = ["bad.wav", "empty.wav", str(good), "nan.wav", "gone.wav"]
    (tmp_path / "wav.scp").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names)))
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "bittern",
        "tokenize",
        tmp_path / "wav.scp",
        out,
        "--to",
        "npy",
    ]
    done = subprocess.run(
        [*map(str, command), "--model", str(tiny_checkpoint), "--workers", "1", "--stages", "5"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    errors = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in errors] == ["0", "1", "3", "4"]
    assert "not a number to code" in errors[2]
    (index,) = out.rglob("index.jsonl")
    _, *rows = [json.loads(line) for line in index.read_text().splitlines()]
    assert [row["error"] is None for row in rows] == [False, False, True, False, False]
    assert list(json.loads((out / SUMMARY).read_text())["errors"]) == ["0", "1", "3", "4"]

    (tmp_path / "gone.wav").write_bytes(good.read_bytes())  # of another size: another plan
    again = tokenize(tmp_path / "wav.scp", tmp_path / "new", tiny_checkpoint, to="npy", stages=5)
    assert list(again.errors) == ["0", "1", "3"]


def test_what_could_not_be_reached_is_tried_again(clips, tiny_checkpoint, tmp_path):
    file = tmp_path / "in" / "a.wav"
    file.parent.mkdir()
    file.write_bytes(find_audio(clips)[0].read_bytes())
    settings = {"to": "npy", "stages": 5, "part": (0, 1), "shard_mb": 1}
    tokenize(file.parent, tmp_path / "out", tiny_checkpoint, **settings)
    (mark,) = (tmp_path / "out" / "done").iterdir()
    told = json.loads(mark.read_text())
    mark.write_text(json.dumps(told | {"passing": 1}))  # as if the disk had been away
    before = mark.stat().st_mtime_ns
    tokenize(file.parent, tmp_path / "out", tiny_checkpoint, **settings)
    assert mark.stat().st_mtime_ns > before
    assert json.loads(mark.read_text())["sha256"] == told["sha256"]
    before = mark.stat().st_mtime_ns
    tokenize(file.parent, tmp_path / "out", tiny_checkpoint, **settings)
    assert mark.stat().st_mtime_ns == before  # what is complete is not made again


def test_names_of_files_stay_within_their_shard_and_apart(clips, tiny_checkpoint, tmp_path):
    (good, *_) = find_audio(clips)
    keys = ["../../a.wav", "/b/a.wav", "a.flac", "a.wav", "x.1.wav", "x.2.wav", "..", "s p"]
    rows = [{"path": str(good), "id": key} for key in keys]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenize(tmp_path / "m.jsonl", tmp_path / "out", tiny_checkpoint, to="npy", stages=1)
    files = {p.relative_to(tmp_path / "out").as_posix() for p in tmp_path.rglob("*.npy")}
    names = {"a", "b/a", "a_flac", "a_wav", "x_1", "x_2", "unnamed", "s p"}
    assert files == {f"codes-00000-of-00001/{name}.npy" for name in names}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"stages": 4}, "was begun with options"),
        ({"to": "npy"}, "was begun with to parquet, not npy"),
        ({"shard_mb": 1.0}, "was begun with shard_mb 0.05, not 1.0"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(
    other, message, clips, made, tiny_checkpoint, shas
):
    before = shas(made)
    with pytest.raises(ConfigError, match=message):
        tokenize(clips, made, tiny_checkpoint, **(SETTINGS | other))
    assert shas(made) == before


def test_a_source_that_has_changed_is_refused(clips, tiny_checkpoint, tmp_path):
    (tmp_path / "in").mkdir()
    for path in find_audio(clips)[:3]:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    tokenize(tmp_path / "in", tmp_path / "out", tiny_checkpoint, **SETTINGS)
    (tmp_path / "in" / path.name).unlink()
    with pytest.raises(ConfigError, match="3 then, 2 now"):
        tokenize(tmp_path / "in", tmp_path / "out", tiny_checkpoint, **SETTINGS)


def test_options_out_of_reach_are_told_before_any_work(clips, tiny_checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="same stages in each frame"):
        tokenize(clips, tmp_path / "a", tiny_checkpoint, quality=6)
    with pytest.raises(ConfigError, match="has 1 to 8"):
        tokenize(clips, tmp_path / "a", tiny_checkpoint, stages=9)
    with pytest.raises(ConfigError, match="part is 2/2"):
        tokenize(clips, tmp_path / "a", tiny_checkpoint, part=(2, 2))
    assert not (tmp_path / "a").exists()
    assert bittern.load(tiny_checkpoint, "cpu").stages == 8
