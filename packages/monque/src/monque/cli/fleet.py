"""`monque instances|drain|undrain|pause|resume|paused`: seeing who works, and directing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from monque.cli._connect import connected
from monque.cli._options import HERE, Duration, Json, Server
from monque.cli._output import Output
from monque.cli._times import shown_time

if TYPE_CHECKING:
    from monque import Instance, Pause

INSTANCE_COLUMNS = ("id", "status", "host", "pid", "started", "heard", "running", "workers")
_PAUSE_COLUMNS = ("name", "since", "until", "reason")


def instance_row(instance: Instance) -> tuple[object, ...]:
    """An instance in a table."""
    return (
        instance.id,
        instance.status,
        instance.host,
        str(instance.pid),
        instance.started_at,
        instance.last_beat,
        instance.running_count,
        ", ".join(f"{name} {concurrency}" for name, concurrency in instance.workers.items()),
    )


async def instances(*, server: Server = HERE, json: Json = False) -> None:
    """List the instances that work, and what they are doing.

    One that has vanished without a word is listed as missing for an hour.

    Examples:
        monque instances
        monque instances --json | jq '.running'

    Args:
        json: Print each instance as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        found = await monque.fleet.instances()
    if json:
        for instance in found:
            out.document(instance)
    else:
        out.table(INSTANCE_COLUMNS, map(instance_row, found))


async def drain(instance: str, /, *, server: Server = HERE, json: Json = False) -> int:
    """Let an instance claim nothing more. What it runs goes on, and it stays alive.

    Examples:
        monque drain 0d3f6a5e-5c0e-4d9f-9d0a-3a3c1d2b7f10

    Args:
        instance: Its id, as `monque instances` shows it.
        json: Print what came of it as a JSON object.
        server: Where.
    """
    async with connected(server) as monque:
        is_there = await monque.fleet.drain(instance)
    unknown = f"there is no instance {instance}; see `monque instances`"
    return _told(
        {"id": instance, "done": is_there}, f"{instance} drains" if is_there else unknown, Output(as_json=json)
    )


async def undrain(instance: str, /, *, server: Server = HERE, json: Json = False) -> int:
    """Let an instance claim jobs again.

    Examples:
        monque undrain 0d3f6a5e-5c0e-4d9f-9d0a-3a3c1d2b7f10

    Args:
        instance: Its id, as `monque instances` shows it.
        json: Print what came of it as a JSON object.
        server: Where.
    """
    async with connected(server) as monque:
        is_there = await monque.fleet.undrain(instance)
    unknown = f"there is no instance {instance}; see `monque instances`"
    return _told(
        {"id": instance, "done": is_there}, f"{instance} works again" if is_there else unknown, Output(as_json=json)
    )


def _told(facts: dict[str, object], words: str, out: Output) -> int:
    """Say what came of it; the exit code."""
    if not facts["done"]:
        out.warn(words)
    if out.as_json:
        out.document(facts)
    elif facts["done"]:
        out.line(words)
    return int(not facts["done"])


async def pause(
    name: str,
    /,
    *,
    for_: Annotated[Duration | None, Parameter(name="--for")] = None,
    reason: str | None = None,
    server: Server = HERE,
    json: Json = False,
) -> None:
    """Let no instance claim jobs of a name. They stay pending, and runs that have begun go on.

    Examples:
        monque pause send-email --for 10m --reason "the mail server is down"

    Args:
        name: The name of the jobs.
        for_: For how long; without it until `monque resume`.
        reason: Why, for others to see.
        json: Print the pause as a JSON object.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        made = await monque.fleet.pause(name, for_, reason)
    if json:
        out.document(made)
    else:
        out.line(f"{name} is paused" + (f" until {shown_time(made.until)}" if made.until else ""))


async def resume(name: str, /, *, server: Server = HERE, json: Json = False) -> int:
    """Let jobs of a name be claimed again.

    Examples:
        monque resume send-email

    Args:
        name: The name of the jobs.
        json: Print what came of it as a JSON object.
        server: Where.
    """
    async with connected(server) as monque:
        was_paused = await monque.fleet.resume(name)
    words = f"{name} is no longer paused" if was_paused else f"{name} was not paused; see `monque paused`"
    return _told({"name": name, "done": was_paused}, words, Output(as_json=json))


async def paused(*, server: Server = HERE, json: Json = False) -> None:
    """List the names that are paused.

    Examples:
        monque paused

    Args:
        json: Print each pause as a JSON object on a line of its own.
        server: Where.
    """
    out = Output(as_json=json)
    async with connected(server) as monque:
        found = await monque.fleet.paused()
    if json:
        for each in found:
            out.document(each)
    else:
        out.table(_PAUSE_COLUMNS, map(_pause_row, found))


def _pause_row(each: Pause) -> tuple[object, ...]:
    return (each.name, each.since, each.until, each.reason)
