"""The card says what the report and the nasty sounds' file say, and refuses those of other weights."""

import json
import shutil

import pytest
import yaml

from bittern.errors import CodecError
from bittern.evaluation.card import write_card


@pytest.fixture
def folders(evaluated, tiny_checkpoint, tmp_path):
    """A checkpoint with notes, and a report's folder without nasty sounds."""
    model, report = tmp_path / "model", tmp_path / "report"
    shutil.copytree(tiny_checkpoint, model)
    (model / "training.md").write_text("## Data\n\nNone.\n")
    report.mkdir()
    shutil.copy(evaluated.out / "report.json", report)
    return model, report


def test_the_card_has_a_row_a_setting_with_the_report_s_figures(folders):
    model, report = folders
    text = write_card(model, report / "report.json").read_text()
    document = json.loads((report / "report.json").read_text())
    for system in document["systems"][:3]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {system['setting']} ")]
        score = system["scores"]["pesq_wb"]
        assert f"| {score['mean']:.2f} ({score['low']:.2f} to {score['high']:.2f}) |" in line
        assert f"| {system['kbps']:.2f} |" in line
    assert "8 bits" not in text
    assert text.endswith("## Data\n\nNone.\n")
    assert "Nasty" not in text


def test_the_card_begins_with_what_the_hub_reads(folders):
    model, report = folders
    notes = model / "training.md"
    notes.write_text("---\nlicense: cc0-1.0\nlanguage: [en, de]\n---\n" + notes.read_text())
    _, head, text = write_card(model, report / "report.json").read_text().split("---\n", 2)
    told = yaml.safe_load(head)
    assert told["library_name"] == "bittern"
    assert (told["license"], told["language"]) == ("cc0-1.0", ["en", "de"])
    assert "cc0" not in text


def test_what_is_broken_of_nasty_sounds_is_named(folders, evaluate, speech_file):
    model, report = folders
    evaluate(
        *("--nasty", speech_file, "--model", model, "--stages", "2,8", "-q"),
        *("--out", report, "--jobs", "1"),
    )
    text = write_card(model, report / "report.json").read_text()
    (found,) = json.loads((report / "nasty.json").read_text())["models"]
    broken = [
        f"{setting}, {sound['name']}: "
        for sound in found["sounds"]
        for setting, result in sound["results"].items()
        if result["faults"]
    ]
    assert len(broken) > 5  # with random weights
    assert f"{len(found['sounds'])} sounds that recordings may contain, at 2 stages, 8" in text
    assert f"Broken: {len(broken)}." in text
    for line in broken:
        assert f"- tiny-test {line}" in text


def test_files_of_other_weights_are_refused(folders, other_checkpoint, evaluate, speech_file):
    model, report = folders
    arguments = ("--nasty", speech_file, "--model", other_checkpoint, "--stages", "2", "-q")
    evaluate(*arguments, "--out", report, "--jobs", "1")
    with pytest.raises(CodecError, match="no model with the weights"):
        write_card(model, report / "report.json")
    document = json.loads((report / "report.json").read_text())
    document["systems"] = document["systems"][3:]
    (report / "report.json").write_text(json.dumps(document))
    with pytest.raises(CodecError, match="no system with the weights"):
        write_card(model, report / "report.json")
    with pytest.raises(CodecError, match="a card needs"):
        write_card(model, report / "nothing.json")
