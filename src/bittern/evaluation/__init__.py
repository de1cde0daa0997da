"""`bittern evaluate`: score a codec on files beside other codecs, and make a page to listen to.

    clips -> families (a model, Opus, MP3, ...) -> coded audio and counted bytes -> scores -> report

Needs `bittern[eval]`; start reading at `run.py`. Nothing else in Bittern imports this package but
the command line.
"""
