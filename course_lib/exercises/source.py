"""Reading source: what a function is made of, and whether two programs are the same."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

Function = Callable[..., Any]


def same_code(first: str, second: str) -> bool:
    """Whether two sources are the same program: comments, blanks, docstrings do not count."""
    return fingerprint(ast.parse(textwrap.dedent(first))) == \
        fingerprint(ast.parse(textwrap.dedent(second)))


def source_of(fn: Function) -> str:
    """The code of a function or class as it stands in its file.

    Raises: OSError or TypeError where there is none.
    """
    return textwrap.dedent(inspect.getsource(inspect.unwrap(fn)))


def functions(source: str) -> dict[str, ast.FunctionDef]:
    """The functions that a source defines, by name."""
    tree = ast.parse(textwrap.dedent(source))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def fingerprint(tree: ast.AST) -> str:
    """The program as text, the same for two sources that differ in comments and docstrings only."""
    tree = ast.parse(ast.unparse(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def without_docstring(source: str) -> str:
    """A library function or class as a student reads it: its code, with the comments kept."""
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef | ast.ClassDef)
    if ast.get_docstring(definition) is None:
        return source
    lines = source.splitlines(keepends=True)
    docstring = definition.body[0]
    del lines[docstring.lineno - 1:docstring.end_lineno]
    return "".join(lines)


def imports(fn: Function, source: str) -> list[str]:
    """Import lines for every global that a function's source mentions."""
    used = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    lines = []
    for name in sorted(used & fn.__globals__.keys() - {fn.__name__, *fn.__code__.co_varnames}):
        value = fn.__globals__[name]
        if isinstance(value, types.ModuleType):
            lines.append(f"import {value.__name__}" if value.__name__ == name
                         else f"import {value.__name__} as {name}")
        else:
            home = getattr(value, "__module__", None) or fn.__module__
            if getattr(importlib.import_module(home), name, None) is not value:
                home = fn.__module__  # an alias, or a constant: import it from where it is used
            lines.append(f"from {home} import {name}")
    return lines


def is_own(fn: Function) -> bool:
    """Whether a solution was written for its exercise, rather than taken from the library."""
    home = fn.__module__
    return not home.startswith("course_lib.") or home.startswith("course_lib.exercises.")
