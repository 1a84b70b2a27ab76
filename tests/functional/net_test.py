#!/usr/bin/env python3
"""Networks over sockets: -netdev socket, stream and dgram, with this test and with Debian's emulator at the other end.

usage: net_test.py QEMU-SYSTEM [TEST...]

A machine without cards whose hub joins two back ends hands frames from one to the other: the test is at both ends.
"""
import array
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import qmp  # noqa: E402
import tap  # noqa: E402

SYSTEM = os.path.abspath(sys.argv[1])
PEER = shutil.which("qemu-system-x86_64", path="/usr/bin:/usr/local/bin")
TIMEOUT = 60


class Machine(qmp.Program):
    def __init__(self, *options, program=SYSTEM, board="none", time_runs=False, **popen):
        accel = ["-accel", "qtest"] if program == SYSTEM and not time_runs else []
        super().__init__([program, "-M", board, "-display", "none", "-nodefaults", *accel, "-qmp", "stdio", *options],
                         stderr=subprocess.PIPE, **popen)


def hub(*netdevs):
    """Options that join the back ends, whose IDs are n0, n1, ..."""
    out = []
    for n, text in enumerate(netdevs):
        kind, _, rest = text.partition(",")
        out += ["-netdev", f"{kind},id=n{n}" + ("," + rest if rest else ""), "-netdev", f"hubport,id=p{n},hubid=0,netdev=n{n}"]
    return out


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stream:
    """A program's end of a stream."""
    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(TIMEOUT)
        self.file = sock.makefile("rb")

    def send(self, frame):
        self.sock.sendall(struct.pack(">I", len(frame)) + frame)

    def receive(self):
        head = self.file.read(4)
        assert len(head) == 4, "the stream ended"
        return self.file.read(struct.unpack(">I", head)[0])

    def close(self):
        self.file.close()
        self.sock.close()


class Datagrams:
    def __init__(self, own, to, family=socket.AF_INET):
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.bind(own)
        self.to = to

    def send(self, frame):
        self.sock.sendto(frame, self.to)

    def receive(self):
        return self.sock.recv(70000)

    def close(self):
        self.sock.close()


def dial(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    end = time.time() + TIMEOUT
    while True:
        s = socket.socket(family)
        try:
            s.connect(address)
            return Stream(s)
        except OSError:
            s.close()
            assert time.time() < end, f"nobody listens at {address}"
            time.sleep(0.05)


def listen(address):
    s = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(TIMEOUT)
    s.bind(address)
    s.listen()
    return s


def frame(seed, length):
    return random.Random(seed * 100003 + length).randbytes(length)


def exchange(a, b, lengths=(14, 60, 61, 1514, 9000, 40000)):
    """Frames of these lengths, one after the other, both ways."""
    for one, other in ((a, b), (b, a)):
        for n, length in enumerate(lengths):
            one.send(frame(n, length))
            assert other.receive() == frame(n, length), (n, length)


def until(condition):
    end = time.time() + TIMEOUT
    while not condition():
        assert time.time() < end
        time.sleep(0.02)


def info(m, text):
    return text in m.ok("human-monitor-command", command_line="info network")


def tcp(port):
    return f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}"


def test_streams_hand_frames_on():
    a, b = free_port(), free_port()
    with Machine(*hub(f"stream,server=on,{tcp(a)}", "stream,server=on,addr.type=unix,addr.path=s"), *()) as m:
        one, two = dial(("127.0.0.1", a)), dial("s")
        event = m.wait_event("NETDEV_STREAM_CONNECTED")
        assert event == {"netdev-id": "n0", "addr": {"type": "inet", "host": "127.0.0.1", "port": event["addr"]["port"], "ipv4": True}}
        assert event["addr"]["port"] == str(one.sock.getsockname()[1])
        assert m.wait_event("NETDEV_STREAM_CONNECTED") == {"netdev-id": "n1", "addr": {"type": "unix", "path": "s"}}
        assert info(m, "unix:s")
        exchange(one, two)
        # Pieces of messages, several messages at once.
        text = b"".join(struct.pack(">I", n) + frame(n, n) for n in (14, 2000, 64))
        for at in range(0, len(text), 777):
            one.sock.sendall(text[at:at + 777])
            time.sleep(0.01)
        for n in (14, 2000, 64):
            assert two.receive() == frame(n, n)
        # One connection at a time; the next comes when it is gone.
        one.close()
        assert m.wait_event("NETDEV_STREAM_DISCONNECTED") == {"netdev-id": "n0"}
        one = dial(("127.0.0.1", a))
        m.wait_event("NETDEV_STREAM_CONNECTED")
        exchange(one, two)
        # A length that no frame has ends the connection.
        one.sock.sendall(b"\xff" * 100)
        assert one.sock.recv(1) == b""
        m.wait_event("NETDEV_STREAM_DISCONNECTED")
        m.quit()
    assert not os.path.exists("s")


