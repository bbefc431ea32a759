"""What trackers have written on this machine: TensorBoard's event files, and the file of an offline run of W&B."""

import json
import struct
from pathlib import Path
from typing import Any


def tensorboard_scalars(folder: Path) -> dict[int, dict[str, float]]:
    """Scalars by step and name."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[int, dict[str, float]] = {}
    for path in sorted(folder.rglob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            # Length, its checksum, the record, its checksum
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def wandb_rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the history, each a dictionary by name; values are what their JSON says."""
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for path in sorted(folder.rglob("run-*.wandb")):
        for record in map(Record.FromString, _records(path.read_bytes())):
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items})
    return rows


def _records(data: bytes) -> list[bytes]:
    """Records of LevelDB's log: blocks of 32 KiB, in which records or their parts have 7 bytes before them."""
    records, part, at, block = [], b"", 7, 32768
    while at + 7 <= len(data):
        if block - at % block < 7:
            at += block - at % block
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        part += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(part)
            part = b""
    return records
