# SPDX-License-Identifier: Apache-2.0
"""
Steps of jobs on a real PostgreSQL, with a provider, a ledger and a clock that tests hold: leases,
takeovers, settlement, forgetting.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from services.router.adapters.postgres_jobs import PostgresJobs
from services.router.bootstrap import MIGRATIONS
from services.router.domain.jobs import Cancel, Job, JobState
from services.router.domain.keys import AccountKeys, OwnKey
from services.router.domain.outcomes import Billed, Outcome
from services.router.errors import TooManyJobsError
from services.router.providers.base import ProviderError
from services.router.providers.jobs import JobPhase, JobReport, OutputAddress
from services.router.usecases.job_guard import JobGuard
from services.router.usecases.job_keys import StoredJobKeys
from services.router.usecases.job_ports import LeasedJob
from services.router.usecases.job_runner import JobRunner, StepTimes
from services.router.usecases.ports import Capture, Settled
from services.shared.errors import PeerUnavailableError
from services.shared.migrate import migrate
from services.shared.postgres import Database
from tests.support.clock import ManualClock
from tests.support.engine import FakeKeys, FakeLedger
from tests.support.postgres import Databases
from tests.unit.router.domain.test_jobs import new_job

LEASE_SECONDS = 30.0
KEY = OwnKey(
    name="accounts/demo/keys/main",
    provider="replicate",
    hint="r8_…0000",
    version=1,
    etag="1",
    order=0,
    enabled=True,
    active=True,
    always_use=False,
)
DONE = JobReport(
    provider_job="p1",
    phase=JobPhase.SUCCEEDED,
    outputs=(OutputAddress("https://replicate.delivery/x/out-0.png"),),
)
RUNNING = JobReport(provider_job="p1", phase=JobPhase.RUNNING)


@dataclass
class FakeCalls:
    """A provider that says what the test says, and notes who asked while another was asking."""

    report: JobReport | ProviderError = RUNNING
    polls: int = 0
    cancels: int = 0
    asking: int = 0
    asked_at_once: int = 0
    pause: asyncio.Event | None = None

    async def poll(self, job: Job, secret: Any, **_: Any) -> JobReport:
        """Tell how the job stands, after the pause."""
        self.polls += 1
        self.asking += 1
        self.asked_at_once = max(self.asked_at_once, self.asking)
        try:
            if self.pause is not None:
                await self.pause.wait()
            await asyncio.sleep(0)
        finally:
            self.asking -= 1
        if isinstance(self.report, ProviderError):
            raise self.report
        return self.report

    async def cancel(
        self, job: Job, secret: Any, *, may_send: Callable[[], bool], seconds: float
    ) -> JobReport | None:
        """Take a cancel, while the key may be used."""
        assert may_send()
        self.cancels += 1
        return JobReport(provider_job="p1", phase=JobPhase.CANCELLED, busy_milliseconds=100)


class AwayLedger(FakeLedger):
    """A ledger that cannot be reached the first time."""

    away = 1

    async def settle(self, *arguments: Any, **settings: Any) -> Settled:
        """Settle, but not the first time."""
        if self.away:
            self.away -= 1
            raise PeerUnavailableError("away", metadata={"peer": "ledger"})
        return await super().settle(*arguments, **settings)


@dataclass
class Stage:
    """One database, and as many replicas as a test wants."""

    database: Database
    clock: ManualClock = field(default_factory=ManualClock)
    calls: FakeCalls = field(default_factory=FakeCalls)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    keys: FakeKeys = field(
        default_factory=lambda: FakeKeys(AccountKeys(account="accounts/demo", keys=(KEY,)))
    )

    def replica(self, owner: str = "a", lease_seconds: float = LEASE_SECONDS) -> JobRunner:
        """One replica's steps."""
        store, keys = PostgresJobs(self.database, owner=owner), StoredJobKeys(self.keys)
        calls: Any = self.calls
        guard = JobGuard(store=store, calls=calls, keys=keys, clock=self.clock)
        return JobRunner(
            store=store,
            calls=calls,
            keys=keys,
            ledger=self.ledger,
            guard=guard,
            clock=self.clock,
            times=StepTimes(lease_seconds),
        )

    @property
    def store(self) -> PostgresJobs:
        """The store, as the test looks at it."""
        return PostgresJobs(self.database, owner="test")

    async def keep(self, **fields: Any) -> LeasedJob:
        """Keep a job under the test's lease."""
        now = self.clock.now()
        job = new_job(create_time=now, due_time=now, renew_time=now, **fields)
        leased = await self.store.add(job, lease_seconds=LEASE_SECONDS, active_max=10)
        assert leased is not None
        return leased

    async def keep_running(self, **fields: Any) -> Job:
        """Keep a job that its provider has, and that nobody works on."""
        leased = await self.keep(**fields)
        job = dataclasses.replace(leased.job, state=JobState.QUEUED, provider_job="p1")
        assert await self.store.save(leased, job, keep_lease=False)
        return job

    async def job(self, job_id: str = "job-1") -> Job:
        """The job as it is kept."""
        kept = await self.store.get("accounts/demo", job_id)
        assert kept is not None
        return kept


