"""What two spellings of one program have in common."""

from __future__ import annotations

import ast

from reward.asserts import parse_quietly


def normal_form(source: str) -> str:
    """A program up to white space, comments, quotes, and the names that it gives to what it defines.

    Raises:
        BadAssertion: it is no Python (a `ValueError`).

    >>> normal_form("def double(n): return 2*n  # twice") == normal_form("def f(x):\\n  return 2 * x")
    True
    """
    tree = parse_quietly(source)
    bound = [name for node in ast.walk(tree) for name in _bound(node)]
    names = {name: f"name_{number}" for number, name in enumerate(dict.fromkeys(bound))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.name = names[node.name]
        elif isinstance(node, ast.arg):
            node.arg = names[node.arg]
            node.annotation = None
        elif isinstance(node, ast.keyword) and node.arg is not None:
            node.arg = names.get(node.arg, node.arg)
    return ast.unparse(tree)


def _bound(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()):
            return [name]
        case _:
            return []
