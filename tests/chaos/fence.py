"""The whole application in its own network namespace, and every packet that tried to leave it.

Run as root by `unshare --net --mount`. The only way out is a device with nothing at its end, which
is recorded from before the first process until after the last; questions of DNS leave by it too.
Prints one JSON object: the packets of each phase, and the results of requests and commands.

    unshare --net --mount -- python -m tests.chaos.fence HOME inside|overflow [RERANKER]
"""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import httpx

from benchmarks.running.ports import free_port
from tests.chaos.packet_recorder import PacketRecorder
from tests.end_to_end.backend import (
    RINGFENCE,
    environment,
    processes_of,
    start,
    stop,
    wait_until_ready,
)

DEVICE = "outside"
OUTSIDE, OUTSIDE_6 = "192.0.2.1", "2001:db8::1"
"""Reserved addresses of RFC 5737 and RFC 3849."""

METADATA, METADATA_NAME = "169.254.169.254", "metadata.google.internal"
"""Address of the metadata service in a cloud."""

MODELS = """
models:
  - id: simulated
    simulation: {step_base_ms: 5}
    max_ongoing_requests: 2
    max_queued_requests: 2
  - all-minilm-l6-v2
admission: {max_queue_wait_s: 1}
"""

OVERFLOW = f"""
overflow:
  max_wait_s: 0.1
  resume_wait_s: 0.05
  dwell_s: 0
  max_share: 1
  providers:
    - name: outside
      kind: openai
      base_url: http://{OUTSIDE}/v1
      allow_http: true
      api_key: sk-nobody
      connect_timeout_s: 1
      models: [{{model: large, stands_in_for: [simulated], context_tokens: 100000}}]
"""

REAL_MODEL = "  - smollm2-135m-instruct\n"


def configuration(kind: str) -> str:
    """`overflow` has a provider, `inside` has none, and `engine` has none and a real model."""
    if kind == "overflow":
        return MODELS + OVERFLOW
    return MODELS if kind == "inside" else MODELS.replace("admission:", f"{REAL_MODEL}admission:")


def build_fence(home: Path) -> None:
    """Create a loopback, and a device for all other traffic, DNS included."""
    lines = [
        "ip link set lo up",
        f"ip link add {DEVICE} type veth peer name beyond",
        f"ip addr add 192.0.2.2/24 dev {DEVICE}",
        f"ip link set {DEVICE} up",
        "ip link set beyond up",
        f"ip neigh add {OUTSIDE} lladdr 02:00:00:00:00:01 dev {DEVICE} nud permanent",
        f"ip route add default via {OUTSIDE}",
    ]
    if Path("/proc/sys/net/ipv6").exists():
        lines += [
            f"ip -6 addr add 2001:db8::2/64 dev {DEVICE} nodad",
            f"ip -6 neigh add {OUTSIDE_6} lladdr 02:00:00:00:00:01 dev {DEVICE} nud permanent",
            f"ip -6 route add default via {OUTSIDE_6}",
        ]
    resolver, order = home / "resolv.conf", home / "nsswitch.conf"
    resolver.write_text(f"nameserver {OUTSIDE}\noptions timeout:1 attempts:1\n")
    order.write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    lines += [f"mount --bind {file} /etc/{file.name}" for file in (resolver, order)]
    for line in lines:
        subprocess.run(line.split(), check=True)


ATTEMPTS = f"""
import contextlib, socket
for address in ("{METADATA}", "{OUTSIDE_6}"):
    with contextlib.suppress(OSError):
        socket.create_connection((address, 80), timeout=0.2)
with contextlib.suppress(OSError):
    socket.getaddrinfo("{METADATA_NAME}", 80)
"""
"""What the recorder must see, to prove that it would have seen other packets."""


class Log:
    """The packets that left in each phase, and the answers."""

    def __init__(self, recorder: PacketRecorder) -> None:
        self._recorder = recorder
        self.phases: dict[str, dict[str, Any]] = {}

    def ends(self, phase: str, said: Any = None) -> None:
        """Record the end of a phase."""
        self.phases[phase] = {"left": self._recorder.take(), "said": said}


