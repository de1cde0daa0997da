"""Compress an audio file from Python: python scripts/compress.py IN OUT.btn [KBPS] [MODEL]."""

import sys

import bittern


def main(source: str, target: str, kbps: str = "6", model: str = "speech-16khz") -> None:
    codec = bittern.load(model)
    receipt = codec.compress_file(source, target, bitrate_kbps=float(kbps))
    print(
        f"{receipt.seconds:.2f} s in {receipt.file_bytes} bytes: {receipt.measured_kbps:.2f} "
        f"kbit/s ({receipt.mean_stages:.1f} stages), {receipt.speed:.0f}x real time"
    )


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except bittern.CodecError as error:
        sys.exit(str(error))