@pytest.fixture
async def stage(databases: Databases) -> AsyncIterator[Stage]:
    """A migrated database."""
    with databases.empty() as dsn:
        await migrate(dsn, MIGRATIONS)
        database = Database(dsn, application_name="test")
        await database.open()
        try:
            yield Stage(database)
        finally:
            await database.close()


async def step(runner: JobRunner) -> int:
    """Make every step that is due; how many there were."""
    count = await runner.tick()
    await runner.idle()
    return count


@pytest.mark.requirement("R3")
class TestLeases:
    async def test_two_replicas_never_ask_about_one_job_at_once(self, stage: Stage) -> None:
        """While one asks, the other finds nothing due, however often it looks."""
        await stage.keep_running()
        stage.calls.pause = asyncio.Event()
        first, second = stage.replica("a"), stage.replica("b")
        assert await first.tick() == 1
        stage.clock.advance(20)
        assert [await second.tick() for _ in range(3)] == [0, 0, 0]
        stage.calls.pause.set()
        await first.idle()
        stage.clock.advance(20)
        assert await step(second) == 1
        assert (stage.calls.polls, stage.calls.asked_at_once) == (2, 1)

    async def test_a_swarm_of_replicas_steps_each_job_once(self, stage: Stage) -> None:
        for number in range(8):
            await stage.keep_running(job_id=f"job-{number}")
        replicas = [stage.replica(name) for name in "abcd"]
        counts = await asyncio.gather(*(replica.tick() for replica in replicas))
        await asyncio.gather(*(replica.idle() for replica in replicas))
        assert (sum(counts), stage.calls.polls) == (8, 8)

    async def test_a_step_whose_replica_died_is_taken_over_after_its_lease(
        self, stage: Stage
    ) -> None:
        await stage.keep_running()
        dead = await stage.store.take("accounts/demo", "job-1", lease_seconds=LEASE_SECONDS)
        assert dead is not None
        assert await step(stage.replica("b")) == 0
        await stage.database.execute("UPDATE jobs SET lease_expire_time = clock_timestamp()")
        assert await step(stage.replica("b")) == 1

    async def test_what_a_lost_lease_writes_changes_nothing(self, stage: Stage) -> None:
        await stage.keep_running()
        late = await stage.store.take("accounts/demo", "job-1", lease_seconds=0.0)
        assert late is not None
        stage.calls.report = DONE
        await step(stage.replica("b"))
        assert not await stage.store.save(late, late.job, keep_lease=False)
        assert not await stage.store.remove(late)
        assert (await stage.job()).state is JobState.SUCCEEDED

    async def test_a_start_whose_replica_died_is_given_up_and_never_sent_again(
        self, stage: Stage
    ) -> None:
        leased = await stage.keep()
        assert await stage.store.save(leased, leased.job, keep_lease=False)
        await step(stage.replica("b"))
        job = await stage.job()
        assert (job.state, job.is_settled) == (JobState.FAILED, True)
        assert (stage.calls.polls, stage.calls.cancels) == (0, 0)
        (settlement, end), *more = stage.ledger.settled
        assert not more
        assert isinstance(settlement.terms, Capture)
        assert (settlement.terms.vendor_cost_nano_usd, settlement.terms.delivered) == (
            3_000_000,
            False,
        )
        assert end is not None
        assert not end.succeeded

    async def test_an_id_is_taken_once_and_an_account_has_its_bound(self, stage: Stage) -> None:
        leased = await stage.keep()
        again = await stage.store.add(leased.job, lease_seconds=1, active_max=10)
        assert again is None
        other = dataclasses.replace(leased.job, job_id="job-2")
        with pytest.raises(TooManyJobsError):
            await stage.store.add(other, lease_seconds=1, active_max=1)


