"""`monque jobs`: looking at jobs and changing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from monque.cli._help import add_command
from monque.cli._jobs import changing, looking

if TYPE_CHECKING:
    from cyclopts import Group


def commands(group: Group) -> App:
    """The commands under `monque jobs`.

    Args:
        group: Under which heading they are listed.
    """
    app = App(name="jobs", help="List, show and watch jobs; cancel, retry, reschedule and delete them.", group=group)
    app.help_epilogue = ""
    add_command(app, looking.list_jobs, "list")
    add_command(app, looking.show, "show")
    add_command(app, looking.watch, "watch")
    add_command(app, changing.cancel, "cancel")
    add_command(app, changing.retry, "retry")
    add_command(app, changing.reschedule, "reschedule")
    add_command(app, changing.run_now, "run-now")
    add_command(app, changing.delete, "delete")
    return app
