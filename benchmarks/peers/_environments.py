"""An environment of its own for each peer, under `build/`, with exactly the versions that its folder names."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from _peers import Peer

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "peers"
_SECONDS = 300


class SetUpError(Exception):
    """A peer that cannot be set up is left out."""


class Environment(NamedTuple):
    """What starts a peer's program, and where."""

    command: tuple[str, ...]
    folder: Path


async def set_up(peer: Peer) -> Environment:
    folder = BUILD / peer.program.removesuffix(".py")
    folder.mkdir(parents=True, exist_ok=True)
    program = HERE / "programs" / peer.program
    if peer.program.endswith(".py"):
        return Environment((sys.executable, str(HERE / peer.program)), folder)
    return await (_node if (program / "package.json").exists() else _python)(program, folder)


async def _python(program: Path, folder: Path) -> Environment:
    uv = os.environ.get("UV", "uv")
    python = folder / "environment" / "bin" / "python"
    if not python.exists():
        await _run(folder, uv, "venv", "--quiet", "--python", sys.executable, str(python.parent.parent))
    requirements = str(program / "requirements.txt")
    await _run(folder, uv, "pip", "install", "--quiet", "--python", str(python), "--requirement", requirements)
    return Environment((str(python), str(program / "program.py")), folder)


async def _node(program: Path, folder: Path) -> Environment:
    """Node looks for packages beside a program, so the program goes where they are."""
    for source in (program / "package.json", program / "program.mjs", program.parent / "protocol.mjs"):
        shutil.copy(source, folder)
    await _run(folder, "npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
    return Environment(("node", "program.mjs"), folder)


async def _run(folder: Path, *command: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
    except OSError as error:
        raise SetUpError(f"{command[0]} cannot be started: {error}") from error
    try:
        async with asyncio.timeout(_SECONDS):
            said, _ = await process.communicate()
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise SetUpError(f"{command[0]} took more than {_SECONDS} s") from error
    if process.returncode:
        raise SetUpError(f"{command[0]} {command[1]}: " + said.decode(errors="replace").strip()[-300:])