def test_streams_to_a_server_and_reconnect():
    port = free_port()
    with listen(("127.0.0.1", port)) as server, listen("s") as unix:
        with Machine(*hub(f"socket,connect=127.0.0.1:{port}", "stream,reconnect=1,addr.type=unix,addr.path=s")) as m:
            one, two = Stream(server.accept()[0]), Stream(unix.accept()[0])
            until(lambda: info(m, f"socket: connect to 127.0.0.1:{port}"))
            exchange(one, two)
            for _ in range(2):
                two.close()
                m.wait_event("NETDEV_STREAM_DISCONNECTED")
                two = Stream(unix.accept()[0])
                m.wait_event("NETDEV_STREAM_CONNECTED")
                exchange(one, two)
    with Machine(*hub("stream,reconnect=1,addr.type=unix,addr.path=late", "socket,listen=127.0.0.1:%d" % port)) as m:
        assert info(m, "connection error")
        with listen("late") as late:
            two, one = Stream(late.accept()[0]), dial(("127.0.0.1", port))
            until(lambda: info(m, "socket: connection from 127.0.0.1"))
            exchange(one, two)


def test_a_slow_reader_holds_the_sender_up():
    """What the other end does not read stays in the sender's hands up to a bound, and whole frames arrive."""
    with Machine(*hub("stream,server=on,addr.type=unix,addr.path=a", "stream,server=on,addr.type=unix,addr.path=b")) as m:
        one, two = dial("a"), dial("b")
        for n in range(400):
            one.send(frame(n, 1514))
        m.ok("query-status")
        last, got = -1, 0
        two.sock.settimeout(2)
        try:
            while True:
                what = two.receive()
                n = next(n for n in range(last + 1, 400) if frame(n, 1514) == what)
                last, got = n, got + 1
                if got == 400:
                    break
        except (TimeoutError, socket.timeout):
            pass
        assert got == 400, got


def test_datagrams():
    a, b, c, d = (free_port(socket.SOCK_DGRAM) for _ in range(4))
    netdevs = (f"dgram,local.type=inet,local.host=127.0.0.1,local.port={a},remote.type=inet,remote.host=127.0.0.1,remote.port={b}",
               f"socket,udp=127.0.0.1:{c},localaddr=127.0.0.1:{d}", "dgram,local.type=unix,local.path=mine,remote.type=unix,remote.path=yours")
    yours = Datagrams("yours", "mine", socket.AF_UNIX)
    one, two = Datagrams(("127.0.0.1", b), ("127.0.0.1", a)), Datagrams(("127.0.0.1", c), ("127.0.0.1", d))
    with Machine(*hub(*netdevs)) as m:
        assert info(m, f"udp=127.0.0.1:{a}/127.0.0.1:{b}") and info(m, f"socket: udp=127.0.0.1:{c}") and info(m, "udp=mine:yours")
        # A unix socket's queue has room for ten datagrams.
        exchange(one, two, (14, 60, 1514, 40000))
        for _ in range(8):
            yours.receive()
        exchange(one, yours, (14, 60, 1514, 40000))
        m.quit()
    assert not os.path.exists("mine") and os.path.exists("yours")
    for end in (one, two, yours):
        end.close()


def test_a_multicast_group():
    port = free_port(socket.SOCK_DGRAM)
    group = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    group.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    group.bind(("230.0.0.1", port))
    here = socket.inet_aton("127.0.0.1")
    try:
        group.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("230.0.0.1") + here)
        group.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
    except OSError as e:
        raise tap.Skip(f"no multicast here: {e}") from e
    group.settimeout(TIMEOUT)
    kinds = (f"socket,mcast=230.0.0.1:{port},localaddr=127.0.0.1",
             f"dgram,remote.type=inet,remote.host=230.0.0.1,remote.port={port},local.type=inet,local.host=127.0.0.1,local.port=0")
    for kind in kinds:
        with Machine(*hub(kind, "stream,server=on,addr.type=unix,addr.path=s")) as m:
            assert info(m, f"mcast=230.0.0.1:{port}")
            one = dial("s")
            m.wait_event("NETDEV_STREAM_CONNECTED")
            one.send(frame(1, 100))
            assert group.recv(2000) == frame(1, 100)
            assert one.receive() == frame(1, 100)  # a member hears itself
            group.sendto(frame(2, 100), ("230.0.0.1", port))
            assert one.receive() == frame(2, 100)
            group.recv(2000)
            one.close()
    group.close()


