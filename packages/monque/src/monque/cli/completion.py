"""`monque completion`: what a shell has to know to complete command lines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from cyclopts import App

_Shell = Literal["bash", "zsh", "fish"]


def command_of(app: App) -> Callable[[_Shell], None]:
    """The command that prints how to complete the others of an app."""

    def completion(shell: _Shell, /) -> None:
        """Print a script that lets a shell complete commands and options.

        Examples:
            monque completion bash > ~/.local/share/bash-completion/completions/monque
            monque completion zsh > ~/.zfunc/_monque     # a directory in $fpath
            monque completion fish > ~/.config/fish/completions/monque.fish

        Args:
            shell: Which shell.
        """
        sys.stdout.write(app.generate_completion(shell=shell))

    return completion
