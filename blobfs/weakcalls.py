"""Bound methods that do not keep their object alive."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakMethod

P = ParamSpec("P")
T = TypeVar("T")


def weakly(method: Callable[P, T]) -> Callable[P, T]:
    """Wrap the bound *method* without a strong reference to its object.

    A callback to the owner of an object makes a reference cycle, which only a full garbage
    collection frees. A mount runs none, because it would pause for 160 ms. The wrapper raises
    ReferenceError after the end of the object.
    """
    reference = WeakMethod(method)

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        found = reference()
        if found is None:
            raise ReferenceError("the object of this call is gone")
        return found(*args, **kwargs)

    return call
