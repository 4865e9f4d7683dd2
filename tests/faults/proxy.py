"""Links that can be cut, held, made deaf, mute or slow: one TCP proxy process with any number of named links.

As a program it takes orders as JSON lines on standard input and answers each with one; at the end of its input it ends. `Links` is the
other end, inside a fault run. Nothing is ever reordered or changed; what is held lands late, what is cut is gone.

    open    both directions move
    cut     connections are reset, new ones refused; what was on its way is lost
    hold    nothing moves, nothing is lost: what was written lands when the link opens again
    deaf    the near end can send and hears nothing
    mute    the near end hears and what it sends is held
    slow    each piece is late by `delay` seconds
"""
import asyncio
import json
import os
import signal
import socket
import struct
import sys

CHUNK = 64 * 1024
# Which directions stand still in which state; `up` is from the near end (the node) to the far end (the server).
STILL = {"open": (), "slow": (), "hold": ("up", "down"), "deaf": ("down",), "mute": ("up",), "cut": ("up", "down")}


class Link:
    """One listening port and what goes through it."""

    def __init__(self, far):
        self.far = far
        self.state, self.delay = "open", 0.0
        self.changed = asyncio.Event()
        self.pairs = set()

    def set(self, state, delay=0.0):
        if state not in STILL:
            raise ValueError(f"there is no state {state}")
        self.state, self.delay = state, delay
        self.changed.set()
        self.changed = asyncio.Event()
        if state == "cut":
            self.reset()

    def reset(self):
        """Ends all connections at once, with a reset, whatever they had under way."""
        for writer in self.pairs:
            raw = writer.get_extra_info("socket")
            if raw is not None:
                try:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                except OSError:
                    pass
            writer.transport.abort()
        self.pairs = set()

    async def moves(self, direction):
        while direction in STILL[self.state]:
            await self.changed.wait()

    async def accept(self, reader, writer):
        if self.state == "cut":
            writer.transport.abort()
            return
        self.pairs.add(writer)
        try:
            # A connection that is made while the link is held stays without an answer until it opens.
            await self.moves("up")
            far_reader, far_writer = await asyncio.open_connection(*self.far)
        except OSError:
            self.pairs.discard(writer)
            writer.transport.abort()
            return
        self.pairs.add(far_writer)
        pumps = [asyncio.create_task(self.pump("up", reader, far_writer)), asyncio.create_task(self.pump("down", far_reader, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        # The end of one direction is the end of both, but not before what is held has landed.
        for one in pumps:
            if not one.done() and self.state in ("open", "slow"):
                one.cancel()
        await asyncio.wait(pumps)
        for one in (writer, far_writer):
            self.pairs.discard(one)
            one.transport.abort()

    async def pump(self, direction, reader, writer):
        try:
            while True:
                await self.moves(direction)
                chunk = await reader.read(CHUNK)
                # It may have been stopped while we waited for something to come.
                await self.moves(direction)
                if self.state == "slow":
                    await asyncio.sleep(self.delay)
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()
        except (OSError, asyncio.CancelledError):
            return


class Orders:
    """The program: orders from standard input."""

    def __init__(self):
        self.links, self.servers = {}, []

    async def obey(self, order):
        name = order["link"]
        if "far" in order:
            link = Link(tuple(order["far"]))
            server = await asyncio.start_server(link.accept, "127.0.0.1", order.get("port", 0))
            self.links[name] = link
            self.servers.append(server)
            return {"port": server.sockets[0].getsockname()[1]}
        link = self.links[name]
        if order.get("drop"):
            link.reset()
        link.set(order["state"], order.get("delay", 0.0))
        return {"state": link.state}

    async def serve(self):
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            try:
                answer = await self.obey(json.loads(line))
            except (KeyError, ValueError, OSError) as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)


class Links:
    """The links of a fault run: name -> port, and what they let through."""

    def __init__(self):
        self.process, self.ports, self.states = None, {}, {}
        self.lock = asyncio.Lock()

    async def start(self):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, os.path.abspath(__file__), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )

    async def _order(self, **order):
        async with self.lock:
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            await self.process.stdin.drain()
            answer = json.loads(await asyncio.wait_for(self.process.stdout.readline(), 20))
        if "error" in answer:
            raise OSError(f"the proxy refuses {order}: {answer['error']}")
        return answer

    async def add(self, name, host, port):
        """A link to a server; the port to go to instead."""
        self.ports[name] = (await self._order(link=name, far=[host, port]))["port"]
        self.states[name] = "open"
        return self.ports[name]

    async def set(self, name, state, delay=0.0, drop=False):
        """`drop`: what is on its way now is lost, and the connections with it."""
        self.states[name] = state
        await self._order(link=name, state=state, delay=delay, drop=drop)

    async def open_all(self):
        for name, state in self.states.items():
            if state != "open":
                await self.set(name, "open")

    async def stop(self):
        if self.process is None or self.process.returncode is not None:
            return
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), 5)
        except asyncio.TimeoutError:
            self.process.kill()
            await self.process.wait()


if __name__ == "__main__":
    # A person's Ctrl-C is for the run, which ends us by the end of our input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(Orders().serve())
