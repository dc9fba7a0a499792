#!/usr/bin/env python3
"""From the done-files of a work directory: when did each table worker end its last part of the split table?

Prints each one as a share of the COPY phase, which lasts from the begin of the first part to the end of the last. Well
balanced parts keep every worker busy into the last tenth.
"""

import json
import pathlib
import sys


def parts(work_dir):
    for path in sorted((pathlib.Path(work_dir) / "run" / "tables").glob("*.done")):
        # A header with version and checksum, then the data: src/workdir/done.rs.
        _header, data = path.read_text(encoding="utf-8").splitlines()[:2]
        table = json.loads(data)
        if table.get("part"):
            yield table


def main():
    found = list(parts(sys.argv[1]))
    if not found:
        print(", no parts")
        return
    begin = min(part["finished_at_ms"] - part["duration_ms"] for part in found)
    end = max(part["finished_at_ms"] for part in found)
    last = {}
    for part in found:
        pid = part["worker_pid"]
        last[pid] = max(last.get(pid, 0), part["finished_at_ms"])
    shares = sorted((finished - begin) / max(end - begin, 1) for finished in last.values())
    shown = " ".join(f"{share:.2f}" for share in shares)
    verdict = "yes" if shares[0] >= 0.9 else "NO"
    print(f", {len(found)} parts, last ends {shown} of {(end - begin) / 1000:.2f} s (all in the last tenth: {verdict})")


if __name__ == "__main__":
    main()