def test_inherited_and_sent_descriptors():
    pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)]
    fds = [theirs.fileno() for _, theirs in pairs]
    listener = listen(("127.0.0.1", 0))
    netdevs = hub(f"socket,fd={fds[0]}", f"dgram,local.type=fd,local.str={fds[1]}", f"stream,addr.type=fd,addr.str={fds[2]}",
                  f"stream,server=on,addr.type=fd,addr.str={listener.fileno()}")
    with Machine(*netdevs, "-chardev", "socket,id=c,path=qmp,server=on,wait=off", "-mon", "chardev=c,mode=control",
                 pass_fds=[*fds, listener.fileno()]) as m:
        one, three = Stream(pairs[0][0]), Stream(pairs[2][0])
        exchange(one, three, (14, 60, 1514, 40000))
        pairs[1][0].settimeout(TIMEOUT)
        for _ in range(8):
            pairs[1][0].recv(70000)
        four = dial(listener.getsockname())
        m.wait_event("NETDEV_STREAM_CONNECTED")
        until(lambda: m.command("human-monitor-command", command_line="info network")["return"].count("fd:") == 2)
        pairs[1][0].send(frame(1, 99))
        assert one.receive() == three.receive() == four.receive() == frame(1, 99)
        # A descriptor that comes with getfd serves a back end that is added later.
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect("qmp")
            monitor.settimeout(TIMEOUT)
            lines = monitor.makefile("r")
            assert "QMP" in lines.readline()
            for text in ('{"execute": "qmp_capabilities"}', '{"execute": "getfd", "arguments": {"fdname": "wire"}}'):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))] if "getfd" in text else []
                monitor.sendmsg([text.encode()], rights)
                assert "return" in lines.readline()
        theirs.close()
        m.ok("netdev_add", type="stream", id="late", addr={"type": "fd", "str": "wire"})
        m.ok("netdev_add", type="hubport", id="plate", hubid=0, netdev="late")
        exchange(Stream(mine), four)
        m.fails("no file descriptor named 'wire'", "netdev_add", type="stream", id="x", addr={"type": "fd", "str": "wire"})
        m.ok("netdev_del", id="late")
        assert mine.recv(1) == b""


