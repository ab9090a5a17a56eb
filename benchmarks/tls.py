"""TLS in front of a local server: the wheels' servers are built without it. A process of its own, as the server is one.

`python -m tiered_cache.benchmarks.tls PORT CERTIFICATE` passes on to PORT, and prints the port that it listens at.
"""

import asyncio
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from tiered_cache.benchmarks.harness import Skipped

HOST = "127.0.0.1"


class TLSFront:
    """A context manager; `url` is where it listens. Raises Skipped where there is no openssl to make a certificate."""

    def __init__(self, port):
        self.port = port

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory()
        certificate = Path(self._directory.name, "localhost.pem")
        make_certificate(certificate)
        command = [sys.executable, "-m", __name__, str(self.port), str(certificate)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, start_new_session=True, **pipes)  # Ctrl-C is for the parent alone
        self.url = f"rediss://{HOST}:{int(self._process.stdout.readline())}/0?ssl_ca_certs={certificate}"
        return self

    def __exit__(self, *error):
        self._process.communicate()  # it ends with its input
        self._directory.cleanup()


def make_certificate(path):
    openssl = shutil.which("openssl")
    if openssl is None:
        raise Skipped("the command openssl, which makes the certificate, is not installed")
    kind = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    named = ["-addext", f"subjectAltName=IP:{HOST}", "-keyout", path, "-out", path.with_suffix(".crt")]
    subprocess.run([openssl, "req", "-x509", *kind, *named], check=True, capture_output=True)
    path.write_bytes(path.with_suffix(".crt").read_bytes() + path.read_bytes())


async def serve(port, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pass_on(reader, writer):
        their_reader, their_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(copy(reader, their_writer), copy(their_reader, writer))

    server = await asyncio.start_server(pass_on, HOST, 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    os._exit(0)  # connections that are still open are nobody's any more


async def copy(reader, writer):
    while piece := await reader.read(65_536):
        writer.write(piece)
        await writer.drain()
    writer.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2]))
