"""A fleet under a load of epics, which is judged by its own ledger when the case is over."""
import asyncio
import json
import time

import nats

from cluster import ClusterError
from fleet import FleetStage
from stage import need
from trial import Trial

# The lease of a Manager on one server, and what a takeover may take beyond it, in seconds.
LEASE, BEYOND = 3, 2
# No test depends on how fast it runs: the promise is printed beside what was measured, and only much more than it fails.
SLACK = 25


class Elections:
    """Every event as it is told, by its number, and every `manager.elected` with the time at which we heard of it."""

    def __init__(self, fleet):
        self.fleet, self.connection, self.elected, self.told = fleet, None, [], {}

    async def listen(self):
        self.connection = await nats.connect(self.fleet.url().split(","), max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_quiet)

        async def heard(message):
            event = json.loads(message.data)
            # The stream of events is made anew from the journal after a restart of NATS: what was told before is told again.
            if event["seq"] in self.told:
                return
            self.told[event["seq"]] = message.data
            if event["type"] == "manager.elected":
                self.elected.append((time.monotonic(), event.get("node"), event.get("data", {})))

        await self.connection.subscribe("amphi.evt.>", cb=heard)

    async def close(self):
        if self.connection is not None:
            try:
                await asyncio.wait_for(self.connection.close(), 3)
            except (asyncio.TimeoutError, OSError, nats.errors.Error):
                pass


class LoadedStage(FleetStage):
    """A fleet with clients that submit all the time."""

    LOAD = 4

    def __init__(self, folder, shape=None, load=None, seed=None, **options):
        super().__init__(folder, shape, **options)
        self.trial = Trial(self.fleet, self.ledger, seed or folder.name, load or self.LOAD)
        self.elections = Elections(self.fleet)
        self.trial.heard = self.elections.told

    async def rise(self):
        await super().rise()
        await self.elections.listen()
        self.trial.begin()
        await self.more(2)

    async def more(self, count, within=120):
        """Waits for so many acknowledged submissions more; the seconds until the first."""
        began, before = time.monotonic(), len(self.trial.accepted_at)
        while len(self.trial.accepted_at) < before + count:
            need(time.monotonic() < began + within, f"only {len(self.trial.accepted_at) - before} of {count} submissions were accepted in {within} s")
            await asyncio.sleep(0.02)
        return self.trial.accepted_at[before] - began

    async def taken_over(self, began, within):
        """Seconds from `began` until a Manager was elected after it, as its event tells."""
        while not (after := [at for at, _, _ in self.elections.elected if at > began]):
            need(time.monotonic() < began + within, f"nobody was elected within {within} s")
            await asyncio.sleep(0.02)
        return after[0] - began

    async def settle(self, within=240):
        await self.fleet.until_ready(120)
        await self.trial.finish(within)
        results = await self.trial.judge()
        broken = [f"{law}: {words}" for law, violations in results for words in violations]
        need(not broken, "; ".join(broken[:6]))
        need(not self.fleet.trouble, "; ".join(self.fleet.trouble))
        await self.no_lock_held()
        rows = dict(self.trial.rows())
        numbers = f"{rows['epics accepted']} epics, {rows['attempts in the journal']} attempts"
        self.said = f"{self.said}, {numbers}" if self.said else numbers

    async def fall(self):
        for worker in self.trial.workers:
            worker.cancel()
        await asyncio.gather(*self.trial.workers, return_exceptions=True)
        await self.elections.close()
        try:
            await self.trial.client.close()
        except ClusterError:
            pass
        await super().fall()


async def _quiet(_error):
    """Lost connections are what this is about."""
