"""Bittern, an end-to-end neural audio codec."""
