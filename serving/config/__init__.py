"""`ringfence.yaml` and the environment, read once into frozen settings.

The only module that reads the process environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.catalog import builtin
from serving.config.problems import ConfigError, problems_of
from serving.config.settings import (
    DEFAULT_MODELS,
    AccessSettings,
    AdmissionSettings,
    BudgetDefault,
    IdempotencySettings,
    LimitDefault,
    LimitSettings,
    RateDefaults,
    ServerSettings,
    Settings,
)

__all__ = [
    "DEFAULT_MODELS",
    "AccessSettings",
    "AdmissionSettings",
    "BudgetDefault",
    "ConfigError",
    "IdempotencySettings",
    "LimitDefault",
    "LimitSettings",
    "RateDefaults",
    "ServerSettings",
    "Settings",
]

QUIET_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "ANONYMIZED_TELEMETRY": "False",
}
"""No telemetry and no download at run time: set for every process we start."""

EMBEDDED_VALKEY = "RINGFENCE_EMBEDDED_VALKEY"
"""Environment variable that tells gateways the URL of the Valkey which `ringfence serve` started.
Not for operators."""


def read(path: Path | None) -> dict[str, Any]:
    """The mapping in a configuration file, `${ENV}` not yet filled in; empty without a file.

    Raises:
        ConfigError: no such file, not YAML, or not a mapping.
    """
    if path is None:
        return {}
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"cannot read {str(path)!r}: {error.strerror}"]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{str(path)!r} is not YAML: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError([f"{str(path)!r} must hold a mapping, not {type(raw).__name__}"])
    return raw


def parse(raw: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from a configuration mapping and the environment.

    Raises:
        ConfigError: an unknown key, a wrong value, or an unset `${ENV}`.
    """
    environ = os.environ if environ is None else environ
    if given := {"home", "api_key", "embedded_valkey"} & set(raw):
        raise ConfigError([f"{min(given)}: set in the environment, not in the configuration"])
    if "home" in _group(raw, "access"):
        raise ConfigError(["access.home: unknown key; the state directory is RINGFENCE_HOME"])
    home = Path(environ.get("RINGFENCE_HOME") or ".ringfence").absolute()
    filled = dict(_fill(raw, environ, "")) if raw else {}
    if port := environ.get("RINGFENCE_PORT"):
        filled["server"] = _group(filled, "server") | {"port": port}
    filled["access"] = _group(filled, "access") | {"home": home}
    api_key = environ.get("RINGFENCE_API_KEY") or None
    try:
        own = {"home": home, "api_key": api_key, "embedded_valkey": environ.get(EMBEDDED_VALKEY)}
        return Settings.model_validate(filled | own)
    except ValidationError as error:
        raise ConfigError(problems_of(error, Settings)) from None


def _group(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = raw.get(name) or {}
    if not isinstance(group, Mapping):
        raise ConfigError([f"{name}: must hold a mapping, not {type(group).__name__}"])
    return dict(group)


def load(path: Path | None = None) -> Settings:
    """Settings from a file (or RINGFENCE_CONFIG, or the built-in configuration).

    Raises:
        ConfigError: see `read` and `parse`.
    """
    return parse(read(config_path(path)))


def config_path(path: Path | None) -> Path | None:
    """The file given, else the one RINGFENCE_CONFIG names, else none."""
    named = os.environ.get("RINGFENCE_CONFIG")
    return path or (Path(named) if named else None)


def export_environment(values: Mapping[str, str]) -> None:
    """Set variables for this process and those it starts."""
    os.environ.update(values)


def json_schema() -> dict[str, Any]:
    """JSON Schema of `ringfence.yaml`."""
    schema = Settings.model_json_schema()
    for name in ("home", "api_key", "embedded_valkey"):
        schema["properties"].pop(name, None)
    schema["$defs"]["AccessSettings"]["properties"].pop("home", None)
    entry = {"anyOf": [{"enum": sorted(builtin())}, {"$ref": "#/$defs/ModelSpec"}]}
    schema["properties"]["models"]["items"] = entry
    entry_of = schema["$defs"]["ModelSpec"]
    entry_of["properties"]["base"] = {
        "enum": sorted(builtin()),
        "description": "Take this catalogue entry and change the fields given here.",
    }
    del entry_of["required"]
    entry_of["anyOf"] = [{"required": ["id"]}, {"required": ["base"]}]
    schema["title"] = "ringfence.yaml"
    return schema


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _fill(value: Any, environ: Mapping[str, str], where: str) -> Any:
    if isinstance(value, Mapping):
        return {k: _fill(v, environ, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, environ, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if missing := [name for name in _VARIABLE.findall(value) if name not in environ]:
        raise ConfigError([f"{where}: the environment variable {missing[0]} is not set"])
    return _VARIABLE.sub(lambda found: environ[found[1]], value)
