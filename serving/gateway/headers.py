"""Headers that tell where an answer came from. Nothing leaves yet, so there is one route."""

LOCAL = [(b"x-ringfence-route", b"local"), (b"x-ringfence-privacy", b"local_only")]
