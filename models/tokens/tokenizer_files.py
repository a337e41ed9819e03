"""A model's tokenizer and chat templates, read from its directory in Hugging Face's layout."""

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
    """`tokenizer_config.json`, with what older models keep in `special_tokens_map.json`."""
    config = read_json(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return config | read_json(directory / "special_tokens_map.json")


def template_sources(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name; files come before what the configuration holds."""
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
    """The tokenizer as transformers' `TokenizersBackend` sets it up, for whole texts."""
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
    """Return to the system what reading took: of a vocabulary of 49,000, 15 MB that glibc keeps."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # Other C libraries have none.
    if trim is not None:
        trim(0)


def _extra_special(config: Mapping[str, Any]) -> list[str]:
    """Special tokens beyond those of `SPECIAL_NAMES`: listed, or named by the model."""
    listed = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    listed = listed.values() if isinstance(listed, dict) else listed
    own = [value for name, value in config.items() if name.endswith("_token")]
    return [text for value in (*listed, *own) if (text := text_of(value))]


def text_of(token: Any) -> str | None:
    """A special token, which is written as its text or as an object with more."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) and text else None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    return dict(json.loads(path.read_bytes())) if path.is_file() else {}
