from __future__ import annotations

import asyncio
import functools
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from monque import _child, _processes
from monque._child import Child, Interrupt, PackedError, Raised, Returned, Task, Told, Unsendable
from monque._processes import ProcessPool, ProcessRun, Reference
from monque.errors import HandlerError, InvalidArgumentError, InvalidResultError, ProcessDiedError
from monque.testing import eventually

from . import process_handlers

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator

PATIENCE = 60
AROUND = "process_handlers:around"


@pytest.fixture(autouse=True)
def _handlers_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])


@pytest.fixture(scope="module")
def shared_pool() -> Generator[ProcessPool]:
    """Starting a process takes half a second, so that tests share those that are left idle."""
    pool = ProcessPool(AROUND, keep=2)
    yield pool
    asyncio.run(pool.close())


@pytest.fixture
async def pool(shared_pool: ProcessPool) -> AsyncGenerator[ProcessPool]:
    yield shared_pool
    for run in shared_pool._busy:
        run.kill()
    while shared_pool._threads:
        await asyncio.wait(shared_pool._threads)


class Begun:
    """A run of one of the handlers, with what it has told so far."""

    def __init__(self, pool: ProcessPool, handler: str, *arguments: object, **context: object) -> None:
        self.told: list[Any] = []
        reference = Reference("process_handlers", handler)
        self.run: ProcessRun = pool.start(reference, arguments, context=context, heard=self.told.append)

    async def until_told(self, count: int = 1) -> list[Any]:
        await eventually(lambda: len(self.told) >= count or self.run.done.done(), timeout=PATIENCE)
        assert len(self.told) >= count, self.run.done
        return self.told

    async def result(self) -> Any:
        return await asyncio.wait_for(asyncio.shield(self.run.done), PATIENCE)

    async def error(self) -> BaseException:
        await asyncio.wait([self.run.done], timeout=PATIENCE)
        error = self.run.done.exception()
        assert error is not None
        return error


async def call(pool: ProcessPool, handler: str, *arguments: object) -> Any:
    return await Begun(pool, handler, *arguments).result()


def is_running(process: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in {"", "Z"}


async def until_ended(*processes: int) -> None:
    await eventually(lambda: not any(map(is_running, processes)), timeout=PATIENCE, poll=0.05)


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


# --- references -----------------------------------------------------------------------------------------------------


class Callable_:  # noqa: N801
    def __call__(self) -> None: ...


def nested() -> Callable[[], None]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda: None, "a lambda"),
        (nested(), "a nested function"),
        (process_handlers.Namespace().method, "a bound method"),
        (functools.partial(process_handlers.double, 1), "an object of type partial"),
        (Callable_(), "an object of type Callable_"),
    ],
    ids=["lambda", "nested", "method", "partial", "object"],
)
def test_a_function_that_no_other_process_finds_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"got {problem} .*top level of a module"):
        Reference.of(function)


def test_a_reference_names_the_function() -> None:
    assert Reference.of(os.path.join) == Reference("posixpath", "join")
    inside = Reference.of(process_handlers.Namespace.inside)
    assert inside.qualname == "Namespace.inside"
    assert inside.module == process_handlers.__name__


@pytest.mark.parametrize(("qualname", "result"), [("double", 20), ("decorated", 11), ("Namespace.inside", 12)], ids=str)
def test_a_reference_leads_to_the_function_behind_a_worker_too(qualname: str, result: int) -> None:
    assert Reference("process_handlers", qualname).resolve()(10) == result


def test_a_name_that_is_not_there_is_reported() -> None:
    with pytest.raises(LookupError, match=r"no 'Namespace.outside' in the module 'process_handlers'.*top level"):
        Reference("process_handlers", "Namespace.outside").resolve()


# --- running --------------------------------------------------------------------------------------------------------


async def test_the_result_comes_back_from_another_process(pool: ProcessPool) -> None:
    assert await call(pool, "double", 21) == 42
    assert await call(pool, "process_id") != os.getpid()


async def test_context_and_arguments_reach_the_handler(pool: ProcessPool) -> None:
    begun = Begun(pool, "context_and_arguments", 1, {"two": [3]}, job="a", attempt=2)
    assert await begun.result() == ({"job": "a", "attempt": 2}, 1, {"two": [3]})


