#!/usr/bin/env python3
"""Run a command; print one JSON line about it on the file given first.

measure.py OUT [--pss EXE] -- COMMAND ..

seconds: wall clock; cpu_seconds: of the command and of every descendant that was waited for. With --pss the memory of
each process of the command that runs EXE is sampled: peak_pss_mb is the largest of any single one, peak_total_pss_mb the
largest sum, peak_pss_mb_each the largest by process title. Sampling costs time (the kernel walks page tables), so it stays off where seconds are compared.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time

SAMPLE_EVERY_SECONDS = 0.05


def pss_kb(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup:
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def title_of(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
        words = cmdline.read().decode(errors="replace").split("\0")
    # The parent is shown with its arguments.
    return words[0] if words[0].startswith("pgcopydb: ") else " ".join([os.path.basename(words[0]), *words[1:2]])


def processes_of(session, exe):
    """Our processes share the session that the command was started in."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as stat:
                # Field 6, counted after the command's name, which may hold spaces.
                found = int(stat.read().rpartition(")")[2].split()[3])
            if found == session and os.path.realpath(f"/proc/{name}/exe") == exe:
                yield int(name)
        except (OSError, ValueError, IndexError):
            continue  # it has just ended


def sample(session, exe, stop, peak):
    while not stop.wait(SAMPLE_EVERY_SECONDS):
        total = 0
        for pid in processes_of(session, exe):
            try:
                used, title = pss_kb(pid), title_of(pid)
            except OSError:
                continue
            peak["each"][title] = max(peak["each"].get(title, 0), used)
            peak["one"] = max(peak["one"], used)
            total += used
        peak["all"] = max(peak["all"], total)


def main():
    out, *rest = sys.argv[1:]
    exe = None
    if rest[0] == "--pss":
        exe = os.path.realpath(rest[1])
        rest = rest[2:]
    command = rest[1:]

    # The command has a session of its own, so a signal for us must be handed on.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    child = subprocess.Popen(command, start_new_session=True)
    stop, peak = threading.Event(), {"one": 0, "all": 0, "each": {}}
    sampler = None
    if exe:
        sampler = threading.Thread(target=sample, args=(child.pid, exe, stop, peak))
        sampler.start()
    try:
        code = child.wait()
    except KeyboardInterrupt:
        child.terminate()
        code = child.wait()
    seconds = time.monotonic() - started
    stop.set()
    if sampler:
        sampler.join()

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {"seconds": round(seconds, 3), "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3)}
    if exe:
        result["peak_pss_mb"] = round(peak["one"] / 1024, 1)
        result["peak_total_pss_mb"] = round(peak["all"] / 1024, 1)
        result["peak_pss_mb_each"] = {title: round(used / 1024, 1) for title, used in peak["each"].items()}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(result, file)
        file.write("\n")
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
