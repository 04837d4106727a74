"""Finding a user's own function, written as ``module:function``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from lpcc.errors import UsageError


def is_entry(text: str) -> bool:
    """Whether `text` has the form ``module:function``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", text) is not None


def user_function(text: str) -> Callable[..., Any]:
    """The function that ``module:function`` names; modules in the current folder count. Raises UsageError."""
    if not is_entry(text):
        raise UsageError(f"{text}: is no `module:function`")
    module_name, _, name = text.partition(":")
    try:
        with _here():
            module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{text}: no module `{error.name}`; looked in {Path.cwd()} and the installed packages"
        ) from None
    except (Exception, SystemExit) as error:  # whatever the user's module raises while it is imported
        raise UsageError(f"{text}: importing `{module_name}` failed: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if function is None:
        raise UsageError(f"{text}: module `{module_name}` has no `{name}`")
    if not callable(function):
        raise UsageError(f"{text}: `{name}` is no function")
    return function  # type: ignore[no-any-return]


@contextmanager
def _here() -> Iterator[None]:
    """Let modules of the current folder be imported, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
