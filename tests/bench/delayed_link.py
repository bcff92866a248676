#!/usr/bin/env python3
"""A slow and distant link between two network namespaces, for kernels that have no netem: a TUN device in each, and this process, which
hands each packet over when it is due. Needs root.

  delayed_link.py NAMESPACE_A NAMESPACE_B MBIT_PER_S DELAY_MS    until it is killed; prints 'ready' when packets flow

The devices are blink0 (10.78.0.1) and blink1 (10.78.0.2). Packets are large (MTU 65000), so that Python keeps up with some Gbit/s.
"""
import collections
import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000  # linux/if_tun.h, linux/sched.h
MTU = 65000
QUEUE_S = 0.1  # of a full queue, in front of the delay


def open_device(namespace, i):
    with open(f"/run/netns/{namespace}", encoding="ascii") as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET) != 0:
            sys.exit(f"delayed_link: error: cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)  # belongs to the namespace entered
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", f"blink{i}".encode(), IFF_TUN | IFF_NO_PI))
    for words in (["addr", "add", f"10.78.0.{i + 1}", "peer", f"10.78.0.{2 - i}", "dev", f"blink{i}"],
                  ["link", "set", f"blink{i}", "mtu", str(MTU), "txqueuelen", "1000", "up"]):
        subprocess.run(["ip", *words], check=True)
    return device


class Direction:
    def __init__(self, source, target, bytes_per_s, delay_s):
        self.source, self.target, self.bytes_per_s, self.delay_s = source, target, bytes_per_s, delay_s
        self.free_at = 0.0  # when the last packet has left
        self.under_way = collections.deque()  # (when it arrives, packet)

    def accepts(self, now):
        return self.free_at < now + QUEUE_S

    def take(self, now):
        packet = os.read(self.source, MTU + 64)
        self.free_at = max(self.free_at, now) + len(packet) / self.bytes_per_s
        self.under_way.append((self.free_at + self.delay_s, packet))

    def deliver(self, now):
        while self.under_way and self.under_way[0][0] <= now:
            os.write(self.target, self.under_way.popleft()[1])


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    bytes_per_s, delay_s = float(sys.argv[3]) * 1e6 / 8, float(sys.argv[4]) / 1e3
    a, b = (open_device(sys.argv[1 + i], i) for i in (0, 1))
    ways = [Direction(a, b, bytes_per_s, delay_s), Direction(b, a, bytes_per_s, delay_s)]
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        due = [way.under_way[0][0] for way in ways if way.under_way]
        full = [way.free_at - QUEUE_S for way in ways if not way.accepts(now)]
        open_ways = {way.source: way for way in ways if way.accepts(now)}
        wait = max(0.0, min(due + full) - now) if due or full else None
        readable, _, _ = select.select(list(open_ways), [], [], wait)
        now = time.monotonic()
        for source in readable:
            open_ways[source].take(now)
        for way in ways:
            way.deliver(now)


if __name__ == "__main__":
    main()
