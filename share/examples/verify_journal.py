#!/usr/bin/env python3
"""Checks a session's journal, checkpoints and blobs: verify_journal.py STATE_ROOT/sessions/NAME

An independent reading of state-format.md, with the standard library only. It writes nothing; exit status 1 where
something is wrong. `kheish sessions verify` checks the same, and compares checkpoints with the fold of the journal.
"""

import gzip
import json
import sys
import zlib
from hashlib import blake2b, sha256
from pathlib import Path


def expect(holds, what):
    if not holds:
        raise ValueError(what)


def unseal(line):
    """The JSON object of a sealed line, once its checksum holds."""
    body, seal = line[:-27] + b"}", line[-27:]
    expect(seal[:8] == b',"sum":"' and seal[24:] == b'"}\n', "not a whole line")
    expect(seal[8:24] == blake2b(body, digest_size=8).hexdigest().encode(), "checksum")
    return json.loads(line)


def opened(path):
    """The bytes of a segment, plain or packed."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def verify(directory):
    """The number of records. Raises ValueError with file and line of the first fault."""
    paths = {path.name[:20]: path for path in sorted(directory.glob("journal-*.jsonl*"), reverse=True)}
    paths = sorted(paths.values())  # where a segment is there twice the plain one counts
    expect(paths, f"{directory} has no journal")
    seq, gen, segment, chain, sums, place, headers = 0, 0, 0, "0" * 16, {}, "", []
    try:
        for path in paths:
            place = f"{path}, line 1"
            headers.append(unseal(opened(path).readline()))
        for path, header, following in zip(paths, headers, [*headers[1:], {}], strict=True):
            place, replaces = f"{path}, line 1", header.get("replaces_tail", False)
            expect(header["session"] == directory.name, f"segment of another session: {header['session']}")
            expect(header["first_seq"] == int(path.name[8:20]) == seq + 1, "a segment is missing before this one")
            expect(header["segment"] == segment + (not replaces), "a segment is missing before this one")
            expect(header["chain"] == chain, "chain: this segment does not follow the one before it")
            segment, chain = header["segment"], chain if replaces else header["sum"]
            stop_seq = following["first_seq"] if following.get("replaces_tail") else None
            for number, line in enumerate(opened(path), 1):
                if number == 1 or seq + 1 == stop_seq:
                    continue
                place = f"{path}, line {number}"
                record = unseal(line)
                expect(record["seq"] == seq + 1, f"seq {record['seq']} where {seq + 1} belongs")
                expect(record["prev"] == chain, "chain: this record does not follow the one before it")
                expect(record["gen"] >= gen, f"fork: generation {record['gen']} after {gen}")
                seq, gen, chain = record["seq"], record["gen"], record["sum"]
                sums[seq] = chain
                for holder in [h for e in record["events"] for h in (e, *e.get("attachments", ()))]:
                    if sha := holder.get("blob"):
                        stored = (directory.parent.parent / "blobs" / sha[:2] / sha).read_bytes()
                        expect(sha256(stored).hexdigest() == sha, f"blob {sha} has other bytes")
        for path in directory.glob("checkpoint-*.json"):
            place, checkpoint = str(path), unseal(path.read_bytes())
            expect(checkpoint["chain"] == sums.get(checkpoint["seq"]), "the checkpoint stands on no record")
        expect(paths[-1].suffix != ".gz", "the segment after this one is missing")
    except (KeyError, ValueError, OSError, EOFError, zlib.error) as fault:
        raise ValueError(f"{place}: {fault}") from fault
    return seq


if __name__ == "__main__":
    try:
        print(f"ok, {verify(Path(sys.argv[1]).resolve())} records")
    except ValueError as fault:
        sys.exit(f"FAULT {fault}")
