"""Format page: a packed segment, `journal-<first seq>.jsonl.gz`, the compressed bytes of a segment that is closed.

It is a gzip file (RFC 1952) of several members, so that `zcat` gives the plain one. Each member holds whole lines,
about PACKED_MEMBER_BYTES of them, and says in its extra field `KH` how long it is, what it holds and from which seq
on, so that a reader goes from header to header and unpacks only the member that it wants (as BGZF does):

    1f8b 08 04 00000000 00 ff   gzip, deflate, FEXTRA, no time, unknown system
    1c00 "KH" 1800              28 bytes of extra field, 24 of them in this subfield
    u32 member_bytes            of the whole member, this header included
    u32 content_bytes           of what it unpacks to
    u64 first_seq               of its first record
    u32 body_crc                CRC32 of all bytes after this header
    u32 fields_crc              CRC32 of the four fields before
    deflate, u32 CRC32 of the content, u32 content_bytes

Numbers are little-endian. No byte of it is unchecked: the fixed ones are compared, the others have a CRC, and what
comes out are sealed lines.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from kheish.errors import Corrupt
from kheish.limits import PACKED_MEMBER_BYTES, RECORD_BYTES_MAX
from kheish.store.records import segment_first_seq

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_SUFFIX = ".gz"
_FIXED = bytes.fromhex("1f8b08040000000000ff1c00") + b"KH" + bytes.fromhex("1800")
_FIELDS = struct.Struct("<IIQI")
_CRC = struct.Struct("<I")
_HEADER_BYTES = len(_FIXED) + _FIELDS.size + _CRC.size
_TRAILER = struct.Struct("<II")
_CONTENT_BYTES_MAX = RECORD_BYTES_MAX + PACKED_MEMBER_BYTES
_LEVEL = 6


def packed_path(path: Path) -> Path:
    """Where the packed form of a plain segment belongs."""
    return path.with_name(path.name + _SUFFIX)


def is_packed(path: Path) -> bool:
    return path.name.endswith(_SUFFIX)


def first_seq_of(name: str) -> int | None:
    """The first seq that a file name stands for; None where it is no segment's, plain or packed."""
    return segment_first_seq(name.removesuffix(_SUFFIX))


def pack(source: BinaryIO, first_seq: int) -> Iterator[bytes]:
    """The members for the bytes of a segment with this first seq."""
    lines: list[bytes] = []
    size, member_seq = 0, first_seq
    next_seq = first_seq - 1  # for the first line is the segment's header
    while line := source.readline(RECORD_BYTES_MAX + 1):
        if lines and size + len(line) > PACKED_MEMBER_BYTES:
            yield _member(b"".join(lines), member_seq)
            lines, size, member_seq = [], 0, next_seq
        lines.append(line)
        size += len(line)
        next_seq += 1
    if lines:
        yield _member(b"".join(lines), member_seq)


def _member(content: bytes, first_seq: int) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=-zlib.MAX_WBITS)
    body = packer.compress(content) + packer.flush() + _TRAILER.pack(zlib.crc32(content), len(content))
    fields = _FIELDS.pack(_HEADER_BYTES + len(body), len(content), first_seq, zlib.crc32(body))
    return _FIXED + fields + _CRC.pack(zlib.crc32(fields)) + body


class Member(NamedTuple):
    """A member as its header tells: `at` is its place in the file, `offset` that of its content in the plain one."""

    at: int
    offset: int
    member_bytes: int
    content_bytes: int
    first_seq: int
    body_crc: int


class PackedFile(io.RawIOBase):
    """The plain bytes of a packed segment, as a file to read. It holds one unpacked member at a time.

    `corrupt` makes the error for an offset in the plain bytes and a reason; it is raised where damage is met.
    """

    def __init__(self, path: Path, flags: int, corrupt: Callable[[int, str], Corrupt]) -> None:
        self._fd = os.open(path, flags)
        self._corrupt = corrupt
        self._known: list[Member] = []
        self._offset = 0
        self._unpacked: tuple[int, bytes] = (0, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._offset
        elif whence == os.SEEK_END:
            offset += sum(member.content_bytes for member in self.members())
        self._offset = max(0, offset)
        return self._offset

    def readinto(self, buffer: WriteableBuffer) -> int:
        """At most the rest of one member, so that what is sound before a damaged one can be read."""
        view = memoryview(buffer).cast("B")
        start, content = self._unpacked
        if not start <= self._offset < start + len(content):
            for member in self.members():
                if member.offset <= self._offset < member.offset + member.content_bytes:
                    self._unpacked = start, content = member.offset, self._unpack(member)
                    break
            else:
                return 0
        piece = content[self._offset - start :][: len(view)]
        view[: len(piece)] = piece
        self._offset += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()

    def members(self) -> Iterator[Member]:
        """From header to header. Raises Corrupt."""
        yield from self._known
        while (member := self._next_member()) is not None:
            self._known.append(member)
            yield member

    def _next_member(self) -> Member | None:
        last = self._known[-1] if self._known else Member(0, 0, 0, 0, 0, 0)
        at, offset = last.at + last.member_bytes, last.offset + last.content_bytes
        header = os.pread(self._fd, _HEADER_BYTES, at)
        if not header:
            return None
        fields = header[len(_FIXED) : -_CRC.size]
        if len(header) < _HEADER_BYTES or not header.startswith(_FIXED):
            raise self._damaged(at, offset, "there is no header of a member")
        if _CRC.pack(zlib.crc32(fields)) != header[-_CRC.size :]:
            raise self._damaged(at, offset, "checksum of a member's header")
        member = Member(at, offset, *_FIELDS.unpack(fields))
        if member.member_bytes <= _HEADER_BYTES or not 0 < member.content_bytes <= _CONTENT_BYTES_MAX:
            raise self._damaged(at, offset, "a member of an impossible size")
        return member

    def _unpack(self, member: Member) -> bytes:
        size = min(member.member_bytes, 2 * _CONTENT_BYTES_MAX)
        data = os.pread(self._fd, size, member.at)
        if len(data) < member.member_bytes:
            raise self._damaged(member.at, member.offset, "the end of a member is missing")
        if zlib.crc32(memoryview(data)[_HEADER_BYTES:]) != member.body_crc:
            raise self._damaged(member.at, member.offset, "checksum of a member")
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(data, member.content_bytes + 1)
        except zlib.error as error:
            raise self._damaged(member.at, member.offset, str(error)) from None
        if not unpacker.eof or unpacker.unused_data or len(content) != member.content_bytes:
            raise self._damaged(member.at, member.offset, "a member holds other than it says")
        return content

    def _damaged(self, at: int, offset: int, reason: str) -> Corrupt:
        return self._corrupt(offset, f"packed byte {at}: {reason}")
