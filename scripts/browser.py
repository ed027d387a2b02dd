"""Headless Chromium over its debugging pipe: open a page at a width and theme, measure it, take its picture.

Needs Debian's `chromium` (or what `HEADSTART_CHROMIUM` names) and the standard library. Every request that a page makes
is recorded, and none but to files and, if it is asked for, this machine is let out.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = os.environ.get("HEADSTART_CHROMIUM") or shutil.which("chromium")


class Browser:
    """One Chromium with one tab."""

    def __init__(self, loopback=False):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reads, self.writer = os.pipe()  # commands: Chromium reads them as 3
        self.reader, writes = os.pipe()  # answers: Chromium writes them as 4
        # Through a shell, since only it gives descriptors these numbers.
        hosts = "MAP * ~NOTFOUND" + (", EXCLUDE 127.0.0.1" if loopback else "")
        flags = (
            "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run "
            "--disable-extensions --disable-component-update --disable-background-networking --disable-sync "
            f"--host-resolver-rules='{hosts}' --remote-debugging-pipe"
        )
        command = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{reads} 4>&{writes}'
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", command, CHROMIUM, self.profile.name],
            pass_fds=[reads, writes], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self.rest = b""
        self.count = 0
        self.session = None
        self.requests = []
        self.events = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ["Page", "Network", "Runtime", "Log"]:
            self.call(f"{domain}.enable")

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.writer)
        os.close(self.reader)
        self.profile.cleanup()

    def receive(self):
        """The next message."""
        while b"\0" not in self.rest:
            more = os.read(self.reader, 1 << 20)
            if not more:
                raise AssertionError("chromium has ended")
            self.rest += more
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def event(self, message):
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        if message.get("method") == "Page.javascriptDialogOpening":  # it would block the page; nobody waits for this
            self.send({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
        self.events.append(message)

    def send(self, command):
        if self.session:
            command["sessionId"] = self.session
        os.write(self.writer, json.dumps(command).encode() + b"\0")

    def call(self, method, **params):
        """Does `method` of the DevTools protocol and returns its answer."""
        self.count += 1
        self.send({"id": self.count, "method": method, "params": params})
        while True:
            message = self.receive()
            if message.get("id") == self.count:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                return message["result"]
            self.event(message)

    def open(self, place, width, dark=False, script=True):
        """Loads a file or an address at a width in CSS pixels; the requests that it made are then in `requests`."""
        self.requests, self.events = [], []
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=place if isinstance(place, str) else place.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.event(self.receive())

    def evaluate(self, expression):
        """The value of a JavaScript expression, from outside the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression):
        """The value of an expression once it is true."""
        while not (value := self.evaluate(expression)):
            time.sleep(0.05)
        return value

    def choose(self, selector, path):
        """Chooses a file as a user would in a file dialogue."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def press(self, key):
        """Presses a key that is called so."""
        for kind in ["rawKeyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def picture(self, path):
        """Writes a PNG of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def pdf(self):
        """The page as it prints, in bytes."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])