async def test_what_the_handler_tells_is_heard_in_order_and_before_the_result(pool: ProcessPool) -> None:
    begun = Begun(pool, "count_aloud", 100, farewell=True)
    heard_by_then: list[Any] = []
    begun.run.done.add_done_callback(lambda _: heard_by_then.extend(begun.told))
    assert await begun.result() == "done"
    assert heard_by_then == [*range(100), "left"]


async def test_a_thread_of_the_handler_can_tell_something(pool: ProcessPool) -> None:
    begun = Begun(pool, "tell_from_a_thread")
    await begun.result()
    assert begun.told == ["from a thread"]


async def test_what_an_earlier_handler_left_behind_is_not_heard(pool: ProcessPool, tmp_path: Path) -> None:
    first = Begun(pool, "leave_a_thread_that_tells", str(tmp_path))
    process = await first.result()
    (tmp_path / "speak").touch()
    await eventually((tmp_path / "spoken").exists, timeout=PATIENCE)
    second = Begun(pool, "process_id")
    assert await second.result() == process
    assert (first.told, second.told) == ([], [])


async def test_a_process_is_used_again(pool: ProcessPool) -> None:
    assert len({await call(pool, "process_id") for _ in range(5)}) == 1


async def test_runs_that_overlap_have_processes_of_their_own(pool: ProcessPool) -> None:
    runs = [Begun(pool, "sleep_aloud", 600) for _ in range(3)]
    assert len({(await run.until_told())[0] for run in runs}) == 3


