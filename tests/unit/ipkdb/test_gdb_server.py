"""GDB's commands on a simulated kernel: each reply, hidden breakpoints, and an unreliable network."""

from __future__ import annotations

import asyncio
import struct
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipkdb.kernel import DATA, LOOP_INCREMENT, NAMES, PAGE, PROGRAM, TEXT, make_cpu
from ipkdb.lab import Bench
from ipkdb.network import IDEAL, Impairment, run

from rumplab.gdb import rsp
from rumplab.gdb.rsp import Packet, Parser, Sign
from rumplab.ipkdb.arch import ARCHES
from rumplab.ipkdb.faults import Lost
from rumplab.ipkdb.gdb_server import Stub
from rumplab.ipkdb.target import Target

PC, AX, CX = NAMES.index("eip"), NAMES.index("eax"), NAMES.index("ecx")


def talk(*commands: str | bytes, impairment: Impairment = IDEAL, prepare: Any = None, seed: int = 0) -> Any:
    """Run a session with these commands; return (replies, bench, stub)."""

    async def main() -> Any:
        bench = Bench(impairment, seed)
        if prepare:
            prepare(bench)
        await bench.link.open("t", 10)
        stub = bench.stub()
        replies = [await stub.handle(c.encode() if isinstance(c, str) else c) for c in commands]
        return [reply if reply is None else reply.decode() for reply in replies], bench, stub

    return run(main())


def replies(*commands: str | bytes, **options: Any) -> list[str]:
    result: list[str] = talk(*commands, **options)[0]
    return result


def word(value: int) -> str:
    return struct.pack("<I", value).hex()


def counter(reply: str) -> int:
    """Return the program counter of a stop reply."""
    fields = dict(field.split(":") for field in reply[3:].split(";") if field)
    return int(struct.unpack("<I", bytes.fromhex(fields["08"]))[0])


def test_supported_features() -> None:
    (answer, mode, attached, why) = replies("qSupported:multiprocess+;swbreak+", "QStartNoAckMode", "qAttached", "?")
    features = answer.split(";")
    assert {"QStartNoAckMode+", "qXfer:features:read+", "swbreak+"} < set(features)
    assert features[0].startswith("PacketSize=")
    assert (mode, attached) == ("OK", "1")
    assert why.startswith("T05") and counter(why) == TEXT


@pytest.mark.parametrize(
    "command", ["vCont?", "vMustReplyEmpty", "Hg0", "qC", "!", "", "qRcmd,00", "Z1,0,1", "z2,0,1", "\x7f"]
)
def test_unknown_commands_get_an_empty_reply(command: str) -> None:
    assert replies(command) == [""]


@pytest.mark.parametrize("name", ARCHES)
def test_description_is_served_in_pieces(name: str) -> None:
    async def main() -> str:
        stub = Stub(Target(Bench().link, ARCHES[name]), print)
        text, at = "", 0
        while True:
            piece = await stub.handle(f"qXfer:features:read:target.xml:{at:x},40".encode())
            assert piece is not None
            plain = rsp.unescape(piece)
            text, at = text + plain[1:].decode(), at + len(plain) - 1
            if plain[:1] == b"l":
                return text

    root = ElementTree.fromstring(run(main()))
    registers = sorted(root.iter("reg"), key=lambda one: int(one.attrib["regnum"]))
    assert [one.attrib["name"] for one in registers] == [register.name for register in ARCHES[name].registers]
    assert [int(one.attrib["bitsize"]) for one in registers] == [8 * one.size for one in ARCHES[name].registers]


def test_registers_one_by_one_and_all() -> None:
    every, one, missing, beyond, setting, again = replies("g", "p8", "p10", "p99", f"P0={word(7)}", "p0")
    assert every[16 * 4 : 16 * 4 + 8] == one == word(TEXT)
    assert set(every[128:]) == {"x"} and len(every) == 2 * (64 + 8 * 10 + 8 * 4)
    assert missing == "xx" * 10
    assert (beyond, setting, again) == ("E01", "OK", word(7))


