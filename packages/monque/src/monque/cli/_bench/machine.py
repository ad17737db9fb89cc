"""Where it was measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pymongo

if TYPE_CHECKING:
    from monque.cli._bench.place import Place


async def machine(place: Place) -> dict[str, Any]:
    """What the figures depend on, as far as it can be told from here."""
    client = place.database.client
    about = await client.server_info()
    return {
        "monque": version("monque"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "mongodb": about["version"],
        "topology": client.topology_description.topology_type_name,
        "driver": f"pymongo {pymongo.version}",
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same for people."""
    return (
        f"Monque {machine['monque']}, {machine['python']}, {machine['driver']}, MongoDB {machine['mongodb']} "
        f"({machine['topology']}), {machine['system']}, {machine['cores']} cores, "
        f"load average {machine['load_average'][0]} before"
    )