class Inside:
    """The application, its clients and its commands."""

    def __init__(self, home: Path, configured: str) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{free_port()}"
        file, self.log = home / "ringfence.yaml", home / "serve.log"
        file.write_text(configured)
        self.environment = environment(home) | {"RINGFENCE_PORT": self.url.rpartition(":")[2]}

    def start(self) -> None:
        self.process = start(self.home, int(self.url.rpartition(":")[2]), self.log)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        wait_until_ready(self.process, self.url, self.log)

    def commands(self, lines: Iterable[str]) -> dict[str, str]:
        """Run commands concurrently; return the errors of each."""
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            ended = {line: pool.submit(self._command, line) for line in lines}
        return {line: one.result() for line, one in ended.items()}

    def _command(self, line: str) -> str:
        ended = subprocess.run(
            [*RINGFENCE, *line.split()],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return "" if ended.returncode == 0 else ended.stderr[-500:] or str(ended.returncode)

    def key(self, privacy: str) -> str:
        admin = (self.home / "admin-key").read_text().strip()
        body = {"tenant": "default", "name": privacy, "privacy": privacy}
        answer = self.post("/admin/v1/keys", body, admin)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["key"])

    def post(self, path: str, body: dict[str, Any], key: str, **headers: str) -> httpx.Response:
        sent_headers = headers | {"authorization": f"Bearer {key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=sent_headers, timeout=60)

    def get(self, path: str, key: str) -> httpx.Response:
        return httpx.get(
            f"{self.url}{path}", headers={"authorization": f"Bearer {key}"}, timeout=60
        )

    def upload(self, key: str) -> httpx.Response:
        return httpx.post(
            f"{self.url}/v1/files",
            data={"purpose": "user_data"},
            files={"file": ("people.txt", b"Jane Roe is at +1 212 555 0199.")},
            headers={"authorization": f"Bearer {key}"},
            timeout=120,
        )

    def store(self, key: str) -> str:
        """Create a vector store with an indexed file."""
        store = self.post("/v1/vector_stores", {"name": "people"}, key).json()["id"]
        path = f"/v1/vector_stores/{store}/files"
        file = self.upload(key).json()["id"]
        self.post(path, {"file_id": file}, key)
        deadline = time.monotonic() + 60
        while self.get(f"{path}/{file}", key).json()["status"] == "in_progress":
            assert time.monotonic() < deadline, "the file is not indexed"
            time.sleep(0.1)
        return str(store)

    def kill_engine(self) -> None:
        """Kill all processes of the chat model's engine at once."""
        for process in processes_of(self.process, "Engine:simulated"):
            process.kill()


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Call Jane Roe on +1 212 555 0199."}]
    return {"model": "simulated", "messages": messages, "max_tokens": tokens, **more}


def corpus(inside: Inside, key: str, store: str, **privacy: Any) -> list[int]:
    """Send one request to every endpoint, with `privacy` in the body; return the statuses."""
    grounded = chat(file_search={"vector_store_ids": [store]}, **privacy)
    searched = f"/v1/vector_stores/{store}"
    answers = [
        inside.upload(key),
        inside.get("/v1/files", key),
        inside.get(f"{searched}/files", key),
        inside.post(f"{searched}/search", {"query": "Jane", **privacy}, key),
        inside.post("/v1/chat/completions", grounded, key),
        inside.post("/v1/chat/completions", grounded | {"stream": True}, key),
        inside.post("/v1/chat/completions", chat(**privacy), key),
        inside.post("/v1/chat/completions", chat(stream=True, **privacy), key),
        inside.post("/v1/completions", {"model": "simulated", "prompt": "Hi", **privacy}, key),
        inside.post("/v1/embeddings", {"model": "all-minilm-l6-v2", "input": "Hi", **privacy}, key),
        inside.post("/tokenize", {"model": "simulated", "prompt": "Hi"}, key),
        inside.post("/detokenize", {"model": "simulated", "tokens": [72]}, key),
        inside.get("/v1/models", key),
        inside.get("/v1/requests/none", key),
    ]
    return [answer.status_code for answer in answers]


def full(inside: Inside, key: str, then: Callable[[], list[int]]) -> list[int]:
    """Run something while the engine and its queue are full."""
    slow = chat(tokens=1000, ignore_eos=True)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(inside.post, "/v1/chat/completions", slow, key)
        time.sleep(1)
        return then()


def dead(inside: Inside, then: Callable[[], list[int]]) -> list[int]:
    """Run something while the engine is dead."""
    inside.kill_engine()
    return then()


ALONE = (
    "config check",
    "config schema",
    "config serve-config",
    "doctor",
    "models list",
    "keys create --tenant acme --name one",
    "receipt public-key",
)
"""Run commands that need no server."""

BESIDE = (
    "keys create --tenant acme --name two",
    "keys revoke one --tenant acme",
    "keys rotate two --tenant acme",
    "keys list",
    "tenants set acme --weight 2",
    "tenants list",
    "limits set tenant acme --requests-per-minute 100",
    "limits list",
    "budgets set tenant acme --day 10",
    "budgets list",
    "usage",
    "ledger show",
    "ledger verify",
    "ledger export",
    "ingest {documents} --store papers",
    "chat Hello --model simulated --max-tokens 4",
    "bench --model simulated --streams 1 --rates none --duration-s 0.5 --warm-up 1 --out {home}/b",
    "doctor",
)
"""Run commands that query a running server or work on its data."""


def within(inside: Inside, log: Log, kind: str) -> None:
    """Run everything without providers: nothing may leave."""
    key = inside.key("local_only")
    store = inside.store(key)
    log.ends("healthy", corpus(inside, key, store))
    if REAL_MODEL in configuration(kind):
        real = chat(tokens=4) | {"model": "smollm2-135m-instruct"}
        log.ends("engine", [inside.post("/v1/chat/completions", real, key).status_code])
    documents = inside.home / "documents"
    documents.mkdir()
    (documents / "one.txt").write_text("Jane Roe is at +1 212 555 0199.")
    places = {"documents": documents, "home": inside.home}
    log.ends("commands", inside.commands(line.format(**places) for line in BESIDE))


def at_the_border(inside: Inside, log: Log) -> None:
    """Run with a provider: only a request that may leave does so, and only to the provider."""
    closed, loose = inside.key("local_only"), inside.key("open")
    store = inside.store(closed)

    def ask() -> list[int]:
        said = corpus(inside, loose, store, privacy="local_only")
        return corpus(inside, closed, store) + said

    for state, statuses in (
        ("healthy", ask),
        ("full", lambda: full(inside, closed, ask)),
        ("dead", lambda: dead(inside, ask)),
    ):
        said = statuses()
        inside.wait_until_ready()
        time.sleep(3)  # For the gateway to hear of it.
        log.ends(state, said)
    said = full(
        inside,
        closed,
        lambda: [inside.post("/v1/chat/completions", chat(), loose).status_code],
    )
    log.ends("open", said)


def main(home: Path, kind: str) -> None:
    build_fence(home)
    with PacketRecorder(DEVICE) as recorder:
        log, inside = Log(recorder), Inside(home, configuration(kind))
        subprocess.run([sys.executable, "-c", ATTEMPTS], check=True)
        log.ends("attempts")
        if kind != "overflow":
            log.ends("before", inside.commands(ALONE))
        try:
            inside.start()
            log.ends("start")
            if kind == "overflow":
                at_the_border(inside, log)
            else:
                within(inside, log, kind)
        finally:
            stop(inside.process)
        log.ends("stop", inside.process.returncode)
    sys.stdout.write(json.dumps({"missed": recorder.missed, "phases": log.phases}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
