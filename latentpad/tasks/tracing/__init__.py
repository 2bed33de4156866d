"""Execution traces of real programs, made inside the sandbox in two ways that must agree."""
