"""A reader of execution traces: follows the program's own syntax tree (`ast`), and shares no code with the writer."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

from latentpad.tasks import ScratchpadError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_STEPS = 1000


def read_compact(program: list[str], found: list[str]) -> int:
    """The last value of `a` in the steps of a terse trace (`a+=2#8`), each checked. Raises `ScratchpadError`."""
    steps = list(follow(ast.parse("\n".join(program)).body[:-1], {}, program))
    check_steps(iter([(f"{line.strip()}#{','.join(map(str, s.values()))}", line) for line, s in steps]), found)
    return steps[-1][1]["a"]


def read_nye(program: list[str], found: list[str]) -> int:
    """The output in the last `state:` of the paper's trace, each line checked. Raises `ScratchpadError`."""
    function, call = ast.parse("\n".join(program)).body[:2]
    if not (isinstance(function, ast.FunctionDef) and isinstance(call, ast.Assign)):
        raise ScratchpadError("the question holds no function and call")
    start = {"v0": int(ast.unparse(call.value)[2:-1])}
    steps = list(follow(function.body[:-1], dict(start), program))
    frame, output = {"f": "<callable_object f>"}, steps[-1][1]["v0"]
    states = [frame, start, *(state for _, state in steps), frame | {"output": output}]
    around = [program[node.lineno - 1] for node in (function, call, function.body[-1])]
    executed = [*around[:2], *(line for line, _ in steps), around[2]]
    text = ["state: {}"]
    for line, state in zip(executed, states, strict=True):
        text += [f"line: {line}", f"state: {json.dumps(state)}"]
    check_steps(iter([(part, part) for part in text]), found)
    return output


def follow(nodes: list[ast.stmt], state: dict[str, int], lines: list[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Each executed line (indentation kept) with the variables after it. `state` changes as it goes.

    Raises:
        ScratchpadError: the program holds something that this reader does not follow.
    """
    for node in nodes:
        line = lines[node.lineno - 1]
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                state[name] = evaluate(value, state)
                yield line, dict(state)
            case ast.AugAssign(target=ast.Name(id=name), op=op, value=value):
                state[name] = evaluate(ast.BinOp(ast.Name(name, ast.Load()), op, value), state)
                yield line, dict(state)
            case ast.While(test=test, body=body, orelse=[]):
                while True:
                    holds = evaluate(test, state)
                    yield line, dict(state)
                    if not holds:
                        break
                    yield from follow(body, state, lines)
            case ast.If(test=test, body=body, orelse=other):
                holds = evaluate(test, state)
                yield line, dict(state)
                yield from follow(body if holds else other, state, lines)
            case _:
                raise ScratchpadError(f"the program's line {line.strip()[:60]!r} is not one that this reader follows")


def evaluate(node: ast.expr, state: dict[str, int]) -> int:
    """The value of an integer expression or a comparison of two (as 0 or 1)."""
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate(operand, state)
        case ast.Name(id=name) if name in state:
            return state[name]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return evaluate(left, state) + evaluate(right, state)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return evaluate(left, state) - evaluate(right, state)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return evaluate(left, state) * evaluate(right, state)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return int(_compare(op, evaluate(left, state) - evaluate(right, state)))
        case _:
            raise ScratchpadError(f"the program's expression {ast.unparse(node)[:60]!r} is not one that is followed")


def _compare(op: ast.cmpop, difference: int) -> bool:
    match op:
        case ast.Lt():
            return difference < 0
        case ast.LtE():
            return difference <= 0
        case ast.Gt():
            return difference > 0
        case ast.GtE():
            return difference >= 0
        case _:
            raise ScratchpadError(f"the comparison {type(op).__name__} is not one that is followed")


def check_steps(expected: Iterator[tuple[str, str]], found: list[str]) -> None:
    """Compare what was written with what must be, step by step.

    Args:
        expected: for each step, its text and the line of the program that it belongs to.
        found: the steps of a scratchpad.

    Raises:
        ScratchpadError: a step differs, is missing or is one too many.
    """
    number = 0
    for number, (text, line) in enumerate(expected, 1):
        if number > len(found):
            raise ScratchpadError(f"step {number} is missing: {line.strip()!r} is executed")
        if found[number - 1] != text:
            raise ScratchpadError(f"step {number}: {found[number - 1][:80]!r} is not what {line.strip()!r} does")
        if number > MAX_STEPS:
            raise ScratchpadError(f"more than {MAX_STEPS} steps")
    if number < len(found):
        raise ScratchpadError(f"step {number + 1}: {found[number][:80]!r} comes after the end")
