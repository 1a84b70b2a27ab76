"""A program that a test starts and talks to by QMP over its standard input and output.

    with qmp.Program([SYSTEM, "-M", "none", "-qmp", "stdio"]) as machine:
        machine.ok("query-status")
        machine.fails("not found", "block-export-del", id="e")
        machine.wait_event("STOP")
        machine.quit()

Underscores in names of arguments stand for hyphens. `events` has what came and was not waited for, as the program sent it;
`text` what it printed besides (qemu-io commands of the monitor do)."""
import atexit
import json
import subprocess


class Program:
    def __init__(self, argv, **popen):
        self.events, self.text = [], ""
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **popen)
        atexit.register(self.end)  # a test that failed leaves none behind, which would keep our own output open
        try:
            assert "QMP" in self.read()
            self.ok("qmp_capabilities")
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Kills it, if it still runs."""
        atexit.unregister(self.end)
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass

    def read(self):
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            self.text += line
            line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}"
                             + (f": {self.process.stderr.read()}" if self.process.stderr else ""))
        return json.loads(line)

    def command(self, execute, **arguments):
        """The answer, {"return": ...} or {"error": ...}."""
        arguments = {k.replace("_", "-"): v for k, v in arguments.items()}
        self.process.stdin.write(json.dumps({"execute": execute, "arguments": arguments}) + "\n")
        self.process.stdin.flush()
        while True:
            answer = self.read()
            if "event" not in answer:
                return answer
            self.events.append(answer)

    def ok(self, execute, **arguments):
        answer = self.command(execute, **arguments)
        assert "return" in answer, (execute, arguments, answer)
        return answer["return"]

    def fails(self, text, execute, **arguments):
        answer = self.command(execute, **arguments)
        assert "error" in answer and text in answer["error"]["desc"], (execute, arguments, answer)

    def seen(self, name):
        """The data of all events of that name so far."""
        return [e.get("data") for e in self.events if e["event"] == name]

    def wait_event(self, name, **data):
        """The data of the next event of that name that has these members; it is taken out of `events`."""
        while True:
            for e in self.events:
                if e["event"] == name and all(e.get("data", {}).get(k.replace("_", "-")) == v for k, v in data.items()):
                    self.events.remove(e)
                    return e.get("data")
            answer = self.read()
            assert "event" in answer, answer
            self.events.append(answer)

    def quit(self, timeout=120):
        self.ok("quit")
        assert self.process.wait(timeout) == 0
