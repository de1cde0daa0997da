"""What can go wrong in a run and is a user's to put right."""

from bittern.errors import CodecError


class DivergedError(CodecError):
    """Training has left the finite numbers."""
