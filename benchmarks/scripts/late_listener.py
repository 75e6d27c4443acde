"""Listens after a while, and tells whoever connects when that was."""

import socket
import struct
import sys
import time


def main(port: str, delay: str) -> None:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", int(port)))
        time.sleep(float(delay))
        # The clock is that of the machine, so the browser can subtract.
        began = time.monotonic()
        listener.listen()
        said = struct.pack("d", began)
        served = []
        while True:
            # wait_for_port looks in first; it is told the same and leaves.
            served.append(listener.accept()[0])
            served[-1].sendall(said)


if __name__ == "__main__":
    main(*sys.argv[1:])
