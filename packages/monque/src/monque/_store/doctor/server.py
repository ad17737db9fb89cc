"""The server: which it is, and what it can do for a queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from monque._store.doctor.patient import aware, error, ok, span, warning, wording
from monque.options import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from monque._store.doctor.patient import Document, Patient
    from monque.diagnosis import Finding

_OLDEST = (6, 0)
_NO_STREAMS = 40573
_SHORT_OPLOG = timedelta(hours=1)
_SKEW = timedelta(seconds=1)
_WORKING = ("PRIMARY", "SECONDARY")


async def version(patient: Patient) -> list[Finding]:
    """Which MongoDB it is."""
    info = await patient.admin.command("buildInfo")
    return [_version(info["version"], tuple(info["versionArray"][:2]))]


async def compatibility(patient: Patient) -> list[Finding]:
    """Which MongoDB it behaves as."""
    text = (await patient.admin.command("buildInfo"))["version"]
    answer = await patient.admin.command("getParameter", 1, featureCompatibilityVersion=1)
    return [_compatibility(text, answer["featureCompatibilityVersion"]["version"])]


def _version(text: str, number: tuple[int, ...]) -> Finding:
    if number < _OLDEST:
        return error("server.version", seen=f"MongoDB {text}", advice="use MongoDB 6.0 or later")
    return ok("server.version", seen=f"MongoDB {text}")


def _compatibility(text: str, compatible: str) -> Finding:
    if not text.startswith(f"{compatible}."):
        advice = f"finish its upgrade: `setFeatureCompatibilityVersion` to {'.'.join(text.split('.')[:2])}"
        return warning("server.compatibility", seen=f"MongoDB {text} behaves as {compatible}", advice=advice)
    return ok("server.compatibility", seen=f"it behaves as {compatible}, what it is")


async def topology(patient: Patient) -> list[Finding]:
    """Whether there are change streams, transactions and fail-overs."""
    return [_topology(await patient.hello())]


def _topology(hello: Mapping[str, Any]) -> Finding:
    if hello.get("msg") == "isdbgrid":
        return ok("server.topology", seen="a sharded cluster")
    if "setName" not in hello:
        advice = "make it a replica set, if only of one member: `mongod --replSet`, then `rs.initiate()`"
        seen = "a standalone server: no change streams, no transactions, no fail-over"
        return warning("server.topology", seen=seen, advice=advice)
    number = len([*hello.get("hosts", ()), *hello.get("passives", ())])
    alone = "; should it go down, nothing can be enqueued or run until it is back" if number == 1 else ""
    return ok("server.topology", seen=f"replica set {hello['setName']!r} of {number} member(s) with data{alone}")


async def confirmation(patient: Patient) -> list[Finding]:
    """Whether a majority can confirm writes."""
    if "setName" not in await patient.hello():
        return []
    return [majority(await patient.admin.command("replSetGetStatus"))]


def majority(status: Mapping[str, Any]) -> Finding:
    """Whether a majority can confirm writes, by what `replSetGetStatus` says."""
    up = [member["name"] for member in status["members"] if member["stateStr"] in _WORKING]
    down = [f"{member['name']} is {member['stateStr']}" for member in status["members"] if member["name"] not in up]
    needed = status["writeMajorityCount"]
    seen = f"{len(up)} member(s) with data up, {needed} confirm a write"
    idle = [line for line in down if not line.endswith("ARBITER")]
    if len(up) < needed:
        advice = f"every enqueue, claim and settle waits: {', '.join(idle)}"
        return error("server.majority", seen=seen, advice=advice)
    if idle:
        return warning("server.majority", seen=seen, advice=f"see to them: {', '.join(idle)}")
    return ok("server.majority", seen=seen)


async def oplog(patient: Patient) -> list[Finding]:
    """How far back the oplog goes."""
    if "setName" not in await patient.hello():
        return []
    entries = patient.jobs.database.client.local["oplog.rs"]
    ends = [await entries.find_one({}, {"ts": 1, "o.msg": 1}, sort=[("$natural", way)]) for way in (1, -1)]
    first, last = (end for end in ends if end is not None)
    return [window(first, last)]


def window(first: Document, last: Document) -> Finding:
    """What the first and the last entry of an oplog tell."""
    length = timedelta(seconds=last["ts"].time - first["ts"].time)
    if first.get("o", {}).get("msg") == "initiating set":
        return ok("server.oplog", seen=f"it has everything since the replica set began, {span(length)}")
    seen = f"it goes back {span(length)}"
    if length < _SHORT_OPLOG:
        advice = "a member that is down for longer has to be set up anew: make it larger with `replSetResizeOplog`"
        return warning("server.oplog", seen=seen, advice=advice)
    return ok("server.oplog", seen=seen)


async def stream(patient: Patient) -> list[Finding]:
    """Whether a change stream can be opened."""
    jobs = patient.jobs.with_options(read_concern=ReadConcern("majority"))
    try:
        async with await jobs.watch([{"$match": {"operationType": "none"}}], max_await_time_ms=1):
            pass
    except OperationFailure as problem:
        instead = f"jobs are found by polling, every {seconds(patient.options.polling.interval):g} s"
        if problem.code == _NO_STREAMS:
            return [warning("server.stream", seen=f"no change streams: {instead}", advice="they need a replica set")]
        advice = "let the user read the collection with the actions `find` and `changeStream`"
        return [warning("server.stream", seen=f"no change stream: {wording(problem)}; {instead}", advice=advice)]
    return [ok("server.stream", seen="a change stream can be opened: new jobs start at once")]


async def clock(patient: Patient) -> list[Finding]:
    """How far this machine's clock is from the server's."""
    readings: list[tuple[timedelta, timedelta]] = []
    for _ in range(3):
        asked = datetime.now(UTC)
        said = aware((await patient.hello())["localTime"])
        answered = datetime.now(UTC)
        readings.append((answered - asked, said - (asked + (answered - asked) / 2)))
    took, skew = min(readings)
    if abs(skew) - took <= _SKEW:
        apart = (abs(skew) + took) / timedelta(milliseconds=1)
        return [ok("clock", seen=f"this machine's and the server's are within {apart:,.0f} ms of each other")]
    way = "ahead of" if skew < timedelta() else "behind"
    advice = "Monque goes by the server's; times that your own code takes from this machine's are off: set it (NTP)"
    return [warning("clock", seen=f"this machine's is {span(skew)} {way} the server's", advice=advice)]
