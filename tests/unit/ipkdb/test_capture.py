"""Captures: tshark reads ours, we read those of other programs, and decoding checks the HMAC."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import subprocess
from collections import Counter
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipkdb.kernel import DATA, KEY, TEXT, seal
from ipkdb.server import Server
from support.labfixture import LabPrefix, host_tool

from rumplab.errors import RumplabError
from rumplab.ipkdb import capture_record, decode, ipv4, pcap
from rumplab.ipkdb.capture_record import Record
from rumplab.ipkdb.decode import describe, printable
from rumplab.ipkdb.ipv4 import Datagram
from rumplab.ipkdb.pcap import Writer

HOST, GUEST = (IPv4Address("10.0.1.1"), 40000), (IPv4Address("10.0.1.50"), 1138)
SESSION = [
    (HOST, GUEST, seal(0, b"O\0\0\1\0me@here")),
    (GUEST, HOST, seal(0, b"s")),
    (HOST, GUEST, seal(1, b"M" + struct.pack(">II", TEXT, 4))),
    (HOST, GUEST, seal(1, b"M" + struct.pack(">II", TEXT, 4))),
    (GUEST, HOST, seal(1, b"p\x90\x90\x40\x41")),
    (HOST, GUEST, seal(2, b"N" + struct.pack(">II", DATA, 2) + b"ab")),
    (GUEST, HOST, seal(2, b"ok", b"of another one, this is")),
]


def write(path: Path) -> Path:
    times = iter(range(1000, 2000))
    writer = Writer(path, lambda: next(times) + 0.25)
    for source, target, payload in SESSION:
        writer.add(Datagram(source, target, payload))
    writer.close()
    return path


def test_decoding_describes_each_datagram(tmp_path: Path) -> None:
    lines = decode.read(write(tmp_path / "x.pcap"), KEY).lines
    assert [(line.time, line.seq, line.hmac, line.repeated) for line in lines] == [
        (0.0, 0, "good", False),
        (1.0, 0, "good", False),
        (2.0, 1, "good", False),
        (3.0, 1, "good", True),
        (4.0, 1, "good", False),
        (5.0, 2, "good", False),
        (6.0, 2, "bad", False),
    ]
    assert lines[0].text == "O open, id 0x100, me@here"
    assert lines[2].text == "M read 4 bytes at 0xc0100000"
    assert lines[4].text == "p 4 bytes: 90904041"
    assert lines[5].text == "N write 2 bytes at 0xc0200000: 6162"
    assert (lines[0].source, lines[0].target) == ("10.0.1.1:40000", "10.0.1.50:1138")
    assert {line.hmac for line in decode.read(tmp_path / "x.pcap", None).lines} == {"unchecked"}


def test_verb_decodes(empty_lab: LabPrefix, tmp_path: Path) -> None:
    path, key_file = write(tmp_path / "x.pcap"), tmp_path / "key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    text = empty_lab.tool("ipkdb", "decode", path, "--key-file", key_file)
    assert text.returncode == 1, "a HMAC is bad"
    assert len(text.stdout.splitlines()) == len(SESSION) and "[HMAC bad]" in text.stdout
    data = json.loads(empty_lab.tool("ipkdb", "decode", path, "--json").stdout)
    assert [line["seq"] for line in data] == [0, 0, 1, 1, 1, 2, 2]
    assert data[0].keys() == {"time", "source", "target", "seq", "hmac", "text", "repeated"}


def test_tshark_finds_nothing_malformed(empty_lab: LabPrefix, tmp_path: Path) -> None:
    """tshark reads the capture of a real session."""
    path, key_file = tmp_path / "x.pcap", tmp_path / "key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    tshark = host_tool("tshark")
    with Server() as server:
        done = empty_lab.tool(
            *("ipkdb", "check-port", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file, "--pcap", path)
        )
    assert done.returncode == 0, done.stdout + done.stderr
    options = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    fields = [part for name in ("udp.srcport", "udp.dstport", "_ws.expert.message") for part in ("-e", name)]
    shown = subprocess.run(
        [tshark, "-r", str(path), *options, "-T", "fields", *fields],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    rows = [line.split("\t") for line in shown.stdout.splitlines()]
    assert len(rows) > 100
    assert all(str(server.port) in row[:2] for row in rows)
    assert not [row for row in rows if row[2]], "tshark reports a fault in a datagram"
    verbose = subprocess.run(
        [tshark, "-r", str(path), *options, "-Y", "_ws.malformed or ip.checksum.status==0 or udp.checksum.status==0"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert verbose.stdout == ""
    assert {line.hmac for line in decode.read(path, KEY).lines} == {"good", "bad"}, "check-port sends wrong HMACs, too"


@given(st.binary(max_size=600), st.integers(0, 65535), st.integers(0, 65535))
def test_datagrams_survive(payload: bytes, port: int, identification: int) -> None:
    datagram = Datagram((HOST[0], port), GUEST, payload)
    packet = ipv4.encode(datagram, identification)
    assert ipv4.checksum(packet[:20]) == 0
    pseudo = packet[12:20] + struct.pack(">BBH", 0, 17, len(packet) - 20)
    assert ipv4.checksum(pseudo + packet[20:]) == 0
    assert ipv4.decode(packet) == datagram
    assert ipv4.decode(packet + b"padding of Ethernet") == datagram


PACKET = ipv4.encode(Datagram(HOST, GUEST, SESSION[0][2]), 1)


def block(order: str, kind: int, body: bytes) -> bytes:
    """Return a block of a pcapng file."""
    body += b"\0" * (-len(body) % 4)
    length = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + length + body + length


def record(link: int, frame: bytes, order: str = "<", magic: int = pcap.MAGIC) -> io.BytesIO:
    head = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    return io.BytesIO(head + struct.pack(f"{order}IIII", 7, 5, len(frame), len(frame)) + frame)


@pytest.mark.parametrize(
    ("link", "before"),
    [
        (capture_record.RAW, b""),
        (capture_record.IPV4, b""),
        (capture_record.ETHERNET, b"\1" * 12 + b"\x08\x00"),
        (capture_record.ETHERNET, b"\1" * 12 + b"\x81\x00\x00\x05\x08\x00"),
        (capture_record.LINUX_COOKED, b"\0" * 14 + b"\x08\x00"),
        (capture_record.ETHERNET, b"\1" * 12 + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x08\x00"),
        (capture_record.LINUX_COOKED_2, b"\x08\x00" + b"\0" * 18),
        (capture_record.NULL, b"\2\0\0\0"),
        (capture_record.NULL, b"\0\0\0\2"),
        (capture_record.LOOP, b"\0\0\0\2"),
        (12, b""),
        (14, b""),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_captures_of_other_programs_are_read(link: int, before: bytes, order: str) -> None:
    frame = before + ipv4.encode(Datagram(HOST, GUEST, SESSION[0][2]), 1)
    for magic, second in ((pcap.MAGIC, 1e-6), (pcap.MAGIC_NANO, 1e-9)):
        (found,) = pcap.records(record(link, frame, order, magic), "x")
        assert found.time == pytest.approx(7 + 5 * second, abs=1e-12)
        datagram = capture_record.datagram(found)
        assert datagram is not None and datagram.payload == SESSION[0][2]


@pytest.mark.parametrize("frame", [b"", b"\x60" * 40, b"\1" * 12 + b"\x08\x06" + b"\0" * 40])
@pytest.mark.parametrize(
    "link",
    [
        capture_record.RAW,
        capture_record.ETHERNET,
        capture_record.LINUX_COOKED,
        capture_record.LINUX_COOKED_2,
        capture_record.NULL,
    ],
)
def test_frames_of_other_protocols_are_skipped(link: int, frame: bytes) -> None:
    assert capture_record.datagram(Record(0.0, link, frame, cut=False)) is None


@given(st.binary(max_size=200), st.sampled_from([*capture_record.RAWS, 0, 1, 108, 113, 276, 999]), st.booleans())
def test_any_frame_is_read_without_an_exception(frame: bytes, link: int, cut: bool) -> None:
    for data in (frame, b"\x45" + frame, b"\1" * 12 + b"\x08\x00\x45" + frame):
        for _ in decode.lines(iter([Record(0.0, link, data, cut)]), KEY, Counter()):
            pass


@pytest.mark.parametrize(
    ("link", "frame", "why"),
    [
        (999, PACKET, "1 record of link type 999, which isn't read"),
        (capture_record.ETHERNET, b"\1" * 12 + b"\x08\x00" + PACKET[:26], "1 record cut off"),
        (capture_record.RAW, PACKET[:6] + b"\x20\x00" + PACKET[8:], "1 record a fragment"),
    ],
)
def test_an_unreadable_capture_is_an_error_with_status_1(
    empty_lab: LabPrefix, key_file: Path, tmp_path: Path, link: int, frame: bytes, why: str
) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(record(link, frame).getvalue())
    for form in ((), ("--json",)):
        done = empty_lab.tool("ipkdb", "decode", path, "--key-file", key_file, *form)
        assert (done.returncode, done.stdout.strip()) == (1, "[]" if form else "")
        assert why in done.stderr


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(("resolution", "unit"), [(b"", 10**6), (b"\x09", 10**9), (b"\x8a", 2**10)])
def test_pcapng_is_read(order: str, resolution: bytes, unit: int) -> None:
    frame = b"\1" * 12 + b"\x08\x00" + PACKET
    options = struct.pack(f"{order}HH", 9, 1) + resolution + b"\0" * 3 if resolution else b""
    stamp = 7 * unit + 1
    packet = struct.pack(f"{order}IIIII", 1, stamp >> 32, stamp & 0xFFFFFFFF, len(frame), len(frame)) + frame
    content = b"".join(
        [
            block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1)),
            block(order, 1, struct.pack(f"{order}HHI", 147, 0, 0)),
            block(order, 1, struct.pack(f"{order}HHI", capture_record.ETHERNET, 0, 0) + options),
            block(order, 4, b"names"),
            block(order, 6, packet),
            block(order, 6, packet)[:-9],
        ]
    )
    (found,) = pcap.records(io.BytesIO(content), "x")
    assert found.time == pytest.approx(7 + 1 / unit, abs=1e-12)
    datagram = capture_record.datagram(found)
    assert datagram is not None and datagram.payload == SESSION[0][2]


@given(st.lists(st.tuples(st.integers(0, 8), st.binary(max_size=60)), max_size=6), st.binary(max_size=20))
def test_any_pcapng_is_read_or_refused(blocks: list[tuple[int, bytes]], end: bytes) -> None:
    head = block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
    content = head + b"".join(block("<", kind, body) for kind, body in blocks) + end
    with contextlib.suppress(RumplabError):
        for _ in decode.lines(pcap.records(io.BytesIO(content), "x"), KEY, Counter()):
            pass


def test_pcapng_of_wiresharks_tools_is_read(tmp_path: Path) -> None:
    classic, newer = write(tmp_path / "x.pcap"), tmp_path / "x.pcapng"
    subprocess.run([host_tool("editcap"), "-F", "pcapng", classic, newer], timeout=60, check=True)
    assert newer.read_bytes()[:4] == b"\x0a\x0d\x0d\x0a"
    assert decode.read(newer, KEY).lines == decode.read(classic, KEY).lines


def test_a_file_that_is_not_a_capture_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x"
    newer = b"\x0a\x0d\x0d\x0a" + b"\0" * 40
    for content, complaint in ((b"", "not a pcap"), (newer, "is damaged"), (b"x" * 99, "not a pcap")):
        path.write_bytes(content)
        with pytest.raises(RumplabError, match=complaint):
            decode.read(path, None)
    with pytest.raises(RumplabError, match="No such file"):
        decode.read(tmp_path / "absent", None)
    with pytest.raises(RumplabError, match="damaged"):
        list(pcap.records(io.BytesIO(record(1, b"").getvalue()[:-8] + b"\xff" * 8), "x"))


def test_a_truncated_capture_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    path = write(tmp_path / "x.pcap")
    path.write_bytes(path.read_bytes()[:-3])
    assert len(decode.read(path, KEY).lines) == len(SESSION) - 1


@given(st.binary(min_size=1, max_size=64))
def test_descriptions_contain_no_control_characters(data: bytes) -> None:
    assert describe(data).isprintable()
    assert printable(data).isascii() and printable(data).isprintable()