def test_all_registers_are_set_with_or_without_those_that_are_missing() -> None:
    new = "".join(word(number) for number in range(16))
    for tail in ("", "00" * 112):
        answer, bench, _ = talk("G" + new + tail, "g")
        assert answer[0] == "OK" and answer[1][:128] == new
        assert [bench.kernel.cpu.registers[name] for name in NAMES] == list(range(16))
    assert replies("G" + new[:-2], "G" + "zz" * 64) == ["E01", "E01"]


def test_registers_are_requested_once_per_stop() -> None:
    _, bench, _ = talk("g", "g", "p8", "?", "s", "g", "p0")
    assert bench.kernel.done.count(b"R") == 2


def test_only_the_data_of_a_stop_is_prefetched() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.link.open("t", 10)
        stub = bench.stub()
        assert stub.ready(b"g") is None, "not requested yet"
        stopped = await stub.handle(b"s")
        assert stopped is not None and stopped.startswith(b"T05")
        assert stub.ready(b"g") == await stub.handle(b"g")
        assert stub.ready(f"m{TEXT:x},4".encode()) is None
        await stub.look_ahead()
        await asyncio.sleep(1)
        done = list(bench.kernel.done)
        assert stub.ready(f"m{TEXT:x},4".encode()) == PROGRAM[:4].hex().encode()
        for other in (f"m{TEXT + 62:x},4", f"m{TEXT - 1:x},4", f"m{DATA:x},4", "mzz,4", "m", "?", "s", "G00", "p0", ""):
            assert stub.ready(other.encode()) is None, other
        assert bench.kernel.done == done, "nothing was requested from the target"
        await stub.handle(f"M{TEXT:x},1:41".encode())
        assert stub.ready(f"m{TEXT:x},4".encode()) is None, "memory has changed since"
        running = asyncio.create_task(stub.handle(b"c"))
        await asyncio.sleep(0)
        assert stub.ready(b"g") is None
        running.cancel()

    run(main())


def test_prefetched_memory_does_not_show_a_breakpoint() -> None:
    async def main() -> bytes | None:
        bench = Bench()
        await bench.link.open("t", 10)
        stub = bench.stub()
        await stub.handle(f"Z0,{LOOP_INCREMENT:x},1".encode())
        await stub.handle(b"s")
        await stub.look_ahead()
        await asyncio.sleep(1)
        assert bench.kernel.cpu.byte(LOOP_INCREMENT) == 0xCC
        return stub.ready(f"m{LOOP_INCREMENT:x},1".encode())

    assert run(main()) == f"{PROGRAM[LOOP_INCREMENT - TEXT]:02x}".encode()


def test_a_target_that_is_lost_while_prefetching_is_reported_by_the_next_command() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.link.open("t", 10)
        stub = bench.stub()
        await stub.handle(b"?")
        bench.kernel.boot()
        await stub.look_ahead()
        await asyncio.sleep(30)
        with pytest.raises(Lost):
            await stub.handle(f"m{DATA:x},4".encode())
        assert not bench.said

    run(main())


def test_memory_in_every_way() -> None:
    size = 1000
    read, hexed, binary, probe, back = replies(
        f"m{DATA:x},{size:x}",
        f"M{DATA:x},4:01020304",
        f"X{DATA + 4:x},4:".encode() + b"#$}*",
        f"X{DATA:x},0:",
        f"m{DATA:x},8",
    )
    assert bytes.fromhex(read) == bytes((at * 13 + (at >> 8)) & 0xFF for at in range(size))
    assert (hexed, binary, probe) == ("OK", "OK", "OK")
    assert bytes.fromhex(back) == b"\1\2\3\4#$}*"


