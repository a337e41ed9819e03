from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from pydantic import SecretStr

from serving.domain.errors import IdempotencyConflict, IdempotencyTooLarge, IdempotencyUnavailable
from serving.idempotency.store import IdempotencyStore, Recorder, Replay, RunLost
from serving.storage.embedded_valkey import EmbeddedValkey
from serving.storage.errors import ValkeyUnavailable
from serving.storage.valkey import Valkey
from tests.serving.valkeys import (
    embedded_valkey_url,
    names,
    redis_url,
    valkey,
    valkey_prefix,
    valkey_url,
)

__all__ = ["embedded_valkey_url", "redis_url", "valkey", "valkey_prefix", "valkey_url"]

SECRET = SecretStr("server-secret-of-the-tests-0123456789")
SECRET_TEXT = SECRET.get_secret_value().encode()
CANARY = b"zebra-quartz-7731"

Open = Callable[..., IdempotencyStore]


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before == {asyncio.current_task()}


@pytest.fixture
def make_store(valkey: Valkey, valkey_prefix: str) -> Open:
    """Make stores on the same records, as gateways have them."""

    def build(*, over: Any = valkey, **settings: Any) -> IdempotencyStore:
        return IdempotencyStore(over, SECRET, prefix=valkey_prefix, **settings)

    return build


@pytest.fixture
def store(make_store: Open) -> IdempotencyStore:
    return make_store()


class Flaky:
    """A Valkey that refuses commands, or executes them and loses the reply."""

    def __init__(self, valkey: Valkey) -> None:
        self.valkey = valkey
        self.refuses = self.loses_replies = False
        self.calls = 0

    async def run(self, script: str, *args: bytes | str | int) -> Any:
        self.calls += 1
        if self.refuses:
            raise ValkeyUnavailable("refused")
        reply = await self.valkey.run(script, *args)
        if self.loses_replies:
            self.loses_replies = False
            raise ValkeyUnavailable("the reply was lost")
        return reply

    async def command(self, *words: bytes | str | float) -> Any:
        if self.refuses:
            raise ValkeyUnavailable("refused")
        return await self.valkey.command(*words)


async def begin(
    store: IdempotencyStore, *, tenant: str = "acme", key: str = "k", request: bytes = b"r"
) -> Recorder | Replay:
    return await store.begin(tenant, key, request)


async def recorder(store: IdempotencyStore, **asked: Any) -> Recorder:
    begun = await begin(store, **asked)
    assert isinstance(begun, Recorder)
    return begun


async def replay(store: IdempotencyStore, **asked: Any) -> Replay:
    begun = await begin(store, **asked)
    assert isinstance(begun, Replay)
    return begun


async def record(store: IdempotencyStore, *pieces: bytes, keep: bool = True, **asked: Any) -> None:
    async with await recorder(store, **asked) as recording:
        for piece in pieces:
            recording.write(piece)
        await recording.finish(keep=keep)


async def read(found: Replay) -> bytes:
    async with asyncio.timeout(60), aclosing(found.read()) as pieces:
        return b"".join([piece async for piece in pieces])


async def test_first_request_is_to_run_and_every_other_is_to_read(store: IdempotencyStore) -> None:
    begun = await asyncio.gather(*(begin(store) for _ in range(20)))
    assert sorted(type(one).__name__ for one in begun) == ["Recorder"] + ["Replay"] * 19


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, 3_000_000])
async def test_answer_of_any_size_is_read_as_it_was_written(
    store: IdempotencyStore, size: int
) -> None:
    answer = secrets.token_bytes(size)
    await record(store, answer)
    assert await read(await replay(store)) == answer


async def test_answer_in_many_pieces_is_read_in_their_order(store: IdempotencyStore) -> None:
    pieces = [b"%d," % number for number in range(5000)]
    await record(store, *pieces)
    assert await read(await replay(store)) == b"".join(pieces)


