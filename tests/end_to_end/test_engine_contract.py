"""vLLM as an `Engine`: the suite that the simulated and the remote engine pass as well."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.end_to_end.backend import Backend, processes_of
from tests.models.engine_contract import RemoteEngineContract

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

CONTRACT = Path(__file__).with_name("vllm_contract.py")
DEADLINE_S = 560
PROMISES = sorted(name for name in dir(RemoteEngineContract) if name.startswith("test_"))


@pytest.fixture(scope="module")
def report(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By test of the contract, its failures; empty where all of its cases passed."""
    raylet = processes_of(backend.process, "raylet_socket_name")[0]
    arguments = dict(one.split("=", 1) for one in raylet.cmdline() if "=" in one)
    result = tmp_path_factory.mktemp("contract") / "report.xml"
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            f"--junitxml={result}",
            CONTRACT,
        ],
        env=raylet.environ() | {"RAY_ADDRESS": arguments["--gcs-address"]},
        timeout=DEADLINE_S,
        check=False,
    )
    failures: dict[str, str] = {}
    for case in ET.parse(result).iter("testcase"):  # noqa: S314  Pytest wrote it.
        name = str(case.get("name")).split("[", 1)[0]
        problems = [str(one.text) for kind in ("failure", "error") for one in case.findall(kind)]
        failures[name] = failures.get(name, "") + "\n".join(problems)
    return failures


@pytest.mark.parametrize("promise", PROMISES)
def test_vllm_engine_keeps_its_contract(report: dict[str, str], promise: str) -> None:
    assert report[promise] == ""