@pytest.mark.parametrize(
    "command",
    ["m1", "mzz,1", "m,1", "M0,2:00", "M0,1:0", f"m{1 << 32:x},4", "X0,2:a", "Z0,0,2", "Z0,zz,1", "P0", "P0=00"],
)
def test_commands_that_cannot_be_done_are_errors(command: str) -> None:
    answer, _, stub = talk(command, "g")
    assert answer[0] == "E01"
    assert len(answer[1]) > 100
    assert stub.target.link.pending is None


def test_unreadable_memory_reads_as_ff() -> None:
    assert replies("m100,4") == ["ffffffff"]


def test_gdb_of_another_architecture_gets_an_error() -> None:
    for command in (f"m{0xFFFFFFFF81000000:x},8", "qSupported:xmlRegisters=arm", "G0011"):
        assert "i386" in talk(command)[1].said[0]


def test_breakpoint_stops_at_its_address_each_time_round() -> None:
    answer, bench, _ = talk(f"Z0,{LOOP_INCREMENT:x},1", "c", "c", "c", "p0")
    assert [counter(reply) for reply in answer[1:4]] == [LOOP_INCREMENT] * 3
    assert answer[4] == word(4), "each round increments twice, and the breakpoint is before the first increment"
    assert bench.kernel.cpu.registers["eip"] == LOOP_INCREMENT


def test_breakpoint_says_so_only_to_a_gdb_that_asks() -> None:
    place = f"Z0,{LOOP_INCREMENT:x},1"
    assert "swbreak" in replies("qSupported:swbreak+", place, "c")[2]
    assert "swbreak" not in replies("qSupported:", place, "c")[2]


def test_step_at_a_breakpoint_steps_over_it() -> None:
    answer, bench, _ = talk(f"Z0,{TEXT:x},1", "s", "s", f"m{TEXT:x},7")
    assert [counter(reply) for reply in answer[1:3]] == [TEXT + 1, TEXT + 2]
    assert bytes.fromhex(answer[3]) == PROGRAM
    assert bench.kernel.cpu.byte(TEXT) == 0xCC


def test_neighbouring_breakpoints_on_one_byte_instructions() -> None:
    answer = replies(*(f"Z0,{TEXT + at:x},1" for at in range(5)), *["c"] * 7)
    assert [counter(reply) - TEXT for reply in answer[5:]] == [1, 2, 3, 4, 0, 1, 2]


def test_continue_at_an_address() -> None:
    answer = replies(f"Z0,{TEXT + 4:x},1", f"c{TEXT + 3:x}", f"s{TEXT + 3:x}", "p0", "p1")
    assert counter(answer[1]) == TEXT + 4 and counter(answer[2]) == TEXT + 4
    assert answer[3:] == [word(0), word(2)]


def test_signals_are_refused() -> None:
    answer, bench, _ = talk("C05", "S02", "?")
    assert answer[:2] == ["E01", "E01"]
    assert "signal" in bench.said[0] and not {b"C", b"S"} & set(bench.kernel.done)


def test_a_breakpoint_that_gdb_removes_and_inserts_again_needs_no_request() -> None:
    place = f"0,{TEXT + 4:x},1"
    _, bench, _ = talk("Z" + place, "s", "z" + place, "Z" + place, "s", "z" + place, "Z" + place, "s")
    assert sum(data[:1] == b"N" for data in bench.kernel.done) == 1


def test_removed_breakpoint_is_gone_before_the_target_runs() -> None:
    place = f"0,{TEXT + 1:x},1"
    answer, bench, _ = talk("Z" + place, "z" + place, "s", "s", "s")
    assert [counter(reply) - TEXT for reply in answer[2:]] == [1, 2, 3]
    assert bench.kernel.cpu.byte(TEXT + 1) == 0x90