async def test_a_function_of_the_program_itself_can_be_run(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import asyncio, os
from contextlib import nullcontext
from monque._processes import ProcessPool, Reference

def around(context, tell):
    return nullcontext()

def double(number):
    return 2 * number, os.getpid()

async def main():
    pool = ProcessPool("__main__:around")
    result, process = await pool.start(Reference.of(double), (21,), context={}, heard=print).done
    print(result, process != os.getpid())
    await pool.close()

if __name__ == "__main__":
    asyncio.run(main())
""")
    command = [sys.executable, str(program)]
    done = await asyncio.to_thread(
        lambda: subprocess.run(command, timeout=PATIENCE, check=True, capture_output=True, text=True)
    )
    assert (done.stdout, done.stderr) == ("42 True\n", "")


# --- raising --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "expected", "text"),
    [("plain", ValueError, "wrong"), ("exit", SystemExit, "3"), ("interrupt", KeyboardInterrupt, "now")],
    ids=["plain", "exit", "interrupt"],
)
async def test_what_the_handler_raises_comes_back_with_its_traceback(
    pool: ProcessPool, kind: str, expected: type[BaseException], text: str
) -> None:
    error = await Begun(pool, "fail", kind).error()
    assert type(error) is expected
    assert str(error) == text
    assert "process_handlers.py" in error.__notes__[0]
    assert "_child.py" not in error.__notes__[0]
    assert await call(pool, "double", 1) == 2


async def test_stop_iteration_comes_back_as_a_cause(pool: ProcessPool) -> None:
    error = await Begun(pool, "fail", "stop").error()
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__cause__, StopIteration)


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [("fussy", "FussyError", "no, because this"), ("textless", "TextlessError", "(its text could not be had)")],
    ids=["fussy", "textless"],
)
async def test_an_exception_that_cannot_travel_is_described(pool: ProcessPool, kind: str, name: str, text: str) -> None:
    error = await Begun(pool, "fail", kind).error()
    assert isinstance(error, HandlerError)
    assert (error.type_name, error.message) == (f"process_handlers.{name}", text)
    assert str(error) == f"process_handlers.{name}: {text}"
    assert "in fail" in error.traceback
    assert error.traceback in error.__notes__[0]


@pytest.mark.parametrize(
    ("error", "text"),
    [(process_handlers.FussyError("no", "this"), "no, because this"), (process_handlers.TextlessError(), "(its text")],
    ids=["fussy", "textless"],
)
def test_an_exception_that_does_not_survive_pickling_is_packed_as_a_description(error: Exception, text: str) -> None:
    packed = PackedError.of(error)
    assert packed.pickled is None
    assert packed.message.startswith(text)
    assert isinstance(packed.open(), HandlerError)


def test_an_exception_that_does_not_arrive_is_described() -> None:
    garbled = PackedError(b"garbled", "there.Error", "why", "where")
    something_else = PackedError(pickle.dumps("text"), "there.Error", "why", "where")
    assert [str(packed.open()) for packed in (garbled, something_else)] == ["there.Error: why"] * 2


async def test_a_handler_that_is_not_there_fails_its_run(pool: ProcessPool) -> None:
    assert "no 'nobody'" in str(await Begun(pool, "nobody").error())


async def test_a_result_that_cannot_be_pickled_is_an_error_that_says_so(pool: ProcessPool) -> None:
    error = await Begun(pool, "return_something_unsendable").error()
    assert isinstance(error, InvalidResultError)
    assert error.type_name == "lock"
    assert "the handler returned lock, which cannot be brought out of its process (cannot pickle" in str(error)


async def test_a_result_that_cannot_be_unpickled_is_an_error_that_says_so(pool: ProcessPool) -> None:
    error = await Begun(pool, "return_something_for_nobody").error()
    assert isinstance(error, InvalidResultError)
    assert "LookupError: not here" in str(error)
    assert await call(pool, "double", 1) == 2


async def test_arguments_that_cannot_be_pickled_are_refused_at_the_call() -> None:
    pool = ProcessPool(AROUND)
    with pytest.raises(InvalidArgumentError, match="arguments: expected something that can be pickled"):
        Begun(pool, "double", threading.Lock())
    assert not pool._threads


async def test_telling_something_that_cannot_be_pickled_fails_in_the_handler(pool: ProcessPool) -> None:
    error = await Begun(pool, "tell_something_unsendable").error()
    assert "pickle" in str(error)
    assert "in tell_something_unsendable" in error.__notes__[0]


async def test_telling_something_that_cannot_be_unpickled_ends_that_run_and_its_process(pool: ProcessPool) -> None:
    process = await call(pool, "process_id")
    error = await Begun(pool, "tell_something_for_nobody").error()
    assert isinstance(error, LookupError)
    assert not is_running(process)
    assert await call(pool, "double", 1) == 2


# --- dying ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "number", "exit_code", "by", "text"),
    [
        ("exit_at_once", 0, 0, None, "ended with exit code 0 before"),
        ("exit_at_once", 3, 3, None, "ended with exit code 3 before"),
        ("die_of", signal.SIGKILL, None, signal.SIGKILL, "killed by SIGKILL; .*memory"),
        ("die_of", signal.SIGABRT, None, signal.SIGABRT, "killed by SIGABRT$"),
    ],
    ids=["exit-0", "exit-3", "kill", "abort"],
)
async def test_a_process_that_dies_fails_its_run(
    pool: ProcessPool, handler: str, number: int, exit_code: int | None, by: int | None, text: str
) -> None:
    with pytest.raises(ProcessDiedError, match=text) as caught:
        await call(pool, handler, number)
    assert (caught.value.exit_code, caught.value.signal) == (exit_code, by)


def test_a_signal_without_a_name_has_its_number() -> None:
    assert str(ProcessDiedError(-40)) == "the process that ran the handler was killed by signal 40"


async def test_a_process_killed_from_outside_fails_its_run_alone(pool: ProcessPool, tmp_path: Path) -> None:
    waiting = Begun(pool, "catch_and_go_on", str(tmp_path))
    killed = Begun(pool, "sleep_aloud", 600)
    os.kill((await killed.until_told())[0], signal.SIGKILL)
    assert isinstance(await killed.error(), ProcessDiedError)

    await waiting.until_told()
    waiting.run.interrupt(TimeoutError("now"))
    (tmp_path / "go").touch()
    assert await waiting.result() == "went on"
    assert await call(pool, "double", 1) == 2


async def test_an_idle_process_that_was_killed_is_replaced(pool: ProcessPool) -> None:
    process = await call(pool, "process_id")
    os.kill(process, signal.SIGKILL)
    await until_ended(process)
    assert await call(pool, "process_id") != process


async def test_a_process_whose_pipe_is_in_other_hands_is_found_dead(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("monque._processes._GRACE", 0.1)
    begun = Begun(pool, "die_with_the_pipe_in_other_hands")
    try:
        assert isinstance(await begun.error(), ProcessDiedError)
    finally:
        os.kill(begun.told[0], signal.SIGKILL)


async def test_a_process_that_cannot_be_started_fails_its_run() -> None:
    pool = ProcessPool(AROUND)
    multiprocessing.set_executable("/nowhere/python")
    try:
        assert isinstance(await Begun(pool, "double", 1).error(), OSError | ProcessDiedError)
    finally:
        multiprocessing.set_executable(sys.executable)
    assert await call(pool, "double", 1) == 2
    await pool.close()


# --- interrupting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("handler", "arguments"), [("sleep_aloud", (600,)), ("compute_aloud", ()), ("chatter", ())])
async def test_an_interrupt_raises_its_exception_in_the_handler(
    pool: ProcessPool, handler: str, arguments: tuple[object, ...]
) -> None:
    begun = Begun(pool, handler, *arguments)
    await begun.until_told()
    begun.run.interrupt(TimeoutError("too long"))
    error = await begun.error()
    assert type(error) is TimeoutError
    assert str(error) == "too long"
    assert f"in {handler}" in error.__notes__[-1]
    assert await call(pool, "double", 1) == 2


async def test_an_interrupt_that_comes_before_the_handler_has_begun_is_not_lost(pool: ProcessPool) -> None:
    begun = Begun(pool, "sleep_aloud", 600)
    begun.run.interrupt(TimeoutError("too long"))
    assert isinstance(await begun.error(), TimeoutError)


async def test_an_interrupt_is_raised_once_at_most(pool: ProcessPool, tmp_path: Path) -> None:
    begun = Begun(pool, "catch_and_go_on", str(tmp_path))
    await begun.until_told()
    begun.run.interrupt(TimeoutError("first"))
    await begun.until_told(2)
    begun.run.interrupt(TimeoutError("second"))
    (tmp_path / "go").touch()
    assert await begun.result() == "went on"
    assert begun.told == ["ready", "caught first"]


async def test_an_interrupt_of_a_run_that_is_over_does_nothing(pool: ProcessPool) -> None:
    begun = Begun(pool, "process_id")
    process = await begun.result()
    begun.run.interrupt(TimeoutError("too late"))
    assert await call(pool, "process_id") == process


async def test_interrupts_that_come_as_runs_end_hit_no_other_run(pool: ProcessPool) -> None:
    for _ in range(200):
        first = Begun(pool, "double", 1)
        first.run.interrupt(TimeoutError("perhaps too late"))
        assert isinstance((await asyncio.gather(first.run.done, return_exceptions=True))[0], int | TimeoutError)
        assert await call(pool, "double", 2) == 4


# --- killing --------------------------------------------------------------------------------------------------------


async def test_a_killed_run_ends_with_its_process(pool: ProcessPool) -> None:
    begun = Begun(pool, "compute_aloud")
    await begun.until_told()
    begun.run.kill()
    error = await begun.error()
    assert isinstance(error, ProcessDiedError)
    assert error.signal == signal.SIGKILL
    assert await call(pool, "double", 1) == 2


async def test_a_run_killed_before_its_process_was_started_does_not_begin() -> None:
    pool = ProcessPool(AROUND)
    with _processes._children:
        begun = Begun(pool, "sleep_aloud", 600)
        begun.run.kill()
    error = await begun.error()
    assert isinstance(error, ProcessDiedError)
    assert error.signal == signal.SIGKILL
    assert begun.run.process._pid is None
    assert begun.told == []


async def test_killing_a_run_that_is_over_leaves_its_process_alone(pool: ProcessPool) -> None:
    begun = Begun(pool, "process_id")
    process = await begun.result()
    begun.run.kill()
    assert await call(pool, "process_id") == process


async def test_a_run_can_be_killed_where_there_are_no_process_groups(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "killpg")
    begun = Begun(pool, "compute_aloud")
    await begun.until_told()
    begun.run.kill()
    assert isinstance(await begun.error(), ProcessDiedError)


@pytest.mark.parametrize("handler", ["start_a_program", "start_a_family"])
async def test_what_a_handler_has_started_ends_with_it(pool: ProcessPool, handler: str) -> None:
    begun = Begun(pool, handler)
    program = (await begun.until_told())[0]
    begun.run.kill()
    await until_ended(program)


async def test_a_run_can_be_killed_when_nobody_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    pool = ProcessPool(AROUND)
    runs = [Begun(pool, "sleep_aloud", 600) for _ in range(2)]
    runs[0].run.done.cancel()
    for begun in list(runs):
        begun.run.kill()
    await pool.close()
    assert all(begun.run.done.done() for begun in runs)
    runs.clear()
    gc.collect()
    assert caplog.records == []


# --- the pool -------------------------------------------------------------------------------------------------------


async def test_idle_processes_beyond_what_is_kept_end() -> None:
    pool = ProcessPool(AROUND, keep=1)
    runs = [Begun(pool, "sleep_aloud", 0.2) for _ in range(3)]
    processes = [(await run.until_told())[0] for run in runs]
    await asyncio.gather(*(run.result() for run in runs))
    await eventually(lambda: sum(map(is_running, processes)) == 1, timeout=PATIENCE)
    await pool.close()
    assert not any(map(is_running, processes))


async def test_closing_ends_idle_and_busy_processes() -> None:
    pool = ProcessPool(AROUND)
    busy = Begun(pool, "sleep_aloud", 600)
    processes = [await call(pool, "process_id"), (await busy.until_told())[0]]
    await pool.close()
    assert not any(map(is_running, processes))
    assert isinstance(busy.run.done.exception(), ProcessDiedError)
    assert await call(pool, "double", 1) == 2  # an empty pool is as good as a new one
    await pool.close()


async def test_closing_kills_a_process_that_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monque._processes._GRACE", 0.1)
    pool = ProcessPool(AROUND)
    process = await call(pool, "stay_after_the_end")
    await pool.close()
    assert not is_running(process)


async def test_a_thousand_runs_leave_four_processes_and_no_file_open() -> None:
    pool = ProcessPool(AROUND, keep=4)
    assert await call(pool, "double", 1) == 2  # what the standard library opens once, it has opened now
    await pool.close()
    files, children = open_files(), set(multiprocessing.active_children())
    places = asyncio.Semaphore(4)

    async def run(number: int) -> int:
        async with places:
            return int(await call(pool, "double", number))

    assert await asyncio.gather(*map(run, range(1000))) == [2 * number for number in range(1000)]
    assert 1 <= len(set(multiprocessing.active_children()) - children) <= 4
    await pool.close()
    assert set(multiprocessing.active_children()) == children
    assert open_files() <= files


PARENT = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from monque._processes import ProcessPool, Reference

async def main():
    told = asyncio.Queue()
    pool = ProcessPool("process_handlers:around")
    def start(name, *arguments):
        return pool.start(Reference("process_handlers", name), arguments, context={}, heard=told.put_nowait)
    busy = [start("sleep_aloud", 600), start("start_a_program")]
    for process in await start("process_id").done, await told.get(), await told.get():
        print(process, flush=True)
    if sys.argv[2] == "wait":
        await asyncio.gather(*(run.done for run in busy))

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.fixture
def parent(tmp_path: Path) -> Generator[Callable[[str], tuple[subprocess.Popen[str], list[int]]]]:
    """Starts a program with an idle and two busy processes, one of which has started a program."""
    (tmp_path / "parent.py").write_text(PARENT)
    started: list[subprocess.Popen[str]] = []

    def start(then: str) -> tuple[subprocess.Popen[str], list[int]]:
        command = [sys.executable, str(tmp_path / "parent.py"), str(Path(__file__).parent), then]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        assert process.stdout is not None
        return process, [int(process.stdout.readline()) for _ in range(3)]

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


async def test_no_process_survives_a_parent_that_was_killed(parent: Any) -> None:
    process, children = await asyncio.to_thread(parent, "wait")
    assert all(map(is_running, children))
    process.kill()
    await until_ended(*children)


async def test_a_program_that_forgets_to_close_its_pool_ends_all_the_same(parent: Any) -> None:
    process, children = await asyncio.to_thread(parent, "leave")
    assert await asyncio.to_thread(process.wait, PATIENCE) == 0
    await until_ended(*children)


async def test_ctrl_c_reaches_the_parent_alone(parent: Any) -> None:
    process, children = await asyncio.to_thread(parent, "wait")
    assert os.getpgid(process.pid) not in map(os.getpgid, children)


async def test_a_handler_does_not_notice_requests_to_end_that_are_the_parents(pool: ProcessPool) -> None:
    assert await call(pool, "send_to_itself", signal.SIGINT, signal.SIGTERM, signal.SIGURG) == "alive"


# --- the child's side, in this process ------------------------------------------------------------------------------


@pytest.fixture
def signals_restored() -> Generator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGURG)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Conversation:
    """A child that serves in this thread, and a parent in another one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ours, self._theirs = multiprocessing.Pipe()
        self.ended = threading.Event()
        monkeypatch.setattr(_child, "end_with_everything", self.ended.set)

    def hold(self, parent: Callable[[Conversation], None]) -> None:
        failures: list[BaseException] = []

        def speak() -> None:
            try:
                parent(self)
            except BaseException as error:
                failures.append(error)
            finally:
                with suppress(OSError):
                    self.ours.send(None)

        speaker = threading.Thread(target=speak)
        speaker.start()
        Child(self._theirs, AROUND).serve()
        speaker.join(PATIENCE)
        self.ours.close()
        assert self.ended.wait(PATIENCE)  # the listener has noticed that the parent is gone
        self.close()
        assert failures == []

    def close(self) -> None:
        self.ours.close()
        self._theirs.close()

    def listen(self) -> None:
        """Do what the child's listener does, in this thread."""
        Child(self._theirs, AROUND)._listen()

    def begin(self, number: int, handler: str, *arguments: object) -> None:
        self.ours.send(Task(number, pickle.dumps((Reference("process_handlers", handler), arguments, {}))))

    def answer(self) -> Any:
        assert self.ours.poll(PATIENCE)
        return self.ours.recv()


@pytest.fixture
def conversation(monkeypatch: pytest.MonkeyPatch, signals_restored: None) -> Conversation:
    return Conversation(monkeypatch)


def test_a_child_runs_one_task_after_the_other(conversation: Conversation) -> None:
    def parent(child: Conversation) -> None:
        child.begin(1, "double", 21)
        assert child.answer() == Returned(1, pickle.dumps(42))
        child.begin(2, "count_aloud", 2)
        assert [child.answer() for _ in range(3)] == [Told(2, 0), Told(2, 1), Returned(2, pickle.dumps("done"))]
        child.begin(3, "tell_from_a_thread")
        assert child.answer() == Told(3, "from a thread")
        child.answer()
        child.begin(4, "return_something_unsendable")
        answer = child.answer()
        assert isinstance(answer, Unsendable)
        assert (answer.number, answer.type_name) == (4, "lock")

    conversation.hold(parent)


@pytest.mark.parametrize("wakes", ["by_signal", "by_flag"])
def test_a_child_interrupts_a_handler_that_runs(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch, wakes: str
) -> None:
    def parent(child: Conversation) -> None:
        child.begin(1, "compute_aloud")
        assert child.answer() == Told(1, "computing")
        child.ours.send(Interrupt(1, PackedError.of(TimeoutError("now"))))
        answer = child.answer()
        assert isinstance(answer, Raised)
        assert isinstance(answer.error.open(), TimeoutError)

    if wakes == "by_flag":  # as on Windows
        monkeypatch.delattr(signal, "pthread_kill")
    conversation.hold(parent)


def test_a_child_holds_an_interrupt_back_until_its_task_has_begun(conversation: Conversation) -> None:
    def parent(child: Conversation) -> None:
        child.ours.send(Interrupt(1, PackedError.of(TimeoutError("early"))))
        child.ours.send(Interrupt(2, PackedError.of(TimeoutError("for the second"))))
        for number in (1, 2):
            child.begin(number, "double", number)
        assert isinstance(child.answer(), Returned)
        assert isinstance(child.answer(), Raised)

    conversation.hold(parent)


def test_an_interrupt_in_the_middle_of_telling_is_raised_after_it() -> None:
    interrupts = _child.Interrupts()
    whole: list[str] = []

    def tell() -> None:
        whole.append("begun")
        interrupts.ask(1, TimeoutError("now"))
        interrupts.check()
        whole.append("ended")

    def handler() -> None:
        interrupts.call_whole(tell)
        whole.append("gone on")

    with pytest.raises(TimeoutError):
        interrupts.call(1, handler, ())
    assert whole == ["begun", "ended"]


def test_a_child_notices_the_end_of_its_parent_by_more_than_the_pipe(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sentinel, parents = multiprocessing.Pipe()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=sentinel))
    parents.close()
    conversation.listen()
    assert conversation.ended.is_set()
    conversation.close()
    sentinel.close()


def test_a_child_does_without_a_process_group(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "setpgid")
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        ours.send(None)
        _child.main(theirs, AROUND)
        ours.close()
        assert conversation.ended.wait(PATIENCE)
    conversation.close()


@pytest.mark.parametrize("own", [True, False], ids=["own-group", "other-group"])
def test_a_child_ends_with_its_group_if_that_is_its_own(monkeypatch: pytest.MonkeyPatch, own: bool) -> None:
    ended: list[object] = []

    def kill_group(group: int, number: int) -> None:
        ended.append((group, number))

    monkeypatch.setattr(os, "getpgrp", lambda: os.getpid() if own else os.getppid())
    monkeypatch.setattr(os, "killpg", kill_group)
    monkeypatch.setattr(os, "_exit", ended.append)
    _child.end_with_everything()
    assert ended == [*([(os.getpid(), signal.SIGKILL)] if own else []), 1]
