"""Requests over plain NATS that outlive every fault: sent again, on a new connection if need be, until somebody answers."""
import asyncio
import json
import time

import nats
import nats.errors


class Refused(Exception):
    """An answer that is an error, and not one that says `retryable`."""

    def __init__(self, error):
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")


class Unanswered(Exception):
    """Nobody answered in time."""


class Client:
    """A client that goes to wherever the cluster is now."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.connection = None
        self.connected_to = None
        self.lock = asyncio.Lock()
        self.resent = 0

    async def _connection(self):
        async with self.lock:
            url = self.cluster.url()
            if url is None:
                raise ConnectionError("there is no ready file")
            if self.connection is None or self.connection.is_closed or url != self.connected_to:
                await self._drop()
                self.connection = await nats.connect(
                    url.split(","), allow_reconnect=True, max_reconnect_attempts=-1, reconnect_time_wait=0.1, connect_timeout=2, error_cb=_quiet
                )
                self.connected_to = url
            return self.connection

    async def _drop(self):
        if self.connection is not None:
            await asyncio.shield(_close(self.connection))
            self.connection = None

    async def once(self, verb, body, headers=None, timeout=3):
        """One request, one answer."""
        connection = await asyncio.wait_for(self._connection(), 5)
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await connection.request(f"amphi.api.{verb}", payload, timeout=timeout, headers=headers)
        reply = json.loads(answer.data)
        error = reply.get("error")
        if isinstance(error, dict):
            if error.get("retryable"):
                raise ConnectionError(error.get("message"))
            raise Refused(error)
        return reply

    async def ask(self, verb, body, headers=None, within=120, timeout=3):
        """The answer, however often it takes."""
        end, last, silent = time.monotonic() + within, None, 0
        while time.monotonic() < end:
            try:
                return await self.once(verb, body, headers, timeout)
            except (nats.errors.Error, ConnectionError, OSError, asyncio.TimeoutError) as error:
                last, silent = error, silent + isinstance(error, asyncio.TimeoutError)
                self.resent += 1
                if silent % 3 == 2 and "," in (self.connected_to or ""):
                    # This server may be cut off from the others: another one, as a person would try.
                    async with self.lock:
                        await self._drop()
                await asyncio.sleep(0.2)
        raise Unanswered(f"{verb} {str(body)[:80]}: no answer within {within} s, last {last!r}")

    async def all(self, verb, key, body, **options):
        """All pages of a list."""
        found, after = [], None
        while True:
            page = await self.ask(verb, {**body, **({"after": after} if after is not None else {})}, **options)
            found += page[key]
            after = page.get("next")
            if after is None:
                return found

    async def close(self):
        await self._drop()


async def _quiet(_error):
    """Lost connections are what this is about."""


async def _close(connection):
    try:
        await asyncio.wait_for(connection.close(), 2)
    except (asyncio.TimeoutError, nats.errors.Error, OSError):
        pass
