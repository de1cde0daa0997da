"""Corpora: recordings wherever they lie, and their codes in shards that appear whole or not at all.

`bittern.corpus.tokenize` is what most people use; training reads the same sources.
"""

from bittern.corpus.run import Progress, Summary, tokenize

__all__ = ["Progress", "Summary", "tokenize"]
