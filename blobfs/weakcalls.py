"""Calls of an object that do not keep it alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

P = ParamSpec("P")
T = TypeVar("T")


def weakly(method: Callable[P, T]) -> Callable[P, T]:
    """Call the bound *method* without a reference to its object, which must outlive the calls.

    A part that calls back its whole makes a cycle, which only a full garbage collection ends. A
    mount runs none, because it would stop for 160 ms.
    """
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        found = reference()
        if found is None:
            raise ReferenceError("the object of this call is gone")
        return found(*args, **kwargs)

    return call
