"""Whole runs, arms side by side, and the report."""
