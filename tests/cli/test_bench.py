"""`bittern bench`: it prints what it measured."""

import json

from bittern.cli import main


def test_the_table_and_its_numbers(tiny_checkpoint, capsys):
    argv = ["bench", "--model", str(tiny_checkpoint), "--device", "cpu", "--seconds", "0.2"]
    assert main([*argv, "--stages", "3"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        "tiny-test on cpu, 3 stages, 0.9 kbit/s, search width 4\nlatency 40 ms: 20 ms frames, "
    )
    assert "encode, 20 ms pushes" in out
    assert main([*argv, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["latency_ms"], facts["stages"]) == (40, 8)
    ways = {(speed["work"], speed["way"]) for speed in facts["speeds"]}
    assert len(ways) == 6
    assert all(speed["real_time"] > 0 and speed["processor"] > 0 for speed in facts["speeds"])
    assert facts["resident_mb"] >= facts["resident_start_mb"] > 0
    assert main([*argv, "--stages", "9"]) == 1
    assert "got 9 stages; tiny-test has 1 to 8" in capsys.readouterr().err
