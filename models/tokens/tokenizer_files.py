"""Reads a model's tokenizer and chat templates from a directory in Hugging Face's layout."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def tokenizer_config(directory: Path) -> dict[str, Any]:
    """Read `tokenizer_config.json`, merged with `special_tokens_map.json` of older models."""
    config = read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | read_json(directory / "special_tokens_map.json")


def template_sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates by name; files take precedence over the configuration."""
    files = {path.stem: path for path in (directory / "additional_chat_templates").glob("*.jinja")}
    if (directory / "chat_template.jinja").is_file():
        files["default"] = directory / "chat_template.jinja"
    if files:
        return {name: path.read_text("utf-8") for name, path in files.items()}
    kept = config.get("chat_template") or {}
    if isinstance(kept, list):
        return {template["name"]: template["template"] for template in kept}
    return {"default": kept} if isinstance(kept, str) else dict(kept)


def load_tokenizer(
    directory: Path, config: Mapping[str, Any], special: Mapping[str, str]
) -> Tokenizer:
    """Load the tokenizer as transformers' `TokenizersBackend` does, for whole texts."""
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    _give_back()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(config.get("split_special_tokens"))
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    named = dict.fromkeys((*special.values(), *_extra_special(config)))
    tokenizer.add_special_tokens(
        [AddedToken(text, special=True, normalized=False) for text in named if text not in known]
    )
    return tokenizer


def _give_back() -> None:
    """Return freed memory to the system. For a vocabulary of 49,000, glibc would keep 15 MB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Other C libraries lack it.
    if trim is not None:
        trim(0)


def _extra_special(config: Mapping[str, Any]) -> list[str]:
    """Return special tokens other than `SPECIAL_NAMES`: listed ones, or named by the model."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    listed = listed.values() if isinstance(listed, dict) else listed
    own = [value for name, value in config.items() if name.endswith("_token")]
    return [text for value in (*listed, *own) if (text := text_of(value))]


def text_of(token: Any) -> str | None:
    """Return the text of a special token, which is a string or an object."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if the file does not exist."""
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}
