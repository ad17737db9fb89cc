from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from monque.cli._app import run

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def monque(capsys: Any, monque_environment: str) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line in this process: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = run(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return command


def test_pausing_and_resuming(monque: Callable[..., tuple[int, str, str]]) -> None:
    assert monque("pause", "mail") == (0, "mail is paused\n", "")
    code, out, _ = monque("pause", "report", "--for", "10m", "--reason", "the printer burns")
    assert (code, out.startswith("report is paused until 20")) == (0, True)
    code, out, _ = monque("paused")
    assert [line.split("\t")[0::3] for line in out.splitlines()] == [["mail", ""], ["report", "the printer burns"]]
    code, out, _ = monque("paused", "--json")
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["mail", "report"]
    assert monque("resume", "mail") == (0, "mail is no longer paused\n", "")
    assert monque("resume", "mail") == (1, "", "monque: mail was not paused; see `monque paused`\n")
    code, out, err = monque("resume", "mail", "--json")
    assert (code, json.loads(out), "was not paused" in err) == (1, {"name": "mail", "done": False}, True)
    code, out, _ = monque("resume", "report", "--json")
    assert (code, json.loads(out)) == (0, {"name": "report", "done": True})
    code, out, _ = monque("pause", "mail", "--for", "1h", "--json")
    assert (code, json.loads(out)["name"], "until" in json.loads(out)) == (0, "mail", True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("pause",), "NAME"),
        (("pause", "two words"), "white space"),
        (("pause", "mail", "--for", "ever"), "expected a length of time"),
        (("pause", "mail", "--for", "0s"), "more than 0"),
        (("pause", "mail", "--reason", "x" * 1001), "reason"),
        (("resume", "two words"), "white space"),
        (("drain",), "INSTANCE"),
        (("paused", "mail"), "mail"),
    ],
)
def test_what_they_do_not_take(
    monque: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = monque(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_instances_and_draining(
    monque: Callable[..., tuple[int, str, str]], start: Callable[..., Any], tmp_path: Any
) -> None:
    (tmp_path / "app.py").write_text(
        "from monque import Monque\nmonque = Monque()\n@monque.worker('mail', concurrency=3)\ndef mail() -> None: ...\n"
    )
    assert monque("instances") == (0, "", "")
    worker = start("worker", "app:monque", cwd=tmp_path)
    until(lambda: monque("instances")[1])
    (line,) = monque("instances")[1].splitlines()
    instance, status, *_, running, workers = line.split("\t")
    assert (status, running, workers) == ("working", "0", "mail 3")

    assert monque("drain", instance) == (0, f"{instance} drains\n", "")
    until(lambda: "draining" in monque("instances")[1])
    assert monque("undrain", instance) == (0, f"{instance} works again\n", "")
    until(lambda: json.loads(monque("instances", "--json")[1])["status"] == "working")
    for verb in ("drain", "undrain"):
        code, out, _ = monque(verb, instance, "--json")
        assert (code, json.loads(out)) == (0, {"id": instance, "done": True})
    worker.interrupt()
    assert worker.end().code == 0
    assert monque("instances") == (0, "", "")


@pytest.mark.parametrize("verb", ["drain", "undrain"])
def test_an_instance_that_is_not_there(monque: Callable[..., tuple[int, str, str]], verb: str) -> None:
    assert monque(verb, "nobody") == (1, "", "monque: there is no instance nobody; see `monque instances`\n")


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that runs an event loop of its own."""
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline
