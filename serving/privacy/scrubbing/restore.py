"""Restores values in an answer, piece by piece: the same text however it was cut.

Held back is only what the end of a piece has of a pseudonym that this request issued; in JSON also
an escape that was cut. A pseudonym that the request did not issue stays as it is.
"""

from __future__ import annotations

from serving.privacy.json_text import encoded, meant
from serving.privacy.scrubbing.pseudonym_variants import Forms


class Restorer:
    """Restores one text, of which the pieces come in order.

    In JSON a value is escaped for the string that it stands in, whatever it holds, so the JSON
    stays valid. Nothing can be done where its schema asks for a `maxLength`, `pattern`, `format` or
    `enum` that the value does not keep, nor for a string that itself holds JSON as text when the
    value has quotes, backslashes or line breaks: the inner JSON is text here.

    Args:
        forms: of the request's pseudonyms.
        in_json: whether the text is JSON, as a tool's arguments or structured output are.
    """

    __slots__ = ("_forms", "_held", "_in_json")

    def __init__(self, forms: Forms, *, in_json: bool = False) -> None:
        self._forms = forms
        self._in_json = in_json
        self._held = ""

    @property
    def held(self) -> str:
        """The text that is held back."""
        return self._held

    def feed(self, text: str) -> str:
        """Take a piece; what can be given now."""
        if self._held:
            text, self._held = self._held + text, ""
        if self._in_json and "\\" in text:
            return self._escaped(text)
        match = self._forms.first(text)
        if match is None:
            return text
        given, at = [], 0
        while match is not None:
            start, end, value = match
            given.append(text[at:start])
            if value is None:
                self._held = text[start:]
                return "".join(given)
            given.append(_inside_string(value) if self._in_json else value)
            at = end
            match = self._forms.first(text, at)
        return "".join((*given, text[at:]))

    def flush(self) -> str:
        """The rest, at the end of the text."""
        rest, self._held = self._held, ""
        return rest

    def _escaped(self, text: str) -> str:
        """Restore text with JSON escapes: forms are searched in what the escapes mean."""
        plain, places = meant(text)
        given, at = [], 0
        while (match := self._forms.first(plain, at)) and (value := match[2]) is not None:
            given += [text[places[at] : places[match[0]]], _inside_string(value)]
            at = match[1]
        upto = places[match[0]] if match else places[-1]
        self._held = text[upto:]
        return "".join((*given, text[places[at] : upto]))


def _inside_string(value: str) -> str:
    return encoded(value)[1:-1]
