"""IPKDB's packets, and requests over an unreliable network, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ipkdb.kernel import DATA, KEY, TEXT, seal
from ipkdb.lab import Bench
from ipkdb.network import Impairment, run

from rumplab.errors import RumplabError, UsageError
from rumplab.ipkdb import key, packet
from rumplab.ipkdb.arch import ARCHES, I386
from rumplab.ipkdb.faults import Refused, Silent, Unexpected, WrongKey
from rumplab.ipkdb.link import Hint
from rumplab.ipkdb.packet import BadMac, Malformed, Packet
from rumplab.ipkdb.target import Target, split

ROUGH = Impairment(lose=0.1, repeat=0.1, delay=0.0005, spread=0.004)


def test_packet_has_the_documented_bytes() -> None:
    # The digest comes from `openssl dgst -md5 -hmac 'a key for the laboratory'` over the first 15 bytes.
    expected = bytes.fromhex("00000007 0009 4d c0100000 00000010".replace(" ", ""))
    datagram = packet.encode(Packet(7, packet.peek(TEXT, 16)), KEY)
    assert datagram[:15] == expected
    assert datagram == seal(7, expected[6:])
    assert packet.decode(datagram, KEY) == Packet(7, packet.peek(TEXT, 16))


def test_rfc_2104_vector() -> None:
    assert packet.digest(b"what do ya want for nothing?", b"Jefe").hex() == "750c783e6ab0b503eaa86e310a5db738"


@pytest.mark.parametrize(
    ("datagram", "error"),
    [
        (b"", Malformed),
        (seal(1, b"s")[:-1], Malformed),
        (seal(1, b"")[:22], Malformed),
        (seal(1, b"s")[:4] + b"\xff\xff" + seal(1, b"s")[6:], Malformed),
        (seal(1, b"s", b"some other key, of a length"), BadMac),
        (b"\0" + seal(1, b"s")[1:-1] + b"x", BadMac),
    ],
)
def test_invalid_packets_are_refused(datagram: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        packet.decode(datagram, KEY)


def test_reads_are_split_at_the_limit_and_go_round_the_end_of_memory() -> None:
    assert split(0x100, 800) == [(0x100, 388), (0x284, 388), (0x408, 24)]
    assert split(0xFFFFFF00, 400) == [(0xFFFFFF00, 388), (0x84, 12)]
    assert split(0, 0) == []


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_architecture_tables_agree_with_themselves(arch: Any) -> None:
    sent = sum(register.size for register in arch.registers if register.sent)
    assert sent <= arch.area
    area = bytes(range(256)) * 2
    area = area[: arch.area]
    for number, register in enumerate(arch.registers):
        value = arch.value(area, number)
        if register.sent:
            assert arch.value(arch.with_value(area, number, bytes(register.size)), number) == bytes(register.size)
            assert len(arch.with_value(area, number, value)) == arch.area
        else:
            assert value is None
    assert arch.counter(arch.with_counter(area, 0xC0DE1234)) == 0xC0DE1234
    assert all(arch.number(name) >= 0 for name in arch.shown)


@pytest.mark.parametrize(
    ("name", "register", "word"),
    [("powerpc", "pc", 96), ("powerpc", "xer", 101), ("arm", "spsr", 17), ("i386", "gs", 15)],
)
def test_registers_stand_where_netbsd_has_them(name: str, register: str, word: int) -> None:
    assert ARCHES[name].offset(ARCHES[name].number(register)) == 4 * word


def with_bench(impairment: Impairment, act: Any, **options: Any) -> Any:
    async def main() -> Any:
        bench = Bench(impairment, **options)
        return await act(bench)

    return run(main())


def test_session_over_a_good_network_sends_nothing_twice() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("tester@host", 5)
        assert len(await Target(bench.link, I386).registers()) == 64
        assert [data[:1] for data in bench.kernel.done] == [b"O", b"R"]
        assert bench.kernel.done[0][5:] == b"tester@host"
        assert bench.network.carried == 4

    with_bench(Impairment(), act)


@pytest.mark.parametrize("seed", range(20))
def test_64_kib_at_a_tenth_lost_arrive_right(seed: int) -> None:
    async def act(bench: Bench) -> tuple[bytes, float]:
        await bench.link.open("t", 10)
        start = asyncio.get_running_loop().time()
        data = await Target(bench.link, I386).read(DATA, 65536)
        return data, asyncio.get_running_loop().time() - start

    data, seconds = with_bench(Impairment(lose=0.1, delay=0.0005), act, seed=seed)
    assert data == bytes((page * 7 + at * 13 + (at >> 8)) & 0xFF for page in range(16) for at in range(4096))
    assert seconds < 30


@pytest.mark.parametrize("seed", range(10))
def test_every_request_is_done_once(seed: int) -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        target = Target(bench.link, I386)
        for number in range(50):
            await target.write(DATA + number, bytes((number,)))
            await target.step()
        writes = [data for data in bench.kernel.done if data[:1] == b"N"]
        assert [data[-1] for data in writes] == list(range(50))
        assert bench.kernel.done.count(b"S") == 50

    with_bench(ROUGH, act, seed=seed)


def test_a_damaged_datagram_is_requested_again() -> None:
    async def act(bench: Bench) -> bytes:
        await bench.link.open("t", 10)
        bench.network.impairment = Impairment(damage=0.3)
        return await Target(bench.link, I386).read(DATA, 4096)

    assert with_bench(Impairment(), act) == bytes((at * 13 + (at >> 8)) & 0xFF for at in range(4096))


def test_wrong_key_of_a_target_that_repeats_itself_is_told_at_once() -> None:
    """A session with the right key came first, so the target answers a wrong HMAC with its last reply."""

    async def act(bench: Bench) -> float:
        await bench.link.open("t", 10)
        bench.add(("192.0.2.1", 40000), b"quite another key, no?")
        stranger = bench.links[("192.0.2.1", 40000)]
        start = asyncio.get_running_loop().time()
        with pytest.raises(WrongKey, match="IPKDBKEY"):
            await stranger.open("t", 30)
        return asyncio.get_running_loop().time() - start

    assert with_bench(Impairment(), act) < 0.1


def test_wrong_key_of_a_fresh_target_is_silence() -> None:
    async def act(bench: Bench) -> None:
        with pytest.raises(Silent, match="nothing for 5 s"):
            await bench.link.open("t", 5)

    with_bench(Impairment(), act, key=b"quite another key, no?")


def test_the_wait_is_bounded_and_repeats_become_rarer() -> None:
    async def act(bench: Bench) -> None:
        with pytest.raises(Silent, match="nothing for 60 s"):
            await bench.link.open("t", 60)
        assert 55 < bench.network.carried < 100

    with_bench(Impairment(lose=1.0), act)


def test_a_running_kernel_is_waited_for() -> None:
    async def act(bench: Bench) -> None:
        bench.kernel.running = True

        def stop() -> None:
            bench.kernel.running = False

        asyncio.get_running_loop().call_later(20, stop)
        await bench.link.open("t", 60)
        assert asyncio.get_running_loop().time() >= 20

    with_bench(Impairment(), act)


def test_the_error_for_a_silent_kernel_says_that_it_runs() -> None:
    async def act(bench: Bench) -> None:
        bench.kernel.running = True
        with pytest.raises(Silent, match="nobody listens there"):
            await bench.link.open("t", 3)

    with_bench(Impairment(), act)


@pytest.mark.parametrize("refusals", [True, False])
def test_late_stop_is_waited_for_and_its_loss_is_noticed(refusals: bool) -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        target = Target(bench.link, I386)
        asyncio.get_running_loop().call_later(300, bench.kernel.cpu.store, TEXT + 2, 0xCC)
        going = asyncio.ensure_future(target.go())
        await asyncio.sleep(299)
        assert not going.done()
        bench.network.impairment = Impairment(lose=0.6)
        await going
        assert bench.kernel.done.count(b"C") == 1

    with_bench(Impairment(), act, refusals=refusals)


def test_target_that_restarts_is_a_clean_error() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        bench.kernel.boot()
        with pytest.raises(Silent, match="restarted"):
            await Target(bench.link, I386).registers()
        # The result of that request is unknown, so its number can't be used again: a new session must begin.
        with pytest.raises(RumplabError, match="hasn't answered"):
            await bench.link.request(b"X")
        await bench.link.open("t", 10)
        assert len(await Target(bench.link, I386).registers()) == 64

    with_bench(Impairment(), act)


def test_another_debugger_takes_over() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("first", 10)
        other = bench.add(("192.0.2.9", 50000))
        await other.open("second", 10)
        with pytest.raises(Silent, match="another debugger"):
            await Target(bench.link, I386).registers()
        assert len(await Target(other, I386).registers()) == 64

    with_bench(Impairment(), act)


def test_errors_of_the_target_are_reported_and_the_session_goes_on() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        with pytest.raises(Refused, match="unknown command"):
            await bench.link.request(b"Q")
        with pytest.raises(Refused, match="invalid register size"):
            await bench.link.request(b"W1234")
        assert len(await Target(bench.link, I386).registers()) == 64

    with_bench(Impairment(), act)


def test_registers_of_another_architecture_are_named() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        with pytest.raises(Unexpected, match=r"64 bytes of registers, and powerpc has 420; .* --arch"):
            await Target(bench.link, ARCHES["powerpc"]).registers()

    with_bench(Impairment(), act)


def test_a_flood_of_invalid_datagrams_is_bounded() -> None:
    async def act(bench: Bench) -> None:
        await bench.link.open("t", 10)
        for number in range(10_000):
            bench.link.received(seal(number + 5, b"p"))
            bench.link.received(b"x" * (number % 100))
            bench.link.hinted(Hint.UNREACHABLE)
        assert len(bench.link._inbox) <= 64
        assert len(await Target(bench.link, I386).registers()) == 64

    with_bench(Impairment(), act)


def test_key_comes_from_a_private_file_or_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY + b"\n")
    path.chmod(0o600)
    monkeypatch.delenv(key.VARIABLE, raising=False)
    assert key.load(path) == KEY
    assert key.load(None, path) == KEY
    monkeypatch.setenv(key.VARIABLE, "another one of length")
    assert key.load(None, path) == b"another one of length"
    monkeypatch.delenv(key.VARIABLE)
    with pytest.raises(UsageError, match=f"--key-file.*{key.VARIABLE}"):
        key.load(None, tmp_path / "absent")
    path.chmod(0o644)
    with pytest.raises(RumplabError, match="chmod 600"):
        key.load(path)


@pytest.mark.parametrize("bad", [b"too short a key", b"with a \0 in the middle of it", b"x" * 5000])
def test_bad_key_is_refused_and_not_shown(bad: bytes, tmp_path: Any) -> None:
    path = tmp_path / "key"
    path.write_bytes(bad)
    path.chmod(0o600)
    with pytest.raises(RumplabError) as caught:
        key.load(path)
    assert bad.decode("latin-1") not in str(caught.value)
