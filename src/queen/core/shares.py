"""Fair shares between tenants: the counters of what each was served.

After Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): whoever serves the tenant with the lowest
counter per weight next shares evenly between all who wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

PROMPT_TOKEN: Final = 1
ANSWER_TOKEN: Final = 2
"""What a token counts: one that is generated costs about twice one that is read (Sheng et al., section 3)."""


class ServiceCounters:
    """Weighted tokens served by tenant. `weights` are 1 where nothing is said.

    A tenant is active while it has a job that waits or runs. One that comes back is lifted to the lowest among the
    active ones, to where the last of them was when it left if there are none: shares are not saved up by staying away.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._served: Counter[str] = Counter()
        self._jobs: Counter[str] = Counter()
        self._level = 0.0  # weighted tokens per weight

    def restore(self, served: Mapping[str, int]) -> None:
        """Takes in the counters of an earlier queen. Nobody knows who left last: it may have been the highest."""
        self._served.update(served)
        self._level = max((self._share(tenant_id) for tenant_id in served), default=0.0)

    def joined(self, tenant_id: str, *, stayed: bool = False) -> None:
        """A job of a tenant was accepted; `stayed`: by an earlier queen, and its tenant has not been away since."""
        if not self._jobs[tenant_id] and not stayed:
            active = [self._share(other) for other, jobs in self._jobs.items() if jobs]
            lowest = min(active, default=self._level) * self._weight(tenant_id)
            self._served[tenant_id] = max(self._served[tenant_id], round(lowest))
        self._jobs[tenant_id] += 1

    def left(self, tenant_id: str) -> None:
        """A job of a tenant has ended."""
        self._jobs[tenant_id] -= 1
        if not self._jobs[tenant_id]:
            del self._jobs[tenant_id]
            self._level = self._share(tenant_id)

    def read(self, tenant_id: str, tokens: int) -> None:
        """A worker was given a prompt of so many tokens."""
        self._served[tenant_id] += PROMPT_TOKEN * tokens

    def generated(self, tenant_id: str, tokens: int) -> None:
        """A worker has generated so many tokens."""
        self._served[tenant_id] += ANSWER_TOKEN * tokens

    def served(self, tenant_id: str) -> int:
        """Returns the weighted tokens a tenant was served, not yet divided by its weight."""
        return self._served[tenant_id]

    def _share(self, tenant_id: str) -> float:
        return self._served[tenant_id] / self._weight(tenant_id)

    def _weight(self, tenant_id: str) -> float:
        return self._weights.get(tenant_id, 1.0)
