"""What a page in a real browser can do: ask and stream over Connect, and by OpenAI's API."""

import http.server
import json
import queue
import shutil
import subprocess
import threading

import psutil
import pytest

from programs import skip_or_fail

PAGE = """<!doctype html><title>rbee</title><script type="module">
const queen = "http://%s";
const kind = {"content-type": "application/json", "connect-protocol-version": "1"};
const seen = {};
try { await look(); } catch (error) { seen.error = String(error); }
await fetch("/seen", {method: "POST", body: JSON.stringify(seen)});

async function look() {
const hives = await fetch(`${queen}/rbee.v1.HiveService/List`, {method: "POST", headers: kind, body: "{}"});
seen.hives = (await hives.json()).hives.map(hive => hive.state);

const sampling = {maxTokens: 6, temperature: 0};
const ask = JSON.stringify({job: {model: "rbee-tiny", prompt: "What is a hive?", sampling}});
const body = new Uint8Array(5 + ask.length);
new DataView(body.buffer).setUint32(1, ask.length);
body.set(new TextEncoder().encode(ask), 5);
const streamed = await fetch(`${queen}/rbee.v1.InferenceService/Infer`, {
  method: "POST", headers: {...kind, "content-type": "application/connect+json"}, body});
let rest = new Uint8Array(0);
seen.text = "";
for (const reader = streamed.body.getReader();;) {
  const {done, value} = await reader.read();
  if (done) break;
  const bytes = new Uint8Array(rest.length + value.length);
  bytes.set(rest);
  bytes.set(value, rest.length);
  rest = bytes;
  while (rest.length >= 5) {
    const size = new DataView(rest.buffer, rest.byteOffset).getUint32(1);
    if (rest.length < 5 + size) break;
    const message = JSON.parse(new TextDecoder().decode(rest.subarray(5, 5 + size)));
    for (const event of message.events ?? []) seen.text += event.tokens?.text ?? "";
    rest = rest.subarray(5 + size);
  }
}
const chat = await fetch(`${queen}/v1/chat/completions`, {
  method: "POST", headers: {"content-type": "application/json", "x-request-id": "from-a-page"},
  body: JSON.stringify({model: "rbee-tiny", max_tokens: 6, messages: [{role: "user", content: "What is a hive?"}]})});
seen.chat = (await chat.json()).choices[0].message.content;
seen.id = chat.headers.get("x-request-id");
}
</script>"""


@pytest.fixture
def page(web):
    """The address of a page that asks the queen, and what it has seen."""
    seen = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write((PAGE % web.http).encode())

        def do_POST(self):
            seen.put(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/", seen
        server.shutdown()


@pytest.fixture
def browse(tmp_path):
    command = shutil.which("chromium") or shutil.which("google-chrome")
    if command is None:
        skip_or_fail("there is no chromium; install it with: apt-get install chromium")
    switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path}",
    ]
    running = []

    def browse(address):
        running.append(
            psutil.Popen([command, *switches, address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    yield browse
    for browser in running:
        whole = [*browser.children(recursive=True), browser]
        for one in whole:
            one.kill()
        psutil.wait_procs(whole)


def test_a_page_lists_streams_and_chats(page, browse):
    address, told = page
    browse(address)
    seen = told.get(timeout=60)
    assert "error" not in seen, seen
    assert seen["hives"] == ["HIVE_STATE_HEALTHY"]
    assert seen["text"]
    assert seen["chat"]
    assert seen["id"] == "from-a-page"
