"""Loops of codecs 3 to 5 compiled by numba, for many numbers. Import this module only where numba is installed."""

from types import FunctionType, SimpleNamespace
from typing import Any

from tailcut.compiling import compile_inner, compile_loop
from tailcut.format.quantized import loops as plain

_OUTER = ("put_numbers", "get_numbers", "learn_numbers", "put_alike", "get_alike")


def _compiled() -> SimpleNamespace:
    """Return the compiled functions of `loops` by name; each calls the others compiled."""
    names = [name for name, value in vars(plain).items() if isinstance(value, FunctionType)]
    space: dict[str, Any] = dict(vars(plain))
    for name in names:
        function = getattr(plain, name)
        again = FunctionType(function.__code__, space, name, function.__defaults__)
        again.__qualname__, again.__module__ = name, __name__
        space[name] = compile_loop(again) if name in _OUTER else compile_inner(again)
    return SimpleNamespace(**{name: space[name] for name in names})


loops = _compiled()
put_numbers, get_numbers, learn_numbers = loops.put_numbers, loops.get_numbers, loops.learn_numbers