@pytest.mark.requirement("R3", "L13")
class TestEnds:
    async def test_an_end_is_settled_once_and_forgotten_an_hour_later(self, stage: Stage) -> None:
        await stage.keep_running()
        stage.calls.report = DONE
        runner = stage.replica()
        await step(runner)
        job = await stage.job()
        assert job.is_settled
        assert len(stage.ledger.settled) == 1
        stage.clock.advance(3599)
        assert await step(runner) == 0
        stage.clock.advance(1)
        assert await step(runner) == 1
        assert await stage.store.get("accounts/demo", "job-1") is None
        assert len(stage.ledger.settled) == 1

    async def test_settling_goes_on_until_the_ledger_is_back_for_the_same_amount(
        self, stage: Stage
    ) -> None:
        stage.ledger = AwayLedger()
        await stage.keep_running()
        stage.calls.report = DONE
        await step(stage.replica("a"))
        assert not (await stage.job()).is_settled
        stage.clock.advance(1)
        await step(stage.replica("b"))
        job = await stage.job()
        assert job.is_settled
        assert (len(stage.ledger.settled), stage.calls.polls) == (1, 1)

    async def test_a_hold_is_renewed_with_the_estimate_and_nothing_delivered(
        self, stage: Stage
    ) -> None:
        await stage.keep_running()
        runner = stage.replica()
        for _ in range(5):
            await step(runner)
            stage.clock.advance(10)
        checkpoints = stage.ledger.checkpoints
        assert len(checkpoints) == 3
        assert {(c.vendor_cost_nano_usd, c.delivered) for c in checkpoints} == {(3_000_000, False)}

    async def test_a_provider_in_trouble_is_asked_again(self, stage: Stage) -> None:
        await stage.keep_running()
        stage.calls.report = ProviderError(
            outcome=Outcome.OVERLOADED, safe_message="busy", billed=Billed.REFUSED
        )
        runner = stage.replica()
        await step(runner)
        stage.calls.report = DONE
        stage.clock.advance(10)
        await step(runner)
        assert (await stage.job()).state is JobState.SUCCEEDED

    async def test_a_keyvault_that_is_away_only_postpones(self, stage: Stage) -> None:
        await stage.keep_running()
        stage.keys.away = {"accounts/demo"}
        runner = stage.replica()
        await step(runner)
        assert (await stage.job()).state is JobState.QUEUED
        stage.keys.away = set()
        stage.clock.advance(1)
        await step(runner)
        assert stage.calls.polls == 1

    async def test_a_wish_to_cancel_that_comes_during_a_poll_is_carried_out_next(
        self, stage: Stage
    ) -> None:
        job = await stage.keep_running()
        stage.calls.pause = asyncio.Event()
        runner = stage.replica()
        await runner.tick()
        await stage.store.ask_to_cancel(job.account, job.job_id, Cancel.CALLER, stage.clock.now())
        stage.calls.pause.set()
        await runner.idle()
        assert await step(runner) == 1
        job = await stage.job()
        assert (job.state, stage.calls.cancels) == (JobState.CANCELLED, 1)

    async def test_a_webhook_makes_a_job_due_and_nothing_else(self, stage: Stage) -> None:
        await stage.keep_running()
        runner = stage.replica()
        await step(runner)
        assert await step(runner) == 0
        assert await stage.store.hasten("replicate", "p1", stage.clock.now())
        assert not await stage.store.hasten("replicate", "another", stage.clock.now())
        assert await step(runner) == 1
        assert (await stage.job()).state is JobState.RUNNING

    @pytest.mark.requirement("K15")
    @pytest.mark.parametrize("keys", [(), (dataclasses.replace(KEY, enabled=False),)])
    async def test_a_withdrawn_key_ends_its_jobs_without_a_call(
        self, stage: Stage, keys: tuple[OwnKey, ...]
    ) -> None:
        await stage.keep_running()
        stage.keys.accounts["accounts/demo"] = AccountKeys(account="accounts/demo", keys=keys)
        await step(stage.replica())
        job = await stage.job()
        assert (job.state, job.cancel) == (JobState.CANCELLED, Cancel.KEY_WITHDRAWN)
        assert (stage.calls.polls, stage.calls.cancels) == (0, 0)


async def test_pages_are_newest_first_and_do_not_overlap(stage: Stage) -> None:
    for number in range(5):
        await stage.keep_running(job_id=f"job-{number}")
        stage.clock.advance(timedelta(seconds=1).total_seconds())
    first = await stage.store.page("accounts/demo", before=None, limit=3)
    last = first[-1]
    rest = await stage.store.page("accounts/demo", before=(last.create_time, last.job_id), limit=3)
    assert [job.job_id for job in (*first, *rest)] == [f"job-{n}" for n in (4, 3, 2, 1, 0)]
    assert await stage.store.page("accounts/other", before=None, limit=3) == []
