"""Binds ports as its argument says, and writes what became of each try to its standard output, one JSON object a line.

The argument is a JSON list of binds: protocol, address, port, reuse_port; and "storm" instead of holding what is bound.
A bind that fails is tried again. A line is written when the error number changes; of a storm, each second the counts.
"""
import json
import signal
import socket
import sys
import time

PAUSE_SECONDS = 0.2


def attempt(wanted):
    family = socket.AF_INET6 if ":" in wanted["address"] else socket.AF_INET
    kind = socket.SOCK_DGRAM if wanted["protocol"] == "udp" else socket.SOCK_STREAM
    held = socket.socket(family, kind)
    if kind == socket.SOCK_STREAM:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if wanted.get("reuse_port"):
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        held.bind((wanted["address"], wanted["port"]))
        if kind == socket.SOCK_STREAM:
            held.listen()
    except OSError as error:
        held.close()
        return error.errno, None
    return 0, held


def say(line):
    print(json.dumps(line), flush=True)


def storm(wanted):
    counts = {}
    said = time.monotonic()
    while True:
        errno, held = attempt(wanted)
        if held:
            held.close()
        counts[errno] = counts.get(errno, 0) + 1
        if time.monotonic() - said >= 1:
            said = time.monotonic()
            say({"storm": counts})


def hold(binds):
    open_sockets = {}
    last = {}
    while True:
        for number, wanted in enumerate(binds):
            if number in open_sockets:
                continue
            errno, held = attempt(wanted)
            if held:
                open_sockets[number] = held
            if last.get(number) != errno:
                last[number] = errno
                say({"protocol": wanted["protocol"], "port": wanted["port"], "errno": errno})
        time.sleep(PAUSE_SECONDS)


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
everything = json.loads(sys.argv[1])
if everything[0].get("storm"):
    storm(everything[0])
hold(everything)
