#!/usr/bin/env python3
"""Forward a Unix socket to another one, each byte SECONDS later than it came, in both directions.

slow-proxy.py SECONDS LISTEN_PATH SERVER_PATH

A delay line, not a brake: what comes together leaves together, so that only round trips get slower.
"""

import collections
import os
import select
import socket
import sys
import time

CHUNK_BYTES = 1 << 18
QUEUE_CHUNKS = 64


class Line:
    """One direction of a connection."""

    def __init__(self, source, sink):
        self.source, self.sink, self.queue, self.is_open = source, sink, collections.deque(), True

    def read(self, due):
        try:
            data = self.source.recv(CHUNK_BYTES)
        except OSError:
            data = b""
        self.is_open = bool(data)
        self.queue.append((due, data))

    def write(self, now):
        """Sends what is due; the return value says whether the connection goes on."""
        while self.queue and self.queue[0][0] <= now:
            due, data = self.queue.popleft()
            if not data:
                return False
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            if sent < len(data):
                self.queue.appendleft((due, data[sent:]))
                break
        return True


def main():
    delay, listen_path, server_path = float(sys.argv[1]), sys.argv[2], sys.argv[3]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(listen_path)
    os.chmod(listen_path, 0o777)
    listener.listen(100)
    lines = []
    while True:
        now = time.monotonic()
        for line in list(lines):
            if line in lines and not line.write(now):
                for end in (line.source, line.sink):
                    end.close()
                lines = [other for other in lines if other.source not in (line.source, line.sink)]
        readers = [line.source for line in lines if line.is_open and len(line.queue) < QUEUE_CHUNKS]
        blocked = [line.sink for line in lines if line.queue and line.queue[0][0] <= now]
        due = [line.queue[0][0] for line in lines if line.queue and line.queue[0][0] > now]
        timeout = max(0, min(due) - now) if due else None
        readable, _, _ = select.select([listener, *readers], blocked, [], timeout)
        for end in readable:
            if end is listener:
                client, server = listener.accept()[0], socket.socket(socket.AF_UNIX)
                server.connect(server_path)
                for one in (client, server):
                    one.setblocking(False)
                lines += [Line(client, server), Line(server, client)]
            else:
                due_at = time.monotonic() + delay
                next(line for line in lines if line.source is end).read(due_at)


if __name__ == "__main__":
    main()
