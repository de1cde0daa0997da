"""Bring a .btn file back from Python: python scripts/decompress.py IN.btn OUT.wav [MODEL]."""

import sys

import bittern


def main(source: str, target: str, model: str = "speech-16khz") -> None:
    codec = bittern.load(model)
    receipt = codec.decompress_file(source, target)
    print(
        f"{receipt.seconds:.2f} s at {receipt.sample_rate} Hz from {receipt.file_bytes} bytes, "
        f"{receipt.speed:.0f}x real time"
    )


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except bittern.CodecError as error:
        sys.exit(str(error))
