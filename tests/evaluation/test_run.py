"""One command from files to a report: what is written, what is left out and why, what is cached."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from bittern.errors import AudioError, ConfigError, ModelError
from bittern.evaluation import run
from bittern.evaluation.scores import METRICS
from bittern.evaluation.systems import Row

ROOT = Path(__file__).parents[2]
CLIPS = ["below/stereo & <b>44100.flac", "one.wav"]


@pytest.fixture(scope="module")
def report(evaluated) -> dict:
    return json.loads((evaluated.out / "report.json").read_text())


def test_everything_is_written(evaluated):
    names = {path.name for path in evaluated.out.iterdir()}
    wanted = {
        "report.json",
        "scores.csv",
        "scores.md",
        "index.html",
        "rate_distortion.png",
        "rate_distortion.svg",
    }
    assert names == wanted
    with Image.open(evaluated.out / "rate_distortion.png") as picture:
        assert picture.width > 1000
    assert "<svg" in (evaluated.out / "rate_distortion.svg").read_text()


def test_broken_input_is_left_out_with_a_reason_and_the_exit_code_tells(evaluated, report):
    assert evaluated.exit_code == 2
    reasons = {entry["clip"]: entry["reason"] for entry in report["rejected"]}
    assert reasons.keys() == {"short.wav", "silence.wav", "nan.wav", "broken.wav"}
    assert reasons["short.wav"] == "0.10 s long; scores need 0.5 s or more"
    assert reasons["silence.wav"] == "silent"
    assert "not a number" in reasons["nan.wav"]
    assert "not audio" in reasons["broken.wav"] or "damaged" in reasons["broken.wav"]
    for name, reason in reasons.items():
        assert f"bittern: {name}: {reason}; left out" in evaluated.said


def test_stereo_at_another_rate_is_evaluated_and_noted(report):
    assert [clip["name"] for clip in report["clips"]] == CLIPS
    assert report["clips"][0]["note"] == "mean of 2 channels, resampled from 44100 Hz"
    assert report["clips"][0]["seconds"] == pytest.approx(2.0)


def test_every_system_has_every_score_with_an_interval(report):
    names = [system["name"] for system in report["systems"]]
    assert names == ["tiny-test 2 stages", "tiny-test 4 stages", "tiny-test 8 stages", "8 bits"]
    for system in report["systems"]:
        assert system["clips"] == 2
        for metric in METRICS:
            score = system["scores"][metric.key]
            assert score["low"] <= score["mean"] <= score["high"]


def test_bitrates_are_counted(report):
    frames = 2.0 * 50 + 1
    for system, stages in zip(report["systems"], (2, 4, 8), strict=False):
        assert system["kbps"] == pytest.approx(stages * frames * 6 / 2.0 / 1000, rel=0.02)
        assert system["kbps"] < system["file_kbps"] < system["kbps"] + 0.5
    assert report["systems"][3]["kbps"] == pytest.approx(128, rel=0.01)


def test_eight_bits_beat_a_codec_with_random_weights_on_every_clip(report):
    for found in report["comparisons"]:
        assert found["second"] == "8 bits"
        assert found["metrics"]["si_sdr"]["won"] == 0.0
        assert found["metrics"]["si_sdr"]["difference"]["high"] < 0


def test_codebooks_are_reported_at_the_most_stages(report):
    found = report["codebooks"]["tiny-test"]
    assert len(found["stages"]) == 8
    assert found["frames"] == 202
    assert found["sent_bits"] == 202 * 8 * 6
    assert 0 < found["entropy_bits"] <= found["sent_bits"]


def test_the_table_has_a_row_a_result(evaluated, report):
    rows = list(csv.DictReader((evaluated.out / "scores.csv").read_text().splitlines()))
    assert len(rows) == 2 * 4
    row = rows[1]
    assert (row["clip"], row["family"], row["setting"]) == (CLIPS[0], "tiny-test", "4 stages")
    wanted = report["clips"][0]["results"]["tiny-test 4 stages"]
    assert float(row["kbps"]) == pytest.approx(wanted["kbps"], abs=0.001)
    assert float(row["pesq_wb"]) == pytest.approx(wanted["scores"]["pesq_wb"], rel=1e-3)


def test_the_markdown_table_has_a_line_a_system(evaluated):
    lines = (evaluated.out / "scores.md").read_text().splitlines()
    assert lines[0].startswith("| codec | kbit/s | PESQ-WB |")
    assert lines[2].startswith("| **tiny-test 2 stages** | 0.6")
    assert re.search(r"\| 8 bits \| 128\.\d\d \| \d\.\d\d \(\d\.\d\d to \d\.\d\d\) \|", lines[5])


def test_the_command_line_runs_it_and_keeps_paths_to_itself(
    clip_folder, cache_folder, tiny_checkpoint, tmp_path, monkeypatch
):
    from bittern.cli import main

    arguments = ["evaluate", str(clip_folder / "one.wav"), "--model", str(tiny_checkpoint)]
    arguments += ["--stages", "2,4,8", "--no-baselines", "--cache", str(cache_folder), "-q"]
    arguments += ["--out", str(tmp_path / "out"), "--jobs", "1", "--page-clips", "0"]
    monkeypatch.setattr(sys, "argv", ["bittern", *arguments])
    assert main(arguments) == 0
    text = (tmp_path / "out" / "report.json").read_text()
    assert "bittern evaluate one.wav --model tiny" in text
    assert str(tmp_path) not in text


def test_a_second_run_with_one_new_clip_does_only_that_clip(
    evaluated, clip_folder, cache_folder, tiny_checkpoint, tmp_path, monkeypatch, evaluate
):
    shutil.copy(clip_folder / "one.wav", tmp_path / "renamed.wav")
    speech, rate = sf.read(ROOT / "examples" / "speech.flac", start=80_000, frames=24_000)
    sf.write(tmp_path / "new.wav", speech, rate)
    did: list[Row] = []
    work = run.work
    monkeypatch.setattr(run, "work", lambda task: did.extend(work(task)) or did[-3:])
    arguments = [tmp_path, "--model", tiny_checkpoint, "--stages", "2,4,8", "--no-baselines"]
    arguments += ["--out", tmp_path / "out", "--cache", cache_folder, "--jobs", "1", "-q"]
    assert evaluate(*arguments) == 0
    assert {row.clip for row in did if row.from_cache} == {"renamed.wav"}
    assert {row.clip for row in did if not row.from_cache} == {"new.wav"}
    first = json.loads((evaluated.out / "report.json").read_text())["clips"][1]["results"]
    again = json.loads((tmp_path / "out" / "report.json").read_text())["clips"][1]["results"]
    assert again["tiny-test 2 stages"] == first["tiny-test 2 stages"]


@pytest.fixture
def one_clip(tiny_checkpoint, tmp_path):
    """Arguments that evaluate a clip at one setting, with `cache` and `out` below `tmp_path`."""
    speech, rate = sf.read(ROOT / "examples" / "speech.flac", frames=16_000)
    sf.write(tmp_path / "clip.wav", speech, rate)
    arguments = [tmp_path / "clip.wav", "--model", tiny_checkpoint, "--stages", "2"]
    arguments += ["--no-baselines", "--out", tmp_path / "out", "--jobs", "1", "-q"]
    arguments += ["--cache", tmp_path / "cache"]
    return arguments


def test_a_damaged_cache_entry_is_done_again(evaluate, one_clip, tmp_path):
    assert evaluate(*one_clip) == 0
    (audio,) = (tmp_path / "cache").rglob("audio.flac")
    size = audio.stat().st_size
    audio.write_bytes(b"damaged")
    assert evaluate(*one_clip) == 0
    assert audio.stat().st_size == size


def test_a_score_that_failed_is_tried_again(evaluate, one_clip, tmp_path):
    assert evaluate(*one_clip) == 0
    (kept,) = (tmp_path / "cache").rglob("result.json")
    facts = json.loads(kept.read_text())
    del facts["values"]["visqol"]
    facts["failures"] = {"visqol": "it had a bad day"}
    kept.write_text(json.dumps(facts))
    assert evaluate(*one_clip) == 0
    assert not json.loads((tmp_path / "out" / "report.json").read_text())["failures"]
    assert not json.loads(kept.read_text())["failures"]


def test_a_codec_that_fails_on_clips_is_listed_and_the_run_goes_on(
    evaluate, tiny_checkpoint, tmp_path
):
    arguments = [ROOT / "examples" / "speech.flac", "--model", tiny_checkpoint, "--stages", "8"]
    arguments += ["--baseline", "bad: false {in} {code} {out}", "--out", tmp_path, "--no-cache"]
    assert evaluate(*arguments, "--jobs", "1", "-q") == 2
    report = json.loads((tmp_path / "report.json").read_text())
    (failure,) = report["failures"]
    assert (failure["system"], failure["what"]) == ("bad", "coding")
    assert "exit code 1" in failure["reason"]
    assert [s["clips"] for s in report["systems"]] == [1, 0]


SHOUT = (
    "import sys, soundfile as sf; x, r = sf.read(sys.argv[1]); x[100:200] {change}; "
    "sf.write(sys.argv[2], x, r, format='WAV', subtype='FLOAT')"
)


def test_a_codec_that_blasts_or_gives_no_numbers_is_named_with_the_clip(
    evaluate, one_clip, tmp_path, capsys
):
    arguments = [argument for argument in one_clip if argument not in ("--no-baselines", "-q")]
    for name, change in (("same", "*= 1"), ("blast", "= 7"), ("none", "= float('nan')")):
        program = SHOUT.format(change=change)
        line = f'{name}: "{sys.executable}" -c "{program}" {{in}} {{code}} && cp {{code}} {{out}}'
        arguments += ["--baseline", line]
    assert evaluate(*arguments) == 0
    said = capsys.readouterr().err
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    same, blast, none = document["systems"][1:]
    assert same["broken"] == []
    assert same["loudest"]["peak"] == {"clip": "clip.wav", "value": pytest.approx(1, abs=1e-3)}
    (found,) = blast["broken"]
    assert found["clip"] == "clip.wav"
    assert found["faults"][0].startswith("peak ")
    peak = 7 / np.abs(sf.read(tmp_path / "clip.wav")[0]).max()
    assert blast["loudest"]["peak"]["value"] == pytest.approx(peak, rel=1e-3)
    assert none["broken"] == [{"clip": "clip.wav", "faults": ["samples that are not numbers"]}]
    assert none["loudest"]["peak"]["value"] is None
    assert f"broken: blast, clip.wav: {', '.join(found['faults'])}\n" in said
    assert "broken: none, clip.wav: samples that are not numbers\n" in said
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").read_text().splitlines()))
    assert [row["broken"] for row in rows[1:]] == [
        "",
        "; ".join(found["faults"]),
        "samples that are not numbers",
    ]


def test_the_worst_clip_of_each_system_and_metric_is_named(evaluated, report):
    worst = set()
    for system in report["systems"]:
        for metric in METRICS:
            values = {
                clip["name"]: clip["results"][system["name"]]["scores"][metric.key]
                for clip in report["clips"]
            }
            found = system["scores"][metric.key]["worst"]
            assert found["value"] == values[found["clip"]]
            ranks = sorted(values.values(), reverse=not metric.higher_is_better)
            assert found["value"] == ranks[0]
            worst.add(found["clip"])
    assert worst == set(CLIPS)
    line = next(line for line in evaluated.said.splitlines() if line.startswith("worst clips by"))
    assert "PESQ-WB" in line


def test_a_baseline_asked_for_and_missing_is_reported(
    evaluate, tiny_checkpoint, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    arguments = [ROOT / "examples" / "speech.flac", "--model", tiny_checkpoint, "--stages", "8"]
    arguments += ["--baseline", "mp3=8", "--out", tmp_path, "--no-cache", "--jobs", "1", "-q"]
    assert evaluate(*arguments) == 2
    (missing,) = json.loads((tmp_path / "report.json").read_text())["missing"]
    assert "Debian's lame" in missing


def test_losses_and_bitrates_are_evaluated_like_any_setting(evaluate, one_clip, tmp_path):
    assert evaluate(*one_clip, "--bitrates", "0.6,1.2", "--loss", "0.3,2") == 0
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    by_family: dict[str, list[str]] = {}
    for system in document["systems"]:
        by_family.setdefault(system["family"], []).append(system["setting"])
        assert system["scores"].keys() == {metric.key for metric in METRICS}
    assert by_family == {
        "tiny-test": ["2 stages"],
        "tiny-test, 30 % lost by 2": ["2 stages"],
        "tiny-test by bitrate": ["0.6 kbit/s", "1.2 kbit/s"],
        "tiny-test by bitrate, 30 % lost by 2": ["0.6 kbit/s", "1.2 kbit/s"],
    }
    assert list(document["codebooks"]) == ["tiny-test"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--loss", "0.1"], "'0.1' is not a share and a mean burst such as 0.1,1.5"),
        (["--bitrates", "3,fast"], "'3,fast' is not a list of kbit/s such as 3,6"),
        (["--stages", "0"], "'0' is not a list such as 4,8,16"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line(capsys, option, said):
    from bittern.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "clips", *option])
    assert stop.value.code != 0
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_wrong_arguments_are_refused_before_any_work(evaluate, tiny_checkpoint, tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        evaluate(tmp_path / "nothing", "--model", tiny_checkpoint, "--no-baselines")
    with pytest.raises(AudioError, match="no audio files"):
        evaluate(tmp_path, "--model", tiny_checkpoint, "--no-baselines")
    with pytest.raises(ModelError):
        evaluate(tmp_path, "--model", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="given twice"):
        evaluate(tmp_path, "--model", tiny_checkpoint, "--baseline", "mp3", "--baseline", "mp3=8")
    with pytest.raises(ConfigError, match="--jobs"):
        evaluate(tmp_path, "--model", tiny_checkpoint, "--jobs", "0")
    sf.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    with pytest.raises(AudioError, match="none of the files"):
        evaluate(tmp_path, "--model", tiny_checkpoint, "--no-baselines", "-q")


def test_the_page_is_of_the_report_beside_it(evaluated, report):
    html = (evaluated.out / "index.html").read_text()
    data = json.loads(html.partition('id="data">')[2].partition("</script>")[0])
    del data["heard"], data["colours"]
    assert data == report


@pytest.mark.slow
def test_the_command_with_two_processes_gives_the_same_figures(
    evaluated, clip_folder, tiny_checkpoint, tmp_path
):
    command = [sys.executable, "-m", "bittern", "evaluate", clip_folder, "--no-baselines"]
    command += ["--model", tiny_checkpoint, "--stages", "2,4,8", "--out", tmp_path, "--jobs", "2"]
    done = subprocess.run(
        [*map(str, command), "--no-cache"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert re.search(r"\d+/\d+ s of audio, \d\d:\d\d left", done.stderr)
    first, again = (
        json.loads((folder / "report.json").read_text())["clips"]
        for folder in (evaluated.out, tmp_path)
    )
    for one, two in zip(first, again, strict=True):
        for name, result in two["results"].items():
            assert result["scores"] == pytest.approx(one["results"][name]["scores"], rel=1e-4)
