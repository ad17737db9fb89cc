"""What instances are told: found at the cost of what is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from monque._store.orders import read_orders, told

if TYPE_CHECKING:
    from pymongo.database import Database


def test_what_an_instance_was_told_is_found_by_its_id_among_thousands(monque_database: Database[Any]) -> None:
    signs = [{"_id": f"instance:{number}", "draining": number == 1500} for number in range(3000)]
    fleet = monque_database.monque_jobs_fleet
    fleet.insert_many([*signs, {"_id": "pause:greet", "name": "greet"}, {"_id": "pause:odd"}])
    query, fields = told("1500")
    orders = read_orders(list(fleet.find(query, fields)))
    assert (orders.paused, orders.draining) == ({"greet": None}, True)
    find = {"find": fleet.name, "filter": query, "projection": fields}
    stats = monque_database.command({"explain": find, "verbosity": "executionStats"})["executionStats"]
    assert stats["nReturned"] == 3
    assert stats["totalKeysExamined"] <= 7
