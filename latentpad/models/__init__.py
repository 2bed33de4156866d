"""Tokenizers and policies."""