async def test_answer_is_read_while_it_is_written(store: IdempotencyStore) -> None:
    async with await recorder(store) as recording, aclosing((await replay(store)).read()) as pieces:
        recording.write(b"one")
        first = await anext(pieces)
        recording.write(b"two")
        second = await anext(pieces)
        await recording.finish(keep=True)
        assert [first, second, *[piece async for piece in pieces]] == [b"one", b"two"]


async def test_answer_is_read_by_another_gateway(make_store: Open) -> None:
    await record(make_store(), b"answer")
    assert await read(await replay(make_store())) == b"answer"


@pytest.mark.parametrize("ended", [False, True])
async def test_key_of_another_request_is_refused(store: IdempotencyStore, *, ended: bool) -> None:
    if ended:
        await record(store, request=b"one")
    else:
        await recorder(store, request=b"one")
    with pytest.raises(IdempotencyConflict):
        await begin(store, request=b"two")


async def test_key_of_another_request_is_refused_when_whoever_ran_that_is_gone(
    make_store: Open,
) -> None:
    store = make_store(lease_s=0.1)
    await recorder(store, request=b"one")
    await asyncio.sleep(0.2)
    with pytest.raises(IdempotencyConflict):
        await begin(store, request=b"two")


async def test_tenants_have_keys_of_their_own(store: IdempotencyStore) -> None:
    await record(store, b"answer", tenant="acme", request=b"one")
    await recorder(store, tenant="globex", request=b"two")


async def test_tenant_and_key_are_not_run_together(store: IdempotencyStore) -> None:
    await record(store, tenant="a:b", key="c")
    await recorder(store, tenant="a", key="b:c")


async def test_answer_that_is_not_kept_is_given_to_those_who_read_it(
    store: IdempotencyStore,
) -> None:
    async with await recorder(store) as recording:
        found = await replay(store)
        recording.write(b"refused")
        await recording.finish(keep=False)
    assert await read(found) == b"refused"


async def test_answer_that_is_not_kept_is_forgotten(store: IdempotencyStore) -> None:
    await record(store, b"refused", keep=False)
    await recorder(store, request=b"another")


async def test_answer_is_forgotten_after_its_time(make_store: Open) -> None:
    store = make_store(ttl_s=0.2)
    await record(store, b"answer")
    await asyncio.sleep(0.3)
    await recorder(store, request=b"another")


async def test_nothing_is_kept_without_an_expiry(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str
) -> None:
    async with await recorder(store) as recording:
        recording.write(b"answer")
        await recording.finish(keep=True)
        await recorder(store, key="running")
    left = [await valkey.command("PTTL", name) for name in await names(valkey, valkey_prefix)]
    assert len(left) == 4
    assert all(0 < milliseconds <= 86_410_000 for milliseconds in left)


async def test_answer_that_is_too_large_is_refused_to_a_repeat(make_store: Open) -> None:
    store = make_store(max_bytes=1000)
    await record(store, b"x" * 600, b"y" * 401)
    with pytest.raises(IdempotencyTooLarge):
        await begin(store)


async def test_answer_of_the_largest_size_is_kept(make_store: Open) -> None:
    store = make_store(max_bytes=1000)
    await record(store, b"x" * 600, b"y" * 400)
    assert len(await read(await replay(store))) == 1000


async def test_answer_that_becomes_too_large_is_lost_to_those_who_read_it(
    make_store: Open, valkey: Valkey, valkey_prefix: str
) -> None:
    store = make_store(max_bytes=1000)
    async with await recorder(store) as recording:
        recording.write(b"x" * 600)
        async with aclosing((await replay(store)).read()) as pieces:
            await anext(pieces)
            recording.write(b"y" * 401)
            with pytest.raises(RunLost):
                await anext(pieces)
        recording.write(b"z")
        await recording.finish(keep=True)
    assert len(await names(valkey, valkey_prefix)) == 1  # The record, and none of its pieces.


async def test_lease_is_renewed_while_nothing_is_written(make_store: Open) -> None:
    store = make_store(lease_s=0.8)
    async with await recorder(store) as recording:
        await asyncio.sleep(1.2)
        found = await replay(store)
        recording.write(b"late")
        await recording.finish(keep=True)
    assert await read(found) == b"late"


