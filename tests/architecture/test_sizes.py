"""Budgets of size: what does not fit on a page is not understood on one."""

import ast

_FUNCTION_LINES, _PARAMETERS = 40, 6
_FILE_LINES, _PLUGIN_LINES, _LOOP_LINES = 350, 150, 120
# What may be larger, and why. An entry that is no longer needed fails the test.
_LONG_FUNCTIONS: dict[str, str] = {}
_MANY_PARAMETERS = {
    "edgeprune/api.py:compress": "the library's front door: each parameter is one decision of the caller",
    "edgeprune/api.py:shape": "likewise",
    "edgeprune/network/attention.py:forward": "stands in for torch's own multi-head attention",
}
_LONG_FILES: dict[str, str] = {}
_BROAD_EXCEPT = {
    "edgeprune/runtimes/_litert_convert.py": "a process of its own; the error is its answer to the one who asked",
}


def _functions(source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{source.path.as_posix()}:{node.name}", node


def _parameters(node):
    arguments = node.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([argument for argument in named if argument.arg not in {"self", "cls"}])


def test_functions_fit_on_a_page(sources):
    long = {
        name: node.end_lineno - node.lineno + 1
        for source in sources
        for name, node in _functions(source)
        if node.end_lineno - node.lineno + 1 > _FUNCTION_LINES
    }
    assert set(long) == set(_LONG_FUNCTIONS), long


def test_functions_take_few_parameters(sources):
    many = {
        name: _parameters(node)
        for source in sources
        for name, node in _functions(source)
        if _parameters(node) > _PARAMETERS and not (source.room == "commands" and node.name.endswith("command"))
    }
    assert set(many) == set(_MANY_PARAMETERS), many


def test_files_stay_small(sources):
    long = {
        source.path.as_posix(): lines
        for source in sources
        if (lines := source.text.count("\n")) > (_PLUGIN_LINES if source.is_plugin else _FILE_LINES)
    }
    assert set(long) == set(_LONG_FILES), long


def test_the_loop_is_one_page(sources):
    (loop,) = [source for source in sources if source.path.as_posix() == "edgeprune/loop.py"]
    assert loop.text.count("\n") <= _LOOP_LINES


def test_nothing_swallows_errors_or_asserts_or_prints(sources):
    wrong = []
    for source in sources:
        for node in ast.walk(source.tree):
            broad = isinstance(node, ast.ExceptHandler) and (
                node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
            )
            excused = source.path.as_posix() in _BROAD_EXCEPT
            if broad and not excused and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                wrong.append(f"{source.path}:{node.lineno}: swallows every error")
            if isinstance(node, ast.Assert):
                wrong.append(f"{source.path}:{node.lineno}: assert is no error for a user")
            if isinstance(node, ast.FunctionDef) and "ratio" in node.name.split("_"):
                wrong.append(f"{source.path}:{node.lineno}: {node.name}: say kept counts")
    assert wrong == []
