"""Who listens to a job: one whose caller has gone for good is cancelled, one whose caller comes back goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from queen.core.model import Job
from queen.registry.jobs import LiveJob

LONGEST_GRACE_S = 300.0


class Callers:
    """Notes callers that come and go. `cancel` ends a job and says why; `on_return` is told who has come back."""

    def __init__(self, cancel: Callable[[LiveJob, str], Job], on_return: Callable[[LiveJob], None]) -> None:
        self._cancel = cancel
        self._on_return = on_return

    def came(self, live: LiveJob, received: Sequence[int] = ()) -> None:
        """Notes that somebody listens, with the ids of the tokens he has already."""
        if live.leaving is not None:
            live.leaving.cancel()
            live.leaving = None
        if not live.present:
            live.present, live.received = True, tuple(received)
            self._on_return(live)

    def went(self, live: LiveJob) -> None:
        """Notes that somebody listens no more; when it was the last, the job has its grace and is then cancelled."""
        if live.job.detached or live.job.resting or live.feed.readers:
            return
        if live.grace_s <= 0:
            self._cancel(live, "its caller went away")
        else:
            self.expect(live)

    def expect(self, live: LiveJob) -> None:
        """Gives a caller the job's grace to come back."""
        why = f"its caller went away and did not come back within {live.grace_s:g} s"
        live.leaving = asyncio.get_running_loop().call_later(live.grace_s, self._cancel, live, why)
