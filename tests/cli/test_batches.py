"""Many files at once: lists of names, folders that keep their tree, starts that go on where one ended."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile as sf
from synthetic import make_sound

from bittern.cli import main

NAMES = ["s1/001.wav", "s1/deep/002.flac", "s2/001.wav", "s2/two words.wav"]


@pytest.fixture
def run(tmp_path, tiny_checkpoint, monkeypatch, capsys) -> Callable[..., tuple[int, str]]:
    """`compress` or `decompress` in a folder with recordings below `in` and an empty `out`."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, make_sound(1_000 + number)[0], 16_000)
    (tmp_path / "out").mkdir()

    def call(*argv: str | Path) -> tuple[int, str]:
        options = ["--model", str(tiny_checkpoint)]
        options += ["--stages", "2"] if argv[0] == "compress" else []
        code = main([*map(str, argv), "--output-dir", "out", *options])
        return code, capsys.readouterr().err

    return call


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


CODED = ["s1/001.btn", "s1/deep/002.btn", "s2/001.btn", "s2/two words.btn"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\0"])
@pytest.mark.parametrize("jobs", ["1", "3"])
def test_a_list_of_names_keeps_its_tree_there_and_back(run, tmp_path, end, jobs):
    listed = end.join(f"in/{name}" for name in NAMES) + end
    (tmp_path / "list").write_bytes(listed.encode())
    assert run("compress", "--files-from", "list", "--jobs", jobs)[0] == 0
    assert tree(tmp_path / "out") == CODED
    back = "\n".join(f"out/{name}" for name in CODED)
    (tmp_path / "list").write_text(back)
    assert run("decompress", "--files-from", "list", "--jobs", jobs)[0] == 0
    for number, name in enumerate(NAMES):
        wav = (tmp_path / "out" / name).with_suffix(".wav")
        assert sf.info(wav).frames == 1_000 + number


def test_names_may_come_through_a_pipe(tmp_path, run, tiny_checkpoint):
    command = [sys.executable, "-m", "bittern", "compress", "--files-from", "-", "--stages", "2"]
    options = ["--output-dir", "out", "--model", str(tiny_checkpoint), "-q"]
    find = subprocess.run(["find", "in", "-type", "f", "-print0"], capture_output=True, check=True)
    done = subprocess.run([*command, *options], input=find.stdout, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert tree(tmp_path / "out") == CODED


def test_a_folder_is_all_that_lies_below_it(run, tmp_path):
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    assert run("compress", "in")[0] == 0
    assert tree(tmp_path / "out") == CODED
    (tmp_path / "back").mkdir()
    assert run("decompress", "out", "-f")[0] == 0
    assert len(tree(tmp_path / "out")) == 2 * len(NAMES)


def test_files_of_one_folder_stay_flat(run, tmp_path):
    assert run("compress", "in/s2/001.wav", "in/s2/two words.wav")[0] == 0
    assert tree(tmp_path / "out") == ["001.btn", "two words.btn"]


def test_what_is_there_is_left_out_and_counted(run, tmp_path):
    assert run("compress", "in/s1", "--skip-existing")[0] == 0
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    (tmp_path / "in/s1/003.wav").write_bytes((tmp_path / "in/s1/001.wav").read_bytes())
    code, said = run("compress", "in/s1", "--skip-existing")
    assert code == 0
    assert "2 of 3 files were there already" in said
    after = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    assert before.items() <= after.items()
    assert len(after) == 3
    assert run("decompress", "out", "--skip-existing")[0] == 0
    assert "3 of 3 files were there already" in run("decompress", "out", "--skip-existing")[1]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--files-from", "none"], "none: cannot be read (No such file or directory)"),
        (["in/s1/001.wav", "in/s1/./001.wav"], "both would become out/001.btn"),
        ([], "no input; name files, or a list of them with --files-from"),
        (["--files-from", "empty"], "no input"),
        (["in", "-f", "--skip-existing"], "not allowed with argument"),
        (["in/s1/none.wav", "in/s1/001.wav"], "in/s1/none.wav: cannot be read"),
    ],
)
def test_lists_that_cannot_be_meant_are_one_line(run, tmp_path, argv, said, capsys):
    (tmp_path / "empty").write_text("\n\n")
    try:
        code, err = run("compress", *argv)
    except SystemExit as error:  # argparse
        code, err = error.code, capsys.readouterr().err
    assert code
    assert said in err
    assert "Traceback" not in err


def test_a_list_needs_a_folder_for_the_outputs(run, tmp_path, capsys):
    (tmp_path / "list").write_text("in/s1/001.wav\n")
    assert main(["compress", "--files-from", "list"]) == 1
    assert "--files-from goes with --output-dir DIR" in capsys.readouterr().err


def test_one_bad_file_costs_itself_alone(run, tmp_path):
    (tmp_path / "in/s1/bad.wav").write_bytes(b"RIFF no")
    code, said = run("compress", "in")
    assert code == 2
    assert "in/s1/bad.wav: " in said
    assert "1 of 5 files failed" in said
    assert tree(tmp_path / "out") == CODED


@pytest.mark.parametrize("force", [False, True])
def test_of_two_that_write_one_file_the_later_says_so(tmp_path, tiny_checkpoint, force):
    sf.write(tmp_path / "a.wav", make_sound(16_000)[0], 16_000)
    os.mkfifo(tmp_path / "slow")
    argv = ["compress", "slow", "a.btn", "--stages", "2", "--model", str(tiny_checkpoint)]
    argv += ["-f"] if force else []
    later = subprocess.Popen(
        [sys.executable, "-m", "bittern", *argv], cwd=tmp_path, stderr=subprocess.PIPE
    )
    with (tmp_path / "slow").open("wb") as pipe:  # opens once the command has looked
        pipe.write((tmp_path / "a.wav").read_bytes()[:20_000])
        pipe.flush()
        while not list(tmp_path.glob(".a.btn.*")):
            assert later.poll() is None
        (tmp_path / "a.btn").write_bytes(b"somebody else's")
        pipe.write((tmp_path / "a.wav").read_bytes()[20_000:])
    _, err = later.communicate(timeout=60)
    assert later.returncode == (0 if force else 1), err
    if not force:
        assert b"a.btn: cannot be written (it has come to exist meanwhile; -f overwrites" in err
        assert (tmp_path / "a.btn").read_bytes() == b"somebody else's"
    assert not list(tmp_path.glob(".a.btn.*"))