async def test_run_whose_lease_ran_out_is_taken_over_by_exactly_one(make_store: Open) -> None:
    store = make_store(lease_s=0.2)
    lost = await half_recorded(store)
    await asyncio.sleep(0.3)
    begun = await asyncio.gather(*(begin(store) for _ in range(10)))
    [new] = [one for one in begun if isinstance(one, Recorder)]
    async with new:
        new.write(b"whole")
        await new.finish(keep=True)
    assert [await read(one) for one in begun if isinstance(one, Replay)] == [b"whole"] * 9
    with pytest.raises(RunLost):
        await read(lost)


async def test_reader_of_a_run_learns_that_its_lease_ran_out(make_store: Open) -> None:
    lost = await half_recorded(make_store(lease_s=0.2))
    async with aclosing(lost.read()) as pieces:
        assert await anext(pieces) == b"half"
        with pytest.raises(RunLost):
            await anext(pieces)


async def half_recorded(store: IdempotencyStore) -> Replay:
    """Leave a record whose recorder was killed, so that nothing is released."""
    async with await recorder(store) as recording:
        recording.write(b"half")
        found = await replay(store)
        async with aclosing(found.read()) as pieces:
            await anext(pieces)
        recording._writer.cancel()
        await asyncio.wait([recording._writer])
    return found


async def test_run_that_is_given_up_is_taken_over_at_once(store: IdempotencyStore) -> None:
    with pytest.raises(RuntimeError):
        async with await recorder(store):
            raise RuntimeError
    await recorder(store)


@pytest.mark.parametrize("keep", [False, True])
async def test_run_that_was_taken_over_changes_nothing_any_more(
    store: IdempotencyStore, *, keep: bool
) -> None:
    async with await recorder(store) as stalled:
        stalled.write(b"old")
        await stalled._run.release()
        async with await recorder(store) as new:
            await stalled.finish(keep=keep)
            await new._run.release()
            await recorder(store)
            with pytest.raises(IdempotencyConflict):
                await begin(store, request=b"another")


async def test_run_whose_pieces_valkey_has_lost_is_not_whole(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str
) -> None:
    async with await recorder(store) as recording:
        recording.write(b"one")
        async with aclosing((await replay(store)).read()) as pieces:
            await anext(pieces)
        for name in await names(valkey, valkey_prefix):
            if name.endswith((b":pieces", b":lease")):
                await valkey.command("DEL", name)
        recording.write(b"two")
        await recording.finish(keep=True)
    await recorder(store)


async def test_run_whose_lease_ran_out_goes_on_when_nobody_took_it_over(make_store: Open) -> None:
    store = make_store(lease_s=10)
    async with await recorder(store) as stalled:
        await stalled._run.release()
        stalled.write(b"late")
        await stalled.finish(keep=True)
    assert await read(await replay(store)) == b"late"


async def test_nothing_begins_while_valkey_is_away(make_store: Open, valkey: Valkey) -> None:
    flaky = Flaky(valkey)
    flaky.refuses = True
    with pytest.raises(IdempotencyUnavailable):
        await begin(make_store(over=flaky))


async def test_valkey_may_be_away_for_a_moment(make_store: Open, valkey: Valkey) -> None:
    flaky = Flaky(valkey)
    store = make_store(over=flaky)
    async with await recorder(store) as recording:
        recording.write(b"one,")
        flaky.refuses = True
        await asyncio.sleep(0.2)
        recording.write(b"two")
        flaky.refuses = False
        await recording.finish(keep=True)
    assert await read(await replay(store)) == b"one,two"


async def test_append_whose_reply_was_lost_is_not_made_twice(
    make_store: Open, valkey: Valkey
) -> None:
    flaky = Flaky(valkey)
    store = make_store(over=flaky)
    async with await recorder(store) as recording:
        found = await replay(store)
        flaky.loses_replies = True
        recording.write(b"one,")
        await asyncio.sleep(0.2)
        flaky.loses_replies = True
        recording.write(b"two")
        await recording.finish(keep=True)
    assert await read(found) == b"one,two"