def test_breakpoint_in_memory_that_cannot_be_written_is_an_error() -> None:
    def lock(bench: Bench) -> None:
        bench.kernel.cpu.locked.add(TEXT // PAGE)

    answer, bench, stub = talk(f"Z0,{TEXT:x},1", f"Z0,{DATA:x},1", f"Z0,{0x100:x},1", prepare=lock)
    assert answer == ["E0e", "OK", "E0e"]
    assert list(stub.breakpoints.code) == [DATA]
    assert "can't be written" in bench.said[0]


@pytest.mark.parametrize("leave", ["D", "D;1", "k"])
def test_detaching_leaves_no_trace(leave: str) -> None:
    answer, bench, stub = talk(f"Z0,{TEXT + 4:x},1", f"Z0,{DATA:x},1", f"M{TEXT + 4:x},1:41", leave, "g")
    assert answer[3] == (None if leave == "k" else "OK")
    assert answer[4] == "" and stub.over
    assert bench.kernel.detached
    assert bench.kernel.cpu.byte(TEXT + 4) == 0x41 and bench.kernel.cpu.byte(DATA) == 0


# Whole sessions.

PLACES = [*range(TEXT, TEXT + 5), DATA + 3, DATA + 4, DATA + 388]


def commands() -> st.SearchStrategy[str]:
    place = st.sampled_from(PLACES)
    return st.one_of(
        place.map(lambda at: f"Z0,{at:x},1"),
        place.map(lambda at: f"z0,{at:x},1"),
        st.tuples(st.integers(DATA - 4, DATA + 8), st.integers(0, 900)).map(lambda t: f"m{t[0]:x},{t[1]:x}"),
        st.tuples(st.integers(DATA - 4, DATA + 8), st.binary(max_size=12)).map(
            lambda t: f"M{t[0]:x},{len(t[1]):x}:{t[1].hex()}"
        ),
        st.sampled_from(["s", "g", "?", "p8"]),
        st.integers(0, 2**32 - 1).map(lambda value: f"P3={word(value)}"),
        # The loop stops only at a breakpoint, so set one before `c`.
        st.just(f"Z0,{LOOP_INCREMENT:x},1+c"),
    )


def spelled(sequence: list[str]) -> list[str]:
    return [part for command in sequence for part in command.split("+")]


@given(st.lists(commands(), max_size=25).map(spelled))
@settings(max_examples=150)
def test_memory_looks_as_if_there_were_no_breakpoints(sequence: list[str]) -> None:
    """Compare reads, and the memory after detaching, with a plain copy of the memory."""
    answer, bench, _ = talk(*sequence, "D")
    memory = fresh_memory()
    for command, reply in zip(sequence, answer, strict=False):
        address, _, rest = command[1:].partition(",")
        if command[0] == "m":
            start, size = int(address, 16), int(rest, 16)
            assert bytes.fromhex(reply) == bytes(memory.get(start + at, 0xFF) for at in range(size))
        elif command[0] == "M":
            for at, byte in enumerate(bytes.fromhex(rest.partition(":")[2])):
                if int(address, 16) + at in memory:
                    memory[int(address, 16) + at] = byte
    assert {at: bench.kernel.cpu.byte(at) for at in memory} == memory


def fresh_memory() -> dict[int, int]:
    """Return the content of the pages that the commands above can reach."""
    pages = make_cpu().pages
    return {base + at: byte for base in (TEXT, DATA) for at, byte in enumerate(pages[base // PAGE])}


def session(sequence: list[str], impairment: Impairment, seed: int) -> tuple[list[bytes | None], bool, list[bytes]]:
    """Run a session; return (replies, whether it ended with Lost, the commands that the kernel executed)."""

    async def main() -> Any:
        bench = Bench(impairment, seed)
        answers: list[bytes | None] = []
        try:
            await bench.link.open("t", 10)
            stub = bench.stub()
            for command in sequence:
                answers.append(await stub.handle(command.encode()))
        except Lost:
            return answers, True, bench.kernel.done
        return answers, False, bench.kernel.done

    result: tuple[list[bytes | None], bool, list[bytes]] = run(main())
    return result


def plain(done: list[bytes]) -> list[bytes]:
    """Strip the session id, which differs each time, from the open commands."""
    return [data[:1] if data[:1] == b"O" else data for data in done]


impairments = st.builds(
    Impairment,
    lose=st.floats(0, 0.5),
    repeat=st.floats(0, 0.5),
    damage=st.floats(0, 0.3),
    delay=st.floats(0.0001, 0.1),
    spread=st.floats(0, 2.0),
)


@given(st.lists(commands(), max_size=12).map(spelled), impairments, st.integers(0, 2**32))
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_on_any_network_each_command_is_done_once_or_ends_in_a_clean_error(
    sequence: list[str], impairment: Impairment, seed: int
) -> None:
    fine, failed, done = session(sequence, IDEAL, 0)
    assert not failed
    rough, failed, rough_done = session(sequence, impairment, seed)
    if failed:
        assert rough == fine[: len(rough)]
        assert plain(rough_done) == plain(done)[: len(rough_done)]
    else:
        assert rough == fine
        assert plain(rough_done) == plain(done)


# Parsers.


def test_frames_are_parsed_however_the_stream_is_split() -> None:
    stream = b"+" + rsp.frame(b"g") + b"-\x03" + rsp.frame(b"X0,3:" + rsp.escape(b"#$}"))
    stream += b"$m0,1#00" + b"$abc" + rsp.frame(b"?")
    expected = [
        Sign.ACK,
        Packet(b"g"),
        Sign.NAK,
        Sign.INTERRUPT,
        Packet(b"X0,3:#$}"),
        Sign.BROKEN,
        Packet(b"?"),
    ]
    for size in range(1, len(stream) + 1):
        parser = Parser()
        found = [event for at in range(0, len(stream), size) for event in parser.feed(stream[at : at + size])]
        assert found == expected


@pytest.mark.parametrize(
    ("data", "packet"),
    [
        (b"+$S05#b8", b"S05"),
        (b"$S05#B8", b"S05"),
        (b"$S05#b9", None),
        (b"$#00", b""),
        (b"$S05", None),
        (b"$S05#b9$OK#9a", b"OK"),
        (b"$$OK#9a", b"OK"),
        (b"$half#$OK#9a", b"OK"),
        (b"$half#1$OK#9a", b"OK"),
    ],
)
def test_what_surrounds_a_packet_is_passed_over(data: bytes, packet: bytes | None) -> None:
    assert next((part.data for part in Parser().feed(data) if isinstance(part, Packet)), None) == packet


@given(st.binary(max_size=64))
def test_escapes_are_undone(data: bytes) -> None:
    escaped = rsp.escape(data)
    assert not {ord("#"), ord("$"), ord("*")} & set(escaped)
    assert rsp.unescape(escaped) == data
    assert list(Parser().feed(rsp.frame(escaped))) == [Packet(data)]


def test_frame_without_an_end_is_bounded() -> None:
    parser = Parser()
    assert list(parser.feed(b"$")) == []
    signs = [event for _ in range(100) for event in parser.feed(b"a" * 4096)]
    assert signs == [Sign.BROKEN]
    assert list(parser.feed(rsp.frame(b"g"))) == [Packet(b"g")]


def test_a_command_of_a_second_gdb_waits_for_the_first_ones() -> None:
    async def main() -> None:
        bench = Bench()
        await bench.link.open("t", 10)
        stub = bench.stub()
        going = asyncio.ensure_future(stub.handle(b"c"))
        await asyncio.sleep(1)
        assert stub.running
        asking = asyncio.ensure_future(stub.handle(b"?"))
        await asyncio.sleep(1)
        assert not asking.done()
        bench.kernel.cpu.store(LOOP_INCREMENT, 0xCC)
        assert counter((await going or b"").decode()) == LOOP_INCREMENT + 1, "a breakpoint of the kernel's own"
        assert (await asking or b"")[:3] == b"T05"

    run(main())
