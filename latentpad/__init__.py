"""Teach a language model to think on a scratchpad from final answers alone."""

__version__ = "0.1.0"
