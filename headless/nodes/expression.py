"""ComfyUI's core node that computes a formula, for the embedded host: a few kinds of syntax, and nothing else, run.

Texts and attributes (`a.real`), which ComfyUI reads too, are not computed.
"""

from __future__ import annotations

import ast
import math
import operator
import string
from collections.abc import Callable, Mapping
from typing import Any

from ..api import comfy_io as io
from ..api.dynamic_io import Autogrow, MultiType
from .declared import Nodes

NODES = Nodes("utilities")
LONGEST = 10_000  # characters
MOST_BITS = 100_000  # of a whole number on the way
MOST_EXPONENT = 4000  # of pow()

UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Invert: operator.invert,
}
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda value, among: value in among,
    ast.NotIn: lambda value, among: value not in among,
}


def _total(*values: Any) -> Any:
    return sum(values[0]) if len(values) == 1 and isinstance(values[0], list) else sum(values)


def _power(base: float, exponent: float) -> Any:
    if abs(exponent) > MOST_EXPONENT:
        raise ValueError(f"the exponent {exponent} is larger than {MOST_EXPONENT}")
    return _binary(ast.Pow, base, exponent)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _total,
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "pow": _power,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "int": int,
    "float": float,
}


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """Return what a formula gives for the values of its names.

    Raises ValueError for what is no formula, or costs too much; what the arithmetic raises comes through.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"the expression has {len(expression)} characters; at most {LONGEST} are computed")
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, names)
    except SyntaxError as error:
        raise ValueError(f"{expression!r} is no formula: {error.msg}") from None
    except (RecursionError, MemoryError):
        raise ValueError("the expression is nested too deep") from None


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return value
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp():
            return UNARY[type(node.op)](_value(node.operand, names))
        case ast.BinOp(op=op) if type(op) in BINARY:
            return _binary(type(op), _value(node.left, names), _value(node.right, names))
        case ast.BoolOp():
            return _first_that_decides(node, names)
        case ast.Compare(ops=ops) if all(type(op) in COMPARED for op in ops):
            return _compared(node, names)
        case ast.IfExp():
            return _value(node.body if _value(node.test, names) else node.orelse, names)
        case ast.Subscript():
            return _value(node.value, names)[_place(node.slice, names)]
        case ast.Call(func=ast.Name(id=name)) if name in FUNCTIONS:
            named = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
            return FUNCTIONS[name](*(_value(argument, names) for argument in node.args), **named)
    raise ValueError(
        f"{ast.unparse(node)[:80]!r} is not computed here; there are numbers, + - * / // % **, comparisons, "
        f"if else, the names {', '.join(names)} and the functions {', '.join(FUNCTIONS)}"
    )


def _binary(kind: type[ast.operator], left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int) and _bits(kind, left, right) > MOST_BITS:
        raise ValueError(f"a number on the way would have more than {MOST_BITS} bits")
    if isinstance(left, list) or isinstance(right, list):
        raise ValueError("there is no arithmetic with all values at once; name them, or take values[0]")
    return BINARY[kind](left, right)


def _bits(kind: type[ast.operator], left: int, right: int) -> int:
    """Return about how many bits the result has at most."""
    if kind is ast.Pow:
        return left.bit_length() * max(right, 0) if abs(left) > 1 else 1
    if kind is ast.LShift:
        return left.bit_length() + max(right, 0)
    return left.bit_length() + right.bit_length() if kind is ast.Mult else 0


def _first_that_decides(node: ast.BoolOp, names: Mapping[str, Any]) -> Any:
    ends_at = isinstance(node.op, ast.Or)
    value: Any = None
    for part in node.values:
        value = _value(part, names)
        if bool(value) == ends_at:
            break
    return value


def _compared(node: ast.Compare, names: Mapping[str, Any]) -> bool:
    left = _value(node.left, names)
    for op, part in zip(node.ops, node.comparators, strict=True):
        right = _value(part, names)
        if not COMPARED[type(op)](left, right):
            return False
        left = right
    return True


def _place(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Slice):
        return slice(*(part and _value(part, names) for part in (node.lower, node.upper, node.step)))
    return _value(node, names)


@NODES.add(
    "ComfyMathExpression",
    "Math Expression",
    [
        io.String.Input("expression", default="a + b", multiline=True, tooltip="A formula with the names below."),
        Autogrow.Input(
            "values",
            Autogrow.TemplateNames(
                MultiType.Input("value", [io.Float, io.Int, io.Boolean], tooltip="A number."),
                list(string.ascii_lowercase),
                min=1,
            ),
            tooltip="The numbers a, b, c, ...; `values` is the list of them.",
        ),
    ],
    io.Float.Output(display_name="FLOAT"),
    io.Int.Output(display_name="INT"),
    io.Boolean.Output(display_name="BOOL"),
)
def comfy_math_expression(expression: str, values: Mapping[str, Any]) -> tuple[float, int, bool]:
    """Compute a formula."""
    if not expression.strip():
        raise ValueError("the expression is empty")
    result = evaluate(expression, {**values, "values": list(values.values())})
    if not isinstance(result, (int, float)):
        raise ValueError(f"{expression!r} gives no number, but a {type(result).__name__}")
    try:
        number = float(result)
    except OverflowError:
        raise ValueError(f"{expression!r} gives a number that is too large") from None
    if not math.isfinite(number):
        raise ValueError(f"{expression!r} gives {result}, which is not finite")
    return number, int(result), bool(result)
