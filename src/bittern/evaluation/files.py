"""How many bytes of a compressed file carry audio."""

import json
import subprocess
from pathlib import Path

_CONTAINERS = ("ogg", "mp3", "aac", "mov,mp4,m4a,3gp,3g2,mj2")  # as ffprobe names them
_SURE = 51  # of 100: by more than the file's ending


def payload_bytes(path: Path) -> int:
    """Bytes of a compressed file that carry audio: the packets in its container, by ffprobe.

    A bitrate that counts page headers and comment fields says more about the file format than about
    the codec. A file in none of these containers counts whole.
    """
    probe = (
        "ffprobe -loglevel quiet -of json -show_entries format=format_name,probe_score:packet=size"
    )
    done = subprocess.run([*probe.split(), path], capture_output=True, check=False)
    found = json.loads(done.stdout or "{}")
    about = found.get("format", {})
    if about.get("format_name") not in _CONTAINERS or about["probe_score"] < _SURE:
        return path.stat().st_size
    return sum(int(packet["size"]) for packet in found["packets"])