def test_refused():
    def fails(text, netdev):
        done = subprocess.run([SYSTEM, "-M", "none", "-display", "none", "-netdev", netdev], capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 1 and text in done.stderr and done.stderr.startswith("qemu-system-"), (netdev, done)

    listener = listen(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    fails("give one of", "socket,id=a")
    fails("give one of", "socket,id=a,listen=:1,connect=:2")
    fails("needs localaddr=", "socket,id=a,udp=127.0.0.1:9")
    fails("localaddr= is for", "socket,id=a,listen=:9,localaddr=1.2.3.4")
    fails("HOST:PORT is wanted", "socket,id=a,listen=nope")
    fails("not the address of a multicast group", "socket,id=a,mcast=127.0.0.1:9")
    fails("no file descriptor named 'x'", "socket,id=a,fd=x")
    fails("not an open file descriptor", "socket,id=a,fd=99")
    fails("is no socket", "socket,id=a,fd=0")
    fails("Failed to listen", f"socket,id=a,listen=127.0.0.1:{port}")
    fails("did you mean 'listen'", "socket,id=a,lisen=:1")
    fails("'addr' is missing", "stream,id=a")
    fails("'addr.type' is missing", "stream,id=a,addr.path=x")
    fails("the types are inet, unix and fd", "stream,id=a,addr.type=vsock")
    fails("'addr.port' is missing", "stream,id=a,addr.type=inet,addr.host=h")
    fails("no numeric address", f"stream,id=a,addr.type=inet,addr.host=localhost,addr.port={port},addr.numeric=on")
    fails("multipath TCP", f"stream,id=a,{tcp(port)},addr.mptcp=on")
    fails("reconnect= is for clients", f"stream,id=a,server=on,reconnect=1,{tcp(port)}")
    fails("addr.nonsense", f"stream,id=a,{tcp(port)},addr.nonsense=1")
    fails("local= and remote= are missing", "dgram,id=a")
    fails("local= is missing", "dgram,id=a,remote.type=unix,remote.path=x")
    fails("remote= is missing", "dgram,id=a,local.type=unix,local.path=x")
    fails("must be of the same type", "dgram,id=a,local.type=unix,local.path=x,remote.type=inet,remote.host=127.0.0.1,remote.port=9")
    assert not os.path.exists("x")
    with open("x", "w"):
        pass
    fails("cannot bind to 'x'", "dgram,id=a,local.type=unix,local.path=x,remote.type=unix,remote.path=y")
    assert os.path.exists("x")  # it was no socket


def test_with_the_other_emulator():
    """test - ours - Debian's - test over every kind of link, each of the two as server and as client."""
    if not PEER:
        raise tap.Skip("qemu-system-x86 is not installed")
    udp = [free_port(socket.SOCK_DGRAM) for _ in range(2)]
    port = free_port()
    links = [("stream,server=on,addr.type=unix,addr.path=link", "stream,addr.type=unix,addr.path=link"),
             (f"socket,listen=127.0.0.1:{port}", f"socket,connect=127.0.0.1:{port}"),
             (f"socket,listen=127.0.0.1:{port}", f"stream,{tcp(port)}")]
    links += [(f"dgram,local.type=inet,local.host=127.0.0.1,local.port={udp[i]},remote.type=inet,remote.host=127.0.0.1,remote.port={udp[1 - i]}",
               f"socket,localaddr=127.0.0.1:{udp[1 - i]},udp=127.0.0.1:{udp[i]}") for i in (0, 1)]
    for first, second in links:
        for programs in ((SYSTEM, PEER), (PEER, SYSTEM)):
            for name in ("link", "a", "b"):
                if os.path.exists(name):
                    os.unlink(name)
            with Machine(*hub(first, "stream,server=on,addr.type=unix,addr.path=a"), program=programs[0]):
                with Machine(*hub(second, "stream,server=on,addr.type=unix,addr.path=b"), program=programs[1]):
                    one, two = dial("a"), dial("b")
                    time.sleep(0.3)
                    exchange(one, two, (14, 60, 1514, 4000))
                    one.close()
                    two.close()


def test_announcements():
    """Cards announce themselves by RARP when they are asked to, at a pace that slows down."""
    with Machine("-netdev", "stream,id=n,server=on,addr.type=unix,addr.path=s", "-device", "e1000,netdev=n,mac=52:54:00:11:22:33,id=card",
                 "-netdev", "hubport,id=h,hubid=1", "-device", "virtio-net-pci,netdev=h,id=other", board="pc") as m:
        wire = dial("s")
        m.wait_event("NETDEV_STREAM_CONNECTED")
        start = time.time()
        m.ok("announce-self", initial=50, max=100, rounds=4, step=50)
        mac = bytes.fromhex("525400112233")
        for _ in range(4):
            assert wire.receive() == b"\xff" * 6 + mac + bytes.fromhex("8035000108000604") + b"\0\3" + mac + bytes(4) + mac + bytes(22)
        assert time.time() - start > 0.2
        m.ok("announce-self", initial=50, max=50, rounds=1000, step=0, id="a", interfaces=["card"])
        m.ok("announce-self", initial=50, max=50, rounds=1000, step=0, id="b", interfaces=["other"])
        wire.receive()
        m.ok("announce-self", initial=0, max=0, rounds=0, step=0, id="a")
        wire.sock.settimeout(0.5)
        try:
            while wire.receive():
                pass
        except (TimeoutError, socket.timeout):
            pass
        m.fails("is not within", "announce-self", initial=-1, max=1, rounds=1, step=1)
        m.fails("is not within", "announce-self", initial=1, max=1, rounds=100000, step=1)
        m.quit()


def captured(path):
    """The frames of a libpcap file: length on the wire, bytes kept."""
    with open(path, "rb") as f:
        magic, major, minor, _, _, snap, link = struct.unpack("<IHHiIII", f.read(24))
        assert (magic, major, minor, link) == (0xa1b2c3d4, 2, 4, 1)
        out = []
        while head := f.read(16):
            seconds, micros, kept, length = struct.unpack("<IIII", head)
            assert abs(seconds - time.time()) < 600 and micros < 1000000 and kept == min(length, snap)
            out.append((length, f.read(kept)))
    return out


def test_filters():
    options = hub("stream,server=on,addr.type=unix,addr.path=a", "stream,server=on,addr.type=unix,addr.path=b")
    dumps = [x for kind in ("rx", "tx", "all") for x in ("-object", f"filter-dump,id=d{kind},netdev=n0,queue={kind},file={kind},maxlen=100")]
    with Machine("-object", "filter-mirror,id=m,netdev=n0,queue=tx,outdev=copy", *dumps, *options,
                 "-chardev", "socket,id=copy,path=copy,server=on,wait=off", time_runs=True) as m:
        one, two, copy = dial("a"), dial("b"), dial("copy")
        for _ in range(2):
            m.wait_event("NETDEV_STREAM_CONNECTED")
        exchange(one, two, (60, 1514))
        assert [copy.receive() for _ in range(2)] == [frame(0, 60), frame(1, 1514)]
        # Switched off, it is not there.
        m.ok("qom-set", path="/objects/m", property="status", value="off")
        one.send(frame(7, 70))
        assert two.receive() == frame(7, 70)
        m.ok("qom-set", path="/objects/m", property="status", value="on")
        one.send(frame(8, 80))
        assert copy.receive() == frame(8, 80) and two.receive() == frame(8, 80)
        m.ok("object-del", id="m")
        for name in ("drx", "dtx", "dall"):
            m.ok("object-del", id=name)
        sent = [(60, frame(0, 60)), (1514, frame(1, 1514)[:100])]
        rest = [(70, frame(7, 70)), (80, frame(8, 80))]
        assert captured("tx") == sent + rest and captured("rx") == sent and captured("all") == sent + sent + rest
        tshark = shutil.which("tshark") or shutil.which("tcpdump")
        if tshark:
            subprocess.run([tshark, "-r", "all"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Held back for an interval, in order; released when the filter goes.
        m.ok("object-add", qom_type="filter-buffer", id="late", netdev="n0", queue="tx", interval=300000)
        start = time.time()
        for n in range(3):
            one.send(frame(n, 64))
        for n in range(3):
            assert two.receive() == frame(n, 64)
        m.ok("object-del", id="late")
        m.ok("object-add", qom_type="filter-buffer", id="late", netdev="n0", interval=4000000000)
        one.send(frame(9, 90))
        m.ok("object-del", id="late")
        two.receive()
        assert time.time() - start < 60
        m.fails("there is no netdev 'x'", "object-add", qom_type="filter-buffer", id="f", netdev="x", interval=1)
        m.fails("interval= is missing", "object-add", qom_type="filter-buffer", id="f", netdev="n0")
        m.fails("there is no chardev 'x'", "object-add", qom_type="filter-mirror", id="f", netdev="n0", outdev="x")
        m.fails("no such filter", "object-add", qom_type="filter-dump", id="f", netdev="n0", position="id=x", file="all")
        # They go with their back end.
        m.ok("object-add", qom_type="filter-dump", id="f", netdev="n0", file="all", position="head")
        m.ok("netdev_del", id="n0")
        m.fails("not found", "object-del", id="f")


def test_a_redirector():
    """Frames leave through one chardev and come back, changed, through another."""
    options = hub("stream,server=on,addr.type=unix,addr.path=a", "stream,server=on,addr.type=unix,addr.path=b")
    for header in (False, True):
        flag = ",vnet_hdr_support=on" if header else ""
        with Machine("-object", "filter-redirector,id=r,netdev=n0,queue=tx,outdev=out,indev=in" + flag, *options,
                     "-chardev", "socket,id=out,path=out,server=on,wait=off", "-chardev", "socket,id=in,path=in,server=on,wait=off") as m:
            one, two, out, back = dial("a"), dial("b"), dial("out"), dial("in")
            for _ in range(2):
                m.wait_event("NETDEV_STREAM_CONNECTED")
            one.send(frame(1, 500))
            head = out.file.read(8 if header else 4)
            assert head == struct.pack(">I", 500) + (bytes(4) if header else b"") and out.file.read(500) == frame(1, 500)
            for length in (60, 1514, 20000):
                text = struct.pack(">I", length) + (bytes(4) if header else b"") + frame(2, length)
                for at in range(0, len(text), 7000):
                    back.sock.sendall(text[at:at + 7000])
                assert two.receive() == frame(2, length)
            two.send(frame(3, 60))
            assert one.receive() == frame(3, 60)  # the other way is free
            back.sock.sendall(b"\xff" * 50)
            assert back.sock.recv(1) == b""


tap.run(tap.tests_in(globals()), names=sys.argv[2:], call=tap.in_scratch)
