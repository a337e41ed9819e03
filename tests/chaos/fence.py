"""The whole application in a network namespace of its own, and what tried to get out.

Run as root by `unshare --net`: the only way out is a device that counts packets, with nobody at its
end. A name look-up counts too. Prints one JSON object: packets that went out in each state.

    unshare --net -- python -m tests.chaos.fence HOME
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.ports import free_port
from tests.end_to_end.backend import stop, wait_until_ready

OUTSIDE = "192.0.2.1"
"""Of RFC 5737: an address that nobody has."""

CONFIGURATION = f"""
models:
  - id: simulated
    simulation: {{step_base_ms: 5}}
    max_ongoing_requests: 2
    max_queued_requests: 2
  - all-minilm-l6-v2
admission: {{max_queue_wait_s: 1}}
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


def build_fence() -> None:
    """A loopback, and a device to which everything else goes."""
    for line in (
        "ip link set lo up",
        "ip link add outside type veth peer name beyond",
        "ip addr add 192.0.2.2/24 dev outside",
        "ip link set outside up",
        "ip link set beyond up",
        f"ip neigh add {OUTSIDE} lladdr 02:00:00:00:00:01 dev outside nud permanent",
        f"ip route add default via {OUTSIDE}",
    ):
        subprocess.run(line.split(), check=True)
    for device in ("outside", "beyond"):
        switch = Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6")
        if switch.exists():
            switch.write_text("1")


def sent() -> int:
    told = subprocess.run(
        ["ip", "-s", "-j", "link", "show", "outside"], check=True, capture_output=True
    )
    return int(json.loads(told.stdout)[0]["stats64"]["tx"]["packets"])


class Inside:
    """The application, and its clients."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{free_port()}"
        file, self.log = home / "ringfence.yaml", home / "serve.log"
        file.write_text(CONFIGURATION)
        own = {k: v for k, v in os.environ.items() if not k.startswith("RINGFENCE_")}
        port = self.url.rpartition(":")[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.cli", "serve", "-c", str(file), "--port", port],
            env=own | {"RINGFENCE_HOME": str(home)},
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
        )

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
            timeout=60,
        )

    def store(self, key: str) -> str:
        """A vector store with a file that is indexed."""
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
        """Every process of the chat model's engine, at once."""
        for process in psutil.process_iter(["cmdline"]):
            if "Engine:simulated" in " ".join(process.info["cmdline"] or ()):
                process.kill()


def chat(tokens: int = 4, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Call Jane Roe on +1 212 555 0199."}]
    return {"model": "simulated", "messages": messages, "max_tokens": tokens, **more}


def corpus(inside: Inside, key: str, store: str, **privacy: str) -> list[int]:
    """One request for every endpoint; `privacy` is said in the body. The statuses."""
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
    """Do something while the engine and its queue are full."""
    slow = chat(tokens=1000, ignore_eos=True)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(8):
            pool.submit(inside.post, "/v1/chat/completions", slow, key)
        time.sleep(1)
        return then()


def dead(inside: Inside, then: Callable[[], list[int]]) -> list[int]:
    """Do something while the engine is dead."""
    inside.kill_engine()
    return then()


def main(home: Path) -> None:
    build_fence()
    inside = Inside(home)
    try:
        wait_until_ready(inside.process, inside.url, inside.log)
        closed, loose = inside.key("local_only"), inside.key("open")
        told: dict[str, Any] = {"before": sent()}
        store = inside.store(closed)

        def ask() -> list[int]:
            said = corpus(inside, loose, store, privacy="local_only")
            return corpus(inside, closed, store) + said

        for state, statuses in (
            ("healthy", ask),
            ("full", lambda: full(inside, closed, ask)),
            ("dead", lambda: dead(inside, ask)),
        ):
            told[state] = {"statuses": statuses(), "packets": sent() - told["before"]}
            wait_until_ready(inside.process, inside.url, inside.log)
            time.sleep(3)  # For the gateway to hear of it.
        tried = full(
            inside,
            closed,
            lambda: [inside.post("/v1/chat/completions", chat(), loose).status_code],
        )
        told["open"] = {"statuses": tried, "packets": sent() - told["before"]}
        sys.stdout.write(json.dumps(told) + "\n")
    finally:
        stop(inside.process)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
