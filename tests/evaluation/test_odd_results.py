"""Results in the cache that are none, names that are no text, and clips too long to score."""

import csv
import io
import json

import numpy as np
import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.evaluation import clips, plots, run, tables
from bittern.evaluation.cache import Cache
from bittern.evaluation.clips import Clip, Rejected
from bittern.evaluation.systems import Row, System

RATE = 16_000
CLIP = Clip("a.wav", make_sound(RATE)[0], RATE)
SYSTEM = System("x", "8 stages", "x1")


@pytest.fixture
def store(tmp_path):
    store = Cache(tmp_path)
    codes = np.arange(30).reshape(3, 10)
    store.put(CLIP, Row(CLIP.name, SYSTEM, 10, 20, CLIP.samples, codes, values={"estoi": 0.5}))
    assert store.get(CLIP, SYSTEM).values == {"estoi": 0.5}
    return store


@pytest.mark.parametrize(
    "change",
    [
        {"payload_bytes": "10"},
        {"payload_bytes": 10**12},
        {"file_bytes": None},
        {"delay": 1.5},
        {"values": {"estoi": "0.5"}},
        {"values": {"estoi": float("nan")}},
        {"values": [1, 2]},
        {"levels": [1.0]},
        {"levels": ["1", "2"]},
        {"faults": [3]},
        {"failures": {"pesq": 4}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_result_that_nobody_wrote_is_as_if_it_were_not_there(store, change):
    path = store.path(CLIP, SYSTEM) / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert store.get(CLIP, SYSTEM) is None


@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 100_000, "{}", '{"values": 1e999}'])
def test_nor_is_any_json_one(store, text):
    (store.path(CLIP, SYSTEM) / "result.json").write_text(text)
    assert store.get(CLIP, SYSTEM) is None


def claims(shape: str, kind: str = "<u2") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(60)


@pytest.mark.parametrize(
    "data",
    [
        claims("(1000000, 1000000)"),
        claims("(30,)"),
        claims("(3, 10)", "<f2"),
        claims("(3, 10)", "|O"),
        claims("(-3, -10)"),
        b"",
        b"\x93NUMPY",
    ],
)
def test_nor_are_any_codes(store, data):
    (store.path(CLIP, SYSTEM) / "codes.npy").write_bytes(data)
    assert store.get(CLIP, SYSTEM) is None


def test_a_full_cache_costs_the_result_nothing(store, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "put", full)
    row = run._kept(store, CLIP, Row(CLIP.name, SYSTEM, values={"estoi": 0.5}))
    assert row.values == {"estoi": 0.5}
    assert "No space" in row.failures["keeping the result"]


NAMES = ["=1+2", "+cmd", "-a", "@sum", "caf\udce9", "$x^2$ \\frac", "plain"]


def about(name: str) -> dict:
    row = {"payload_bytes": 1, "file_bytes": 2, "kbps": 1.0, "file_kbps": 2.0, "scores": {}}
    row |= {"peak_ratio": 1.0, "energy_ratio": 1.0, "broken": [], "failures": {"x": "=1"}}
    metric = {"key": "estoi", "label": "ESTOI", "unit": "", "decimals": 2}
    score = {"estoi": {"mean": 0.5, "low": 0.4, "high": 0.6}}
    system = {"name": name, "family": name, "setting": name, "is_model": True, "kbps": 2.0}
    return {
        "metrics": [metric],
        "systems": [system | {"scores": score}],
        "clips": [{"name": name, "seconds": 1.0, "results": {name: row}}],
    }


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_formulas_in_tables_and_plots(name):
    (cells,) = list(csv.reader(io.StringIO(tables.as_csv(about(name)))))[1:]
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
    assert cells[0].removeprefix("'") == name
    (text,) = plots.draw(about(name)).axes[0].get_legend().get_texts()
    assert text.get_text() == name.replace("\udce9", "\\udce9")
    assert not text.get_parse_math()


@pytest.mark.parametrize(("seconds", "rate"), [(3, 16_000), (2.5, 48_000), (1.1, 96_000)])
def test_clips_too_long_to_score_are_listed(tmp_path, monkeypatch, seconds, rate):
    monkeypatch.setattr(clips, "LONGEST_SECONDS", 2)
    path = tmp_path / "a.wav"
    sf.write(path, make_sound(int(seconds * rate))[0], rate)
    found = clips.read("a.wav", path, RATE)
    assert isinstance(found, Rejected)
    assert "give excerpts" in found.reason
    sf.write(path, make_sound(rate)[0], rate)
    assert isinstance(clips.read("a.wav", path, RATE), Clip)