async def test_valkey_that_stays_away_ends_the_recording_and_not_the_writing(
    make_store: Open, valkey: Valkey
) -> None:
    flaky = Flaky(valkey)
    store = make_store(over=flaky, lease_s=0.2)
    async with await recorder(store) as recording:
        recording.write(b"one")
        flaky.refuses = True
        async with asyncio.timeout(30):
            await recording.finish(keep=True)
        recording.write(b"two")
    flaky.refuses = False
    await recorder(store)


async def test_reader_gives_up_when_valkey_stays_away(make_store: Open, valkey: Valkey) -> None:
    flaky = Flaky(valkey)
    store = make_store(over=flaky, lease_s=0.2)
    await record(store, b"answer")
    found = await replay(store)
    flaky.refuses = True
    with pytest.raises(IdempotencyUnavailable):
        await read(found)


async def test_what_has_piled_up_goes_to_valkey_together(make_store: Open, valkey: Valkey) -> None:
    flaky = Flaky(valkey)
    await record(make_store(over=flaky), *(b"token" for _ in range(1000)))
    assert flaky.calls == 2


async def test_valkey_holds_nothing_in_clear(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str
) -> None:
    await record(
        store, CANARY * 10_000, tenant=CANARY.decode(), key=CANARY.decode(), request=CANARY
    )
    held = b"".join([await contents(valkey, name) for name in await names(valkey, valkey_prefix)])
    assert len(held) > len(CANARY) * 10_000
    assert [form for form in (CANARY, CANARY.hex().encode(), SECRET_TEXT) if form in held] == []


async def contents(valkey: Valkey, name: bytes) -> bytes:
    """Return a key, its name and all of its values."""
    kind = await valkey.command("TYPE", name)
    if kind == b"hash":
        fields = await valkey.command("HGETALL", name)
        pairs = fields.items() if isinstance(fields, dict) else [fields]
        return b"".join([name, *(part for pair in pairs for part in pair)])
    if kind == b"list":
        return b"".join([name, *await valkey.command("LRANGE", name, 0, -1)])
    return name + bytes(await valkey.command("GET", name))


async def test_same_request_of_two_tenants_looks_different_in_valkey(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str
) -> None:
    await record(store, b"answer", tenant="acme")
    await record(store, b"answer", tenant="globex")
    kept = [name for name in await names(valkey, valkey_prefix) if not name.endswith(b":pieces")]
    prints = [await valkey.command("HGET", name, "fingerprint") for name in kept]
    assert len(set(prints)) == len(kept) == 2


@pytest.mark.parametrize("change", ["swap", "flip"])
async def test_answer_that_was_changed_in_valkey_is_not_given(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str, change: str
) -> None:
    await record(store, b"a" * 20_000)
    [pieces] = [n for n in await names(valkey, valkey_prefix) if n.endswith(b":pieces")]
    first, second = await valkey.command("LRANGE", pieces, 0, 1)
    changed = second if change == "swap" else bytes([first[0] ^ 1]) + first[1:]
    await valkey.command("LSET", pieces, 0, changed)
    with pytest.raises(IdempotencyUnavailable):
        await read(await replay(store))


async def test_answer_whose_pieces_were_deleted_is_made_again(
    store: IdempotencyStore, valkey: Valkey, valkey_prefix: str
) -> None:
    await record(store, b"answer")
    [pieces] = [n for n in await names(valkey, valkey_prefix) if n.endswith(b":pieces")]
    await valkey.command("DEL", pieces)
    await recorder(store)


async def test_answer_outlives_the_embedded_server(tmp_path: Any) -> None:
    server = EmbeddedValkey(tmp_path)
    server.ensure()
    valkey = Valkey.open(server.url, timeout_s=5.0)
    store = IdempotencyStore(valkey, SECRET)
    try:
        await record(store, b"answer")
        await valkey.close()
        server.stop()
        with pytest.raises(IdempotencyUnavailable):
            await begin(store)
        server.ensure()
        await asyncio.sleep(0.3)
        assert await read(await replay(store)) == b"answer"
    finally:
        await valkey.close()
        server.stop()
