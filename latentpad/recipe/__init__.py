"""Recipes: schema, loading, overrides, hints. Imports no torch."""
