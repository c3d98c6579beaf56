"""The policies of a queen: versions that are kept, and which of them is in charge."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from typing import Final, Protocol

from queen.core import versions
from queen.core.ports import Store
from queen.core.versions import NAME, PLATFORM, VERSION, Charge, PolicyActivation, PolicyVersion, Turn
from queen.policy import check
from queen.policy.failure import PolicyFailed, Source
from wire import errors
from wire.clock import Clock
from wire.errors import FieldFault

log = logging.getLogger(__name__)

MODE_PLATFORM: Final = "platform"


class Charged(Protocol):
    """What lets a policy decide."""

    async def activate(self, policy: Source | None, version: str = "", *, suspended: bool = False) -> None:
        """Puts a policy in charge, None for the platform policy. Raises `PolicyFailed`; the one before stays then."""
        ...


class Policies:
    """Saves, activates and rolls back. `scheduler` None: the queen runs without policies, and none can be activated.

    All changes happen one after the other, and are on disk when they return.
    """

    def __init__(self, *, store: Store, scheduler: Charged | None, clock: Clock, mode: str) -> None:
        self._store = store
        self._scheduler = scheduler
        self._clock = clock
        self._mode = mode
        self._one_at_a_time = asyncio.Lock()
        self._log: list[PolicyActivation] = []
        self.charge = Charge()
        self.unusable = ""
        """Why the policy that was in charge before the queen started is not now; "" when it is."""

    async def resume(self) -> None:
        """Puts in charge what was when the queen before her ended; suspended policies stay so."""
        if self._mode == MODE_PLATFORM:
            return
        self._log = await self._store.list_activations()
        self.charge = versions.charge(self._log)
        if self._scheduler is None or not self.charge.stack:
            return
        name, version = self.charge.name, self.charge.version
        try:
            policy = None if name == PLATFORM else _source(await self.get(name, version))
            await self._scheduler.activate(policy, version, suspended=bool(self.charge.suspension))
        except (PolicyFailed, errors.NotFound) as error:
            self.unusable = f"{name} {version} cannot be used: {error}"
            log.error("the platform policy decides: policy %s", self.unusable)

    async def save(
        self,
        *,
        name: str,
        source: str,
        language: str = "",
        version: str = "",
        author: str,
        file_name: str = "",
        again: bool = True,
    ) -> PolicyVersion:
        """Returns the version that has this text, saved if it is new. What is suspended with this text decides again.

        `again` False: a text that is known already is left as it is, suspended or not.

        Raises `Invalid` with everything that is wrong, `AlreadyExists` for a version with another text, `Denied` in
        platform mode.
        """
        self._check_mode("saved")
        faults = check.size_faults(source=source)
        if not NAME.fullmatch(name) or name == PLATFORM:
            faults.append(FieldFault("name", f"1 to 63 lower-case letters, digits and -, not '{name[:80]}'"))
        if version and not VERSION.fullmatch(version):
            faults.append(FieldFault("version", f"a semantic version such as 1.0.2, not '{version[:80]}'"))
        if not source.strip():
            faults.append(FieldFault("source", "the text of a policy; it is empty"))
        if faults:
            raise errors.invalid(faults)
        digest = hashlib.sha256(source.encode()).hexdigest()
        checked = None
        if not any(_is(one, digest, version) for one in await self._versions(name)):
            # Not while others wait: a text can keep its check busy for a minute.
            checked = await check.check(source, file_name or name, language)
            if not checked.valid:
                raise check.refused(checked.problems, file_name or name)
        async with self._one_at_a_time:
            known = await self._versions(name)
            if found := next((one for one in reversed(known) if _is(one, digest, version)), None):
                if again:
                    await self._resume_if_suspended(found)
                return found
            if any(one.version == version for one in known):
                raise errors.AlreadyExists(
                    f"{name} {version} is saved already, with another text; leave the version out to save the next one",
                    "POLICY_VERSION_EXISTS",
                )
            assert checked is not None, "versions are never removed, and it was none of them"
            saved = PolicyVersion(
                name=name,
                version=version or versions.next_version([one.version for one in known], checked.said_version),
                language=checked.language,
                source=source,
                compiled_lua=checked.compiled_lua,
                sha256=digest,
                author=author,
                create_time=self._clock.now(),
            )
            self._store.save_policy(saved)
            await self._store.flush()
            log.info("policy %s %s is saved, by %s", name, saved.version, author)
            return saved

    async def activate(self, name: str, version: str = "", request_id: str = "") -> PolicyVersion | None:
        """Puts a version in charge, the newest unless told; returns it, None for the platform policy.

        Raises `NotFound` POLICY_NOT_FOUND, `Invalid` POLICY_FAILED for a text that cannot be loaded, `WrongState`
        NO_POLICIES_RUN, `Denied` in platform mode.
        """
        self._check_mode("activated")
        async with self._one_at_a_time:
            if done := self._done(request_id):
                return await self._get_or_platform(done.name, done.version)
            policy = await self._get_or_platform(name, version)
            await self._put_in_charge(policy, Turn.ACTIVATED, request_id)
            return policy

    async def rollback(self, request_id: str = "") -> PolicyVersion | None:
        """Puts in charge what was before; returns it, None for the platform policy.

        Raises `WrongState` NOTHING_TO_ROLL_BACK or NO_POLICIES_RUN, `Denied` in platform mode.
        """
        self._check_mode("rolled back")
        async with self._one_at_a_time:
            if done := self._done(request_id):
                return await self._get_or_platform(done.name, done.version)
            if self.charge.before is None:
                raise errors.WrongState(
                    "nothing to roll back to: no policy was ever activated; see: rbee policy list",
                    "NOTHING_TO_ROLL_BACK",
                )
            policy = await self._get_or_platform(*self.charge.before)
            await self._put_in_charge(policy, Turn.ROLLED_BACK, request_id)
            return policy

    def suspended(self, name: str, version: str, why: str) -> None:
        """Notes that the policy in charge was taken out of service, so that it stays so after a restart."""
        if (name, version) == (self.charge.name, self.charge.version):
            self._note(name, version, Turn.SUSPENDED, why=why)

    async def get(self, name: str, version: str = "") -> PolicyVersion:
        """Returns a version, the newest unless told; raises `NotFound` POLICY_NOT_FOUND."""
        known = await self._versions(name)
        if found := next((one for one in reversed(known) if version in ("", one.version)), None):
            return found
        what = f"{name} {version}" if known else name
        raise errors.NotFound(f"there is no policy {what}; see: rbee policy list", "POLICY_NOT_FOUND")

    async def listed(self, name: str = "") -> list[PolicyVersion]:
        """Returns the newest version of each policy by name, or all versions of one, newest first."""
        if name:
            return [*reversed(await self._versions(name))]
        newest: dict[str, PolicyVersion] = {}
        for one in await self._store.list_policies():
            other = newest.get(one.name)
            if other is None or versions.precedence(one.version) > versions.precedence(other.version):
                newest[one.name] = one
        return list(newest.values())

    def _check_mode(self, what: str) -> None:
        if self._mode == MODE_PLATFORM:
            raise errors.Denied(
                f"no policy can be {what}: this queen runs with --mode platform, where the built-in policy alone "
                "decides; read it with: rbee policy source",
                "PLATFORM_MODE",
            )

    async def _versions(self, name: str) -> list[PolicyVersion]:
        """Returns the versions of a policy, newest last."""
        found = await self._store.list_policies(name) if name else []
        return sorted(found, key=lambda one: versions.precedence(one.version))

    async def _get_or_platform(self, name: str, version: str) -> PolicyVersion | None:
        if name != PLATFORM:
            return await self.get(name, version)
        if version:
            raise errors.NotFound(
                f"the platform policy has no version {version}; activate it with: rbee policy activate platform",
                "POLICY_NOT_FOUND",
            )
        return None

    def _done(self, request_id: str) -> PolicyActivation | None:
        """Returns what a request did when it came before."""
        return next((one for one in self._log if request_id and one.request_id == request_id), None)

    async def _put_in_charge(self, policy: PolicyVersion | None, turn: Turn, request_id: str = "") -> None:
        if self._scheduler is None:
            raise errors.WrongState(
                "no policy decides here: this queen runs with --scheduler simple; start her with --scheduler policy",
                "NO_POLICIES_RUN",
            )
        name, version = (policy.name, policy.version) if policy else (PLATFORM, "")
        try:
            await self._scheduler.activate(_source(policy) if policy else None, version)
        except PolicyFailed as failure:
            raise errors.Invalid(
                f"policy {name} {version} cannot be used ({failure.cause}), the one before stays: {failure.message}",
                "POLICY_FAILED",
            ) from None
        self.unusable = ""
        self._note(name, version, turn, request_id)
        await self._store.flush()
        log.info("policy %s decides from now on: %s", f"{name} {version}".strip(), turn.value)

    async def _resume_if_suspended(self, policy: PolicyVersion) -> None:
        in_charge = (policy.name, policy.version) == (self.charge.name, self.charge.version)
        if in_charge and self.charge.suspension and self._scheduler is not None:
            await self._put_in_charge(policy, Turn.ACTIVATED)

    def _note(self, name: str, version: str, turn: Turn, request_id: str = "", why: str = "") -> None:
        order = self._log[-1].order + 1 if self._log else 1
        entry = PolicyActivation(order, name, version, self._clock.now(), turn, why, request_id)
        self._log.append(entry)
        self.charge = versions.charge(self._log)
        self._store.save_activation(entry)


def _is(policy: PolicyVersion, digest: str, version: str) -> bool:
    return policy.sha256 == digest and version in ("", policy.version)


def _source(policy: PolicyVersion) -> Source:
    return Source(policy.name, policy.compiled_lua)
