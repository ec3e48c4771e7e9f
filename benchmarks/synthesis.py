"""Asking a teacher beside the bare `openai` client: wall time, client CPU, memory.

    python benchmarks/synthesis.py [--requests 10000] [--load 64:0.05 16:0.05] [--turns 2] [--out result.json]

A server in a process of its own answers every chat completion after the same latency with the same 1 kB reply. The
same requests (a prompt of the paper's length, 2 kB) go through, in turns, each in a process of its own:

    lamer   Teacher.complete_all: limits, retries, ledger in SQLite, each reply committed before it is handed on
    bare    openai.AsyncOpenAI, `chat.completions.create` in an asyncio.gather behind a semaphore, replies dropped
    dict    the same through `post` as a dict over aiohttp: the client without its types, and nothing around it
    loop    the bound of the machine: the same bytes over as many asyncio sockets, without any client

A load is `concurrency:latency`. The ideal is requests x latency / concurrency; `wall_over_ideal` is wanted to be
at most 1.15. That takes a client whose CPU a request is well below latency / concurrency (`ideal_ms_a_request`),
for it computes on one core, and commits that are short beside the latency (`fsync_ms`): a request counts as in
flight until its reply is on disk, so that a kill loses at most `concurrency` paid replies. CPU is user and system
time of the whole client process, threads included; `server_cpu_ms_a_request` is the server's meanwhile. Memory is
resident, at a tenth of the requests and at the end. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

METHODS = ["lamer", "bare", "dict", "loop"]
MODEL = "benchmark-teacher"
REPLY = (
    "Question: A rod of tin lay across the fire while the kettle sang. What will the hand that takes it feel?\n"
    "Options: (A) It will feel the heat at once. (B) It will stay cool. (C) It will feel the rod bend.\n"
    "Answer: (A)\nExplanation: Metals lead heat from one end to the other, so the hand is burnt, hence (A).\n\n"
)
PROMPT = "You are given a fact and an example. Write new examples that need the fact without quoting it. " * 20
PATH = "/v1/chat/completions"


# The server


def serve(latency_s: float) -> None:
    """Answer until stdin ends; prints the port, then the CPU seconds so far for each line of stdin."""
    message = {"role": "assistant", "content": REPLY * 3}
    completion = {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 420, "completion_tokens": 240, "total_tokens": 660},
    }  # fmt: skip
    body = json.dumps(completion).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    class Protocol(asyncio.Protocol):
        """One connection: a request, a wait, a reply."""

        def connection_made(self, transport: Any) -> None:
            self.transport = transport
            self.data = b""

        def data_received(self, data: bytes) -> None:
            self.data += data
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.data[:end].lower()
            start = head.find(b"content-length:") + len(b"content-length:")
            length = int(head[start:].split(b"\r\n", 1)[0])
            if len(self.data) >= end + 4 + length:
                self.data = b""
                asyncio.get_running_loop().call_later(latency_s, self.transport.write, reply)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0, backlog=1024)
        print(server.sockets[0].getsockname()[1], flush=True)
        while await loop.run_in_executor(None, sys.stdin.readline):
            print(time.process_time(), flush=True)
        server.close()

    asyncio.run(main())


class Server:
    """The server as a process."""

    def __init__(self, latency_s: float) -> None:
        command = [sys.executable, __file__, "--serve", str(latency_s)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def stop(self) -> None:
        """End it."""
        self._process.communicate(timeout=10)


# The clients: each asks `count` requests and calls `on_reply` for each


def messages(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{PROMPT}\nFact {number}: metals lead heat."}]


def body(number: int) -> dict[str, Any]:
    return {"model": MODEL, "messages": messages(number), "temperature": 1.0, "max_tokens": 2048, "seed": 0}


OnReply = Callable[[str | None], None]


async def ask_lamer(port: int, count: int, concurrency: int, on_reply: OnReply) -> None:
    from lamer.config import TeacherSettings
    from lamer.teacher.ledger import Ledger
    from lamer.teacher.requests import Request, user_message
    from lamer.teacher.teacher import Teacher

    settings = TeacherSettings(model=MODEL, base_url=f"http://127.0.0.1:{port}/v1", concurrency=concurrency)
    with tempfile.TemporaryDirectory() as folder, Ledger(Path(folder) / "teacher.sqlite") as ledger:
        requests = [Request(str(number), user_message(messages(number)[0]["content"])) for number in range(count)]
        await Teacher(settings, ledger).complete_all(requests, lambda reply: on_reply(reply.text))
        if ledger.totals().answered != count:
            raise SystemExit(f"{ledger.totals()}: not everything was answered")


async def ask_through(port: int, count: int, concurrency: int, on_reply: OnReply, *, is_typed: bool) -> None:
    import openai

    async with openai.AsyncOpenAI(
        api_key="unused",
        base_url=f"http://127.0.0.1:{port}/v1",
        max_retries=0,
        http_client=None if is_typed else openai.DefaultAioHttpClient(),
    ) as client:
        semaphore = asyncio.Semaphore(concurrency)

        async def typed(number: int) -> None:
            async with semaphore:
                completion = await client.chat.completions.create(**body(number))
            on_reply(completion.choices[0].message.content)

        async def plain(number: int) -> None:
            async with semaphore:
                completion: Any = await client.post("/chat/completions", cast_to=object, body=body(number))
            on_reply(completion["choices"][0]["message"]["content"])

        await asyncio.gather(*map(typed if is_typed else plain, range(count)))


async def ask_bare(port: int, count: int, concurrency: int, on_reply: OnReply) -> None:
    await ask_through(port, count, concurrency, on_reply, is_typed=True)


async def ask_dict(port: int, count: int, concurrency: int, on_reply: OnReply) -> None:
    await ask_through(port, count, concurrency, on_reply, is_typed=False)


async def ask_loop(port: int, count: int, concurrency: int, on_reply: OnReply) -> None:
    numbers = iter(range(count))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            payload = json.dumps(body(number)).encode()
            writer.write(f"POST {PATH} HTTP/1.1\r\nContent-Length: {len(payload)}\r\n\r\n".encode() + payload)
            head = await reader.readuntil(b"\r\n\r\n")
            data = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            on_reply(json.loads(data)["choices"][0]["message"]["content"])
        writer.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))


CLIENTS: dict[str, Callable[[int, int, int, OnReply], Awaitable[None]]] = {
    "lamer": ask_lamer, "bare": ask_bare, "dict": ask_dict, "loop": ask_loop,
}  # fmt: skip


# Measuring


def fsync_ms() -> float:
    """Median time to make 20 kB safe on disk, where the ledgers lie."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(b"x" * 20_000)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def resident_mib() -> float:
    """Resident memory of this process."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


class Meter:
    """Counts replies; measures from the first request on."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.done = 0
        self.memory_at_a_tenth = 0.0

    def take(self, text: str | None) -> None:
        if not text:
            raise SystemExit("a request was not answered")
        self.done += 1
        if self.done == self.count // 10:
            self.memory_at_a_tenth = resident_mib()


