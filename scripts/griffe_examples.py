"""An extension of Griffe, which reads docstrings for the site: the heading `Example` is one for examples, too."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?P<indent>\s*)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Lets programs in docstrings be shown as programs."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:  # noqa: ANN401, D102
        if obj.name.startswith("__"):
            obj.public = False  # how an object behaves is said where it is described
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\g<indent>Examples:", obj.docstring.value)