def ask(method: str, port: int, count: int, concurrency: int) -> None:
    """One turn, in this process; prints JSON."""
    client = CLIENTS[method]
    asyncio.run(client(port, 2, 2, lambda _: None))  # imports and first connections are not what is measured
    meter = Meter(count)
    started, cpu, before = time.monotonic(), time.process_time(), os.times()
    asyncio.run(client(port, count, concurrency, meter.take))
    wall_s, cpu_s, now = time.monotonic() - started, time.process_time() - cpu, os.times()
    if meter.done != count:
        raise SystemExit(f"{meter.done} of {count} replies")
    turn = {
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "system_share": (now.system - before.system) / cpu_s,
        "memory_mib": [meter.memory_at_a_tenth, resident_mib()],
    }
    print(json.dumps(turn))


def measure(method: str, server: Server, count: int, concurrency: int) -> dict[str, Any]:
    """One turn in a process of its own."""
    before = server.cpu_s()
    command = [sys.executable, __file__, "--ask", method, str(server.port), str(count), str(concurrency)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    turn: dict[str, Any] = json.loads(done.stdout)
    turn["server_cpu_s"] = server.cpu_s() - before
    return turn


def summed_up(turns: Sequence[dict[str, Any]], count: int, ideal_s: float) -> dict[str, Any]:
    """The best wall time, the median of the rest."""
    wall_s, cpu_s = min(turn["wall_s"] for turn in turns), statistics.median(turn["cpu_s"] for turn in turns)
    first, last = (statistics.median(turn["memory_mib"][end] for turn in turns) for end in (0, 1))
    return {
        "wall_s": round(wall_s, 2),
        "wall_s_by_turn": [round(turn["wall_s"], 2) for turn in turns],
        "wall_over_ideal": round(wall_s / ideal_s, 3),
        "cpu_ms_a_request": round(1000 * cpu_s / count, 3),
        "least_cpu_ms_a_request": round(1000 * min(turn["cpu_s"] for turn in turns) / count, 3),
        "cpu_bound_s": round(cpu_s, 2),
        "system_share": round(statistics.median(turn["system_share"] for turn in turns), 2),
        "server_cpu_ms_a_request": round(
            1000 * statistics.median(turn["server_cpu_s"] for turn in turns) / count, 3
        ),
        "memory_mib_at_a_tenth": round(first, 1),
        "memory_mib_at_the_end": round(last, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--load", nargs="+", default=["64:0.05"], help="concurrency:latency, in seconds")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    if options.ask:
        ask(options.ask[0], *map(int, options.ask[1:]))
        return
    result: dict[str, Any] = {"requests": options.requests, "turns": options.turns, "cores": os.cpu_count()}
    result |= {"machine": platform.machine(), "python": platform.python_version(), "loads": []}
    for load in options.load:
        concurrency, latency_s = int(load.split(":")[0]), float(load.split(":")[1])
        ideal_s = options.requests * latency_s / concurrency
        server = Server(latency_s)
        turns: dict[str, list[dict[str, Any]]] = {method: [] for method in options.methods}
        busy = [os.getloadavg()[0]]
        for _ in range(options.turns):
            for method in options.methods:
                turns[method].append(measure(method, server, options.requests, concurrency))
                busy.append(os.getloadavg()[0])
        server.stop()
        told: dict[str, Any] = {"concurrency": concurrency, "latency_s": latency_s, "ideal_s": round(ideal_s, 2)}
        told |= {"ideal_ms_a_request": round(1000 * latency_s / concurrency, 3)}
        told |= {"fsync_ms": round(fsync_ms(), 2), "load_average": [round(min(busy), 1), round(max(busy), 1)]}
        told |= {method: summed_up(turns[method], options.requests, ideal_s) for method in options.methods}
        result["loads"].append(told)
    text = json.dumps(result, indent=2)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
